"""Run a flow three times with success, and once with a failure; catch its exception."""

import contextlib

from prefect import flow, get_run_logger, task

from flowspan import instrument

instrument()


@task
def step(fails: bool) -> None:  # noqa: FBT001
    get_run_logger().info("a step of a flow that %s", "fails" if fails else "succeeds")
    if fails:
        raise ValueError("this one fails")


@flow
def good() -> None:
    step(fails=False)


@flow
def bad() -> None:
    step(fails=True)


if __name__ == "__main__":
    for run in (good, good, good, bad):
        with contextlib.suppress(ValueError):
            run()
