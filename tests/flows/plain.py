"""A flow without flowspan; opentelemetry-instrument or Prefect's plugins add it.

``serve NAME`` serves the flow, ``pooled`` runs it with tasks in other processes.
"""

import os
import sys

from prefect import flow, get_run_logger, task
from prefect.task_runners import ProcessPoolTaskRunner


@task
def extract() -> list[int]:
    return [1, 2, 3]


@task
def square(number: int) -> int:
    return number * number


@flow(task_runner=ProcessPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
def squares() -> list[int]:
    return square.map([1, 2, 3]).result()


@flow
def etl() -> int:
    get_run_logger().warning("said by the flow")
    return len(extract())


if __name__ == "__main__":
    print("variables:", [name for name in os.environ if name.startswith("OTEL_")])
    match sys.argv[1:]:
        case ["serve", name]:
            etl.serve(name=name)
        case ["pooled"]:
            squares()
        case _:
            etl()
