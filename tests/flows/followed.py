"""A flow that calls another one, and goes on until a file is there; it logs to the terminal."""

import sys
import time
from pathlib import Path

from flowspan import instrument

instrument()

from prefect import flow, task  # noqa: E402


@task
def extract() -> list[int]:
    return [1, 2, 3]


@task
def wait(file: Path) -> None:
    while not file.exists():
        time.sleep(0.05)


@flow
def clean(file: Path) -> None:
    wait(file)


@flow
def nightly(file: Path) -> None:
    extract()
    clean(file)


if __name__ == "__main__":
    nightly(Path(sys.argv[1]))
