"""Flows with a process pool, instrumented where the pool's processes do not see it."""

import contextlib
import multiprocessing
import os
import pathlib
import sys
import time

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ProcessPoolTaskRunner


@task(cache_policy=NO_CACHE)
def square(x: int) -> int:
    get_run_logger().warning("squared %d", x)
    return x * x


@task(cache_policy=NO_CACHE)
def outer(x: int) -> int:
    return square(x)


@task(cache_policy=NO_CACHE)
async def asynchronous() -> None:
    get_run_logger().warning("asynchronous")


def run_tasks() -> None:
    squares = square.map([1, 2, 3])
    nested = outer.submit(4)
    square.submit(5, wait_for=[*squares, nested]).result()


@flow(task_runner=ProcessPoolTaskRunner(max_workers=2))
def carried() -> None:
    run_tasks()


@flow(task_runner=ProcessPoolTaskRunner(max_workers=2))
def carried_from_inside() -> None:
    from flowspan import instrument

    instrument()
    run_tasks()


@flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
def short_lived() -> None:
    square.submit(1).result()
    asynchronous.submit().result()
    (child,) = multiprocessing.active_children()
    child.kill()


@task(cache_policy=NO_CACHE)
def outer_sleeping() -> None:
    get_run_logger().warning("outer")
    sleeping()


@task(cache_policy=NO_CACHE)
def sleeping() -> None:
    get_run_logger().warning("asleep")
    time.sleep(60)


@flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
def terminated() -> None:
    square.submit(1).result()
    future = outer_sleeping.submit()
    (child,) = multiprocessing.active_children()
    pathlib.Path(os.environ["FLOWSPAN_DIR"], "child").write_text(str(child.pid))
    with contextlib.suppress(Exception):  # the pool is broken
        future.result()
    while child.exitcode is None:  # the pool's own thread may have been the one that waited for it
        time.sleep(0.01)
    print("exit code", child.exitcode)


def from_main() -> None:
    from flowspan import instrument
    from flowspan.settings import Settings

    instrument(settings=Settings(capture_parameters="values"))
    os.chdir("/")
    carried()


def from_inside() -> None:
    carried_from_inside()


def serve() -> None:
    carried_from_inside.serve(name="carried")


def killed() -> None:
    from flowspan import instrument

    instrument()
    short_lived()


def cut() -> None:
    from flowspan import instrument

    instrument()
    terminated()


def own_provider() -> None:
    from opentelemetry.sdk.trace import TracerProvider

    from flowspan import instrument

    instrument(tracer_provider=TracerProvider())
    carried()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
