"""A flow that runs several times, and takes longer and returns more rows each time."""

import sys
import time

from flowspan import instrument

instrument()

from prefect import flow, task  # noqa: E402


@task
def extract(number: int) -> list[dict[str, int]]:
    time.sleep(0.02)
    return [{"number": number}] * (number + 1)


@task(retries=1)
def load(rows: list[dict[str, int]]) -> int:
    time.sleep(0.15 * len(rows))
    return len(rows)


@flow
def growing(number: int) -> int:
    return load(extract(number))


if __name__ == "__main__":
    for each in range(int(sys.argv[1])):
        growing(each)
