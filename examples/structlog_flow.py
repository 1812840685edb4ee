"""A flow whose log lines have the ids of their run, trace and span.

Only two calls are flowspan's. Every line from structlog, Prefect's run logger or any library is one
JSON object on stderr, with `flow_run_id`, `task_run_id`, `trace_id` and `span_id`. Try
`python examples/structlog_flow.py 2>&1 | jq`, or `logs.configure("console")`.
"""

import asyncio

import structlog
from prefect import flow, get_run_logger, task
from prefect.runtime import task_run

from flowspan import instrument, logs

instrument()
logs.configure("json")

log = structlog.get_logger("orders")


@task
def extract(day: str) -> list[float]:
    """Read the orders of one day, and measure how many there are."""
    amounts = [19.9, 5.0, 249.0]
    log.info("METRIC: orders_extracted=%d", len(amounts), day=day)
    return amounts


@task(retries=2)
async def convert(amounts: list[float]) -> list[float]:
    """Ask for the exchange rate; the first time, the bank does not answer."""
    bound = log.bind(currency="EUR", attempt=task_run.run_count)
    bound.info("asking for the rate")
    await asyncio.sleep(0.01)
    if task_run.run_count == 1:
        raise ConnectionError("the bank closed the connection")
    bound.info("rate found", rate=0.92)
    return [round(amount * 0.92, 2) for amount in amounts]


@task
def check(amounts: list[float]) -> None:
    """Look for impossible orders: a handled exception is logged with its traceback."""
    try:
        _ = [1 / (amount - 4.6) for amount in amounts]
    except ZeroDivisionError:
        log.exception("an order has the amount of the shipping costs")


@flow(name="orders")
async def orders(day: str) -> float:
    """Add up the orders of one day, in euros."""
    with structlog.contextvars.bound_contextvars(day=day):  # on each line from here on
        converted = await convert(extract(day))
        check(converted)
    total = sum(converted)
    get_run_logger().info("Prefect's own logger says %.2f", total)
    return total


if __name__ == "__main__":
    log.info("outside any run")
    asyncio.run(orders("2024-05-17"))
