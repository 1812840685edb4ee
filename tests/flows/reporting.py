"""A flow whose log lines have levels, fields, several lines and a stack trace."""

import logging
import os

from flowspan import instrument

instrument()

from prefect import flow, get_run_logger, task  # noqa: E402

logging.getLogger("pipelines").setLevel(logging.INFO)


@task
def load(number: int) -> None:
    logger = logging.getLogger("pipelines")
    logger.warning('%d rows of "orders"', number, extra={"region": "eu west", "rejected": number})
    try:
        os.stat("/nothing/there")  # noqa: PTH116
    except OSError:
        logger.exception("not loaded")


@flow
def inner() -> None:
    get_run_logger().info("inside")


@flow(log_prints=True)
def reporting() -> None:
    print("two\nlines")
    load(3)
    inner()


if __name__ == "__main__":
    reporting()
