"""A flow that runs several times, and takes longer and returns more rows each time.

Also on a busy machine, since each run lasts until it has taken longer than the one before it.
"""

import sys
import time

from prefect import flow, task

from flowspan import instrument

took = [0.0]


@task
def extract(number: int) -> list[dict[str, int]]:
    return [{"number": number}] * (number + 1)


@task(retries=1)
def load(rows: list[dict[str, int]], began: float) -> int:
    time.sleep(max(0.1, began + took[-1] + 0.1 - time.monotonic()))
    return len(rows)


@flow
def growing(number: int) -> int:
    return load(extract(number), time.monotonic())


if __name__ == "__main__":
    growing(0)  # takes long, for it is the first, and is not recorded
    instrument()
    for each in range(int(sys.argv[1])):
        start = time.monotonic()
        growing(each)
        took.append(time.monotonic() - start)
