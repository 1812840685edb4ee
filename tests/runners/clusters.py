"""Dask clusters of real processes, which know nothing of flowspan's settings."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from distributed import Client

from processes import PATIENCE, background, eventually

DASK = (sys.executable, "-m", "dask")


@dataclass(frozen=True)
class Cluster:
    """A scheduler and its workers, with the ids of their processes."""

    address: str
    scheduler: int
    workers: list[int]


@contextmanager
def dask_cluster(folder: Path, *, workers: int = 2, threads: int = 8) -> Iterator[Cluster]:
    """Start a scheduler and workers on loopback; their logs go to `folder`.

    The default has a thread for each step of a random flow.
    """
    env = {**os.environ, "PREFECT_LOGGING_LEVEL": "INFO"}
    where = folder / "scheduler.json"
    quiet = ("--no-dashboard", "--host", "127.0.0.1", "--scheduler-file", str(where))

    def start(number: int) -> int:
        arguments = ("--no-nanny", "--nthreads", str(threads), "--name", str(number))
        log = folder / f"worker-{number}.log"
        worker = background(*DASK, "worker", *arguments, *quiet, env=env, log=log)
        return stack.enter_context(worker).pid

    with ExitStack() as stack:
        scheduler = stack.enter_context(
            background(
                *DASK, "scheduler", "--port", "0", *quiet, env=env, log=folder / "scheduler.log"
            )
        )
        eventually(where.exists, "the scheduler's start")
        address = json.loads(where.read_text())["address"]
        running = [start(number) for number in range(workers)]
        with Client(address, timeout=PATIENCE, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=PATIENCE)
        yield Cluster(address, scheduler.pid, running)
