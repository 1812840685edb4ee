"""Flows that log in every way: in pool processes, and as on Prefect's terminal.

The first argument names the flow, the others functions to call first: ``configure`` or ``setup``.
"""

import gc
import logging
import sys

import structlog
from prefect import flow, get_run_logger, task
from prefect.logging.configuration import setup_logging
from prefect.task_runners import ProcessPoolTaskRunner

from flowspan import instrument, logs

instrument()
if "configure" in sys.argv:
    logs.configure("json")

log = structlog.get_logger("mine")
bound = log.bind(bound=True)


@task(log_prints=True)
def step(n: int) -> int:
    log.info("structlog", n=n)
    bound.info("bound", n=n)
    logging.getLogger("library").warning("stdlib %d", n, extra={"n": n})
    get_run_logger().info("run logger %d", n)
    print(f"print {n}")
    return n


@flow(task_runner=ProcessPoolTaskRunner(max_workers=2))  # type: ignore[arg-type] # it is Prefect's own
def pooled() -> int:
    log.info("in the flow")  # so that the logger has been used before it is sent
    return sum(future.result() for future in step.map([1, 2]))


@flow
def terminal() -> None:
    get_run_logger().info("in the flow")
    step(1)


if __name__ == "__main__":
    if "setup" in sys.argv:
        gc.collect()
        setup_logging()  # as Prefect's command line does
        assert {type(item) for item in logging.getLogger("uvicorn").handlers} == {
            logs.StderrHandler
        }
        setup_logging(incremental=False)  # as Prefect does if one of its handlers is missing
    logging.getLogger("library").warning("outside")
    globals()[sys.argv[1]]()
