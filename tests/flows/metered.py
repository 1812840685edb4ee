"""A flow of a few milliseconds that runs several times, and once in a forked child."""

import multiprocessing
import sys

from flowspan import instrument

instrument()

from prefect import flow, task  # noqa: E402


@task
def extract() -> list[dict[str, int]]:
    return [{"a": 1}]


@flow
def brief() -> int:
    return len(extract())


def in_child() -> None:
    from opentelemetry import metrics

    metrics.get_meter("user").create_counter("in.the.child").add(1)


if __name__ == "__main__":
    for _ in range(int(sys.argv[1])):
        brief()
    if sys.argv[2:] == ["fork"]:
        child = multiprocessing.get_context("fork").Process(target=in_child)
        child.start()
        child.join(30)
