"""A flow without flowspan; opentelemetry-instrument or Prefect's plugins add it.

With an argument, the script serves the flow under that name.
"""

import os
import sys

from prefect import flow, get_run_logger, task


@task
def extract() -> list[int]:
    return [1, 2, 3]


@flow
def etl() -> int:
    get_run_logger().warning("said by the flow")
    return len(extract())


if __name__ == "__main__":
    print("variables:", [name for name in os.environ if name.startswith("OTEL_")])
    if len(sys.argv) > 1:
        etl.serve(name=sys.argv[1])
    else:
        etl()
