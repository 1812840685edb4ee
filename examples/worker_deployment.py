"""A deployment for a worker, which starts each run of the flow in a new process.

Create the pool, deploy, start a worker, and run the flow:

    prefect work-pool create workers --type process
    python worker_deployment.py
    prefect worker start --pool workers
    prefect deployment run orders/every-night
"""

from pathlib import Path

from prefect import flow, task

from flowspan import instrument

instrument()  # the process of a run imports this file


@task(retries=1)
def extract(day: str) -> list[dict[str, str]]:
    """Read the orders of one day."""
    return [{"day": day, "item": item} for item in ("tea", "milk", "sugar")]


@flow
def orders(day: str = "today") -> int:
    """Count the orders of one day."""
    return len(extract(day))


if __name__ == "__main__":
    orders.from_source(
        source=str(Path(__file__).parent), entrypoint="worker_deployment.py:orders"
    ).deploy("every-night", work_pool_name="workers", cron="0 2 * * *")
