"""One small flow whose tasks wait for each other, to run under any task runner."""

import sys
import time
from importlib import import_module
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

SLOW = 1.0
"""Seconds that the slow task takes, once for each of the runs that others wait for."""


@task(cache_policy=NO_CACHE)
def table(rows: int) -> list[dict[str, int]]:
    return [{"n": n} for n in range(rows)]


@task(cache_policy=NO_CACHE)
def halved(items: list[dict[str, int]]) -> list[dict[str, int]]:
    return items[::2]


@flow
def below() -> list[dict[str, int]]:
    return halved(table(40))


@task(cache_policy=NO_CACHE)
def warm(_: int) -> None:
    time.sleep(0.2)


@task(cache_policy=NO_CACHE)
def slow() -> int:
    time.sleep(SLOW)
    return 1


@task(cache_policy=NO_CACHE)
def uses(value: int) -> int:
    return value


@task(cache_policy=NO_CACHE)
def follows() -> None:
    pass


@task(cache_policy=NO_CACHE, retries=1, retry_delay_seconds=0.3)
def retried() -> None:
    if task_run.run_count == 1:
        raise ValueError("not yet")


@task(cache_policy=NO_CACHE)
def mapped(_: int) -> None:
    time.sleep(0.4)


def work() -> None:
    """Call the tasks; each waits alone for what it waits for, in two workers that are there."""
    warm.map([1, 2]).wait()
    first: Any = slow.submit()
    uses.submit(first).wait()
    second: Any = slow.submit()
    follows.submit(wait_for=[second], return_state=False).wait()
    retried.submit().wait()
    mapped.map([1, 2, 3, 4]).wait()
    halved.submit(below()).wait()


def runner(name: str) -> Any:
    """Return a task runner with two workers."""
    if name == "dask":
        module: Any = import_module("prefect_dask")
        return module.DaskTaskRunner(cluster_kwargs={"n_workers": 2, "threads_per_worker": 1})
    if name == "ray":
        module = import_module("prefect_ray")
        return module.RayTaskRunner(init_kwargs={"num_cpus": 2, "include_dashboard": False})
    if name == "process":
        return ProcessPoolTaskRunner(max_workers=2)
    return ThreadPoolTaskRunner(max_workers=2)


if __name__ == "__main__":
    from flowspan import instrument

    instrument()
    flow(name="waiting", task_runner=runner(sys.argv[1]))(work)()
