"""Tasks whose processes are killed as soon as the flow has the last result.

The arguments are ``pool``, ``dask ADDRESS`` or ``ray``.
"""

import os
import signal
import sys
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ProcessPoolTaskRunner


@task(cache_policy=NO_CACHE)
def process_id(number: int) -> int:
    return os.getpid()


@task(cache_policy=NO_CACHE)
async def async_process_id(number: int) -> int:
    return os.getpid()


def run(runner: Any) -> None:
    @flow(task_runner=runner)
    def short_lived() -> None:
        process_id.map(range(5)).result()
        (pid,) = set(async_process_id.map(range(5)).result())
        os.kill(pid, signal.SIGKILL)

    short_lived()


def pool() -> None:
    run(ProcessPoolTaskRunner(max_workers=1))


def dask(address: str) -> None:
    from prefect_dask import DaskTaskRunner

    run(DaskTaskRunner(address=address))


def ray() -> None:
    """End each process after its only task."""
    from prefect_ray import RayTaskRunner
    from prefect_ray.context import remote_options

    @flow(task_runner=RayTaskRunner(init_kwargs={"num_cpus": 1, "include_dashboard": False}))
    def short_lived() -> None:
        with remote_options(max_calls=1):
            process_id.map(range(2)).result()
            async_process_id.map(range(2)).result()

    short_lived()


if __name__ == "__main__":
    from flowspan import instrument

    instrument()
    globals()[sys.argv[1]](*sys.argv[2:])
