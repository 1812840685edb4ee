"""A flow whose steps follow each other from one Dask worker to the next.

python relay.py SCHEDULER WORKER...
"""

import sys

from dask.base import annotate
from prefect import flow, task
from prefect_dask import DaskTaskRunner

from flowspan import instrument

scheduler, *workers = sys.argv[1:]


@task
def step(turn: int, before: object) -> int:
    return turn


@flow(task_runner=DaskTaskRunner(address=scheduler))
def relay() -> None:
    last = None
    for turn, worker in enumerate(workers):
        with annotate(workers=[worker]):
            last = step.submit(turn, last)
    assert last is not None
    last.result()


if __name__ == "__main__":
    instrument()
    relay()
