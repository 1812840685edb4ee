"""A flow whose tasks log with every kind of logger, in pool processes."""

import logging
import sys

from flowspan import instrument

instrument()

from prefect import flow, task  # noqa: E402
from prefect.task_runners import ProcessPoolTaskRunner  # noqa: E402

from loggers import SOURCES, say  # noqa: E402

for name in ("pipelines", "prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(name).setLevel(logging.INFO)


@task(retries=1)
def step(source: str) -> None:
    say(source, f"said by {source}.")


@flow(task_runner=ProcessPoolTaskRunner(max_workers=2), log_prints=True)
def pooled() -> None:
    step.map(SOURCES).wait()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
