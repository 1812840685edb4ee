"""A flow that logs a few lines, and one line after it; optionally one in a forked child."""

import logging
import multiprocessing
import sys

from flowspan import instrument

instrument()

from prefect import flow, task  # noqa: E402

logger = logging.getLogger("pipelines")
logger.setLevel(logging.INFO)


@task(retries=1)
def talk(lines: int) -> None:
    for n in range(lines):
        logger.info("line %d", n, extra={"n": n})


@flow
def brief(lines: int) -> None:
    talk(lines)


def in_child() -> None:
    logger.info("in the child")


if __name__ == "__main__":
    brief(int(sys.argv[1]))
    if sys.argv[2:] == ["fork"]:
        logger.info("before the fork")
        child = multiprocessing.get_context("fork").Process(target=in_child)
        child.start()
        child.join(30)
    logger.info("the end")
