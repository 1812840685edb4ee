"""A flow whose tasks run in pool processes, and a flow that forks a process."""

import multiprocessing
import sys

from flowspan import instrument

instrument()

from prefect import flow, task  # noqa: E402
from prefect.task_runners import ProcessPoolTaskRunner  # noqa: E402


@task
def square(x: int) -> int:
    return x * x


@flow(task_runner=ProcessPoolTaskRunner(max_workers=2))
def pooled() -> int:
    return sum(future.result() for future in square.map([1, 2, 3]))


@flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
def one_worker() -> None:
    for number in (1, 2, 3):
        square.submit(number).result()


@task
def fail() -> None:
    raise ValueError("no")


@flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
def pooled_failing() -> None:
    fail.submit().result()


@task
def forks() -> None:
    child = multiprocessing.get_context("fork").Process(target=in_child)
    child.start()
    # Its exit code is meaningless: Prefect's threads do not survive the fork, and fail at exit.
    child.join(30)


def in_child() -> None:
    from opentelemetry import trace

    with trace.get_tracer("user").start_as_current_span("in the child"):
        pass


@flow
def forking() -> None:
    forks()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
