"""A flow that only Prefect traces, to the file in the first argument."""

import sys

from opentelemetry import trace
from opentelemetry.exporter.otlp.json.file import FileSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from prefect import flow, task

attempts: list[int] = []


@task(tags=["io"])
def extract() -> int:
    return 1


@task(retries=1, retry_delay_seconds=0.2)
def load(number: int) -> int:
    attempts.append(number)
    if len(attempts) == 1:
        raise ConnectionError("not yet")
    return number


@task
def broken() -> None:
    raise KeyError("gone")


@flow
def etl() -> str:
    load.submit(extract.submit()).result()  # type: ignore[call-overload] # futures are passed
    broken(return_state=True)
    return "done"


if __name__ == "__main__":
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(FileSpanExporter(sys.argv[1])))
    trace.set_tracer_provider(provider)
    etl()
