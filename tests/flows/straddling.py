"""A flow that is in the middle while the server is away: straddling.py READY BACK."""

import sys
import time
from pathlib import Path

from prefect import flow, task


@task
def quick(number: int) -> int:
    return number


@flow
def straddling(ready: str, back: str) -> None:
    quick(1)
    time.sleep(1)  # events are sent by another thread
    Path(ready).touch()
    while not Path(back).exists():
        time.sleep(0.1)
    quick(2)


if __name__ == "__main__":
    straddling(*sys.argv[1:])
