"""Traces for the page, in OTLP JSON, with links and threads."""

from pathlib import Path
from typing import Any

from span_files import EPOCH, raw_line, raw_span

from flowspan import semconv

TRACE_ID = "ab" * 16


def span(
    number: int,
    name: str,
    start: float,
    end: float,
    parent: int | None = 0,
    *,
    upstream: tuple[int, ...] = (),
    error: str | None = None,
    **attributes: Any,
) -> dict[str, Any]:
    """Return a span; times are seconds since `EPOCH`, ids are numbers."""
    link = [_pair(semconv.LINK_TYPE, semconv.LINK_DEPENDENCY)]
    return raw_span(
        number + 1,
        name=name,
        parentSpanId="" if parent is None else f"{parent + 1:016x}",
        startTimeUnixNano=str(EPOCH + round(start * 1e9)),
        endTimeUnixNano=str(EPOCH + round(end * 1e9)),
        attributes=[_pair(key.replace("__", "."), value) for key, value in attributes.items()],
        links=[
            {"traceId": TRACE_ID, "spanId": f"{one + 1:016x}", "attributes": link}
            for one in upstream
        ],
        status={"code": 2, "message": error} if error else {},
    )


def task(
    number: int,
    name: str,
    start: float,
    end: float,
    parent: int = 0,
    *,
    thread: str = "MainThread",
    error: str | None = None,
    upstream: tuple[int, ...] = (),
    **attributes: Any,
) -> dict[str, Any]:
    """Return the span of a task run, with its own run name."""
    return span(
        number,
        name,
        start,
        end,
        parent,
        upstream=upstream,
        error=error,
        prefect__run__type="task",
        prefect__run__id=f"run {number}",
        prefect__run__name=f"{name}-{number:03x}",
        prefect__task__name=name,
        prefect__run__state__name="Failed" if error else "Completed",
        cicd__pipeline__task__run__result="failure" if error else "success",
        thread__name=thread,
        **{"thread__id": sum(thread.encode()), **attributes},
    )


def flow(number: int, name: str, start: float, end: float, parent: int | None) -> dict[str, Any]:
    """Return the span of a flow run."""
    return span(
        number,
        f"RUN {name}",
        start,
        end,
        parent,
        prefect__run__type="flow",
        prefect__run__id=f"run {number}",
        prefect__run__name="meaty-vicugna",
        prefect__flow__name=name,
        prefect__run__state__name="Completed",
        cicd__pipeline__result="success",
        prefect__execution=end - start,
        thread__name="MainThread",
        thread__id=sum(b"MainThread"),
    )


def nightly(folder: Path) -> Path:
    """Write a run of ten seconds in which `clean` is the bottleneck.

    ::

        extract  |====|
        clean    :....|~try~| wait |===========|
        enrich                                 |==look==|
        publish                                         |=| fails
    """
    spans = [
        flow(0, "nightly", 0, 10, None),
        task(1, "extract", 0.5, 2, prefect__execution=1.5, prefect__rows__output=1_234_567),
        task(
            2,
            "clean",
            0.6,
            7,
            thread="pool-0",
            upstream=(1,),
            prefect__wait__queue=0.1,
            prefect__wait__dependencies=1.4,
            prefect__wait__retry=0.5,
            prefect__execution=4.5,
            prefect__run__count=2,
        ),
        span(3, "attempt 1", 2, 2.5, 2, error="the mirror hung up", prefect__run__attempt=1),
        span(4, "attempt 2", 3, 7, 2, prefect__run__attempt=2),
        flow(5, "enrich", 7, 9, 0),
        task(6, "look_up", 7.2, 8.8, 5, upstream=(2,), prefect__execution=1.6, city="Tromsø"),
        task(7, "publish", 9, 9.5, error="403 Forbidden", prefect__execution=0.5),
    ]
    return _write(folder / "traces.jsonl", spans)


def many(folder: Path, count: int) -> Path:
    """Write a run of 32 workers with that many tasks, each waiting for an earlier one."""
    workers = 32
    spans = [flow(0, "big", 0, count / workers + 1, None)]
    for number in range(1, count):
        begin = (number - 1) // workers + number % 7 / 100
        spans.append(
            task(
                number,
                f"stage{number * 5 // count}",
                begin,
                begin + 0.9,
                thread=f"pool-{number % workers}",
                upstream=(number - workers,) if number > workers else (),
                error="it broke" if number % 500 == 0 else None,
                prefect__wait__queue=0.01,
                prefect__execution=0.85,
                prefect__orchestration=0.05,
                cicd__pipeline__task__run__url__full=f"http://localhost/{number * 7919:032x}",
            )
        )
    return _write(folder / "traces.jsonl", spans)


def _write(path: Path, spans: list[dict[str, Any]]) -> Path:
    batches = (spans[first : first + 500] for first in range(0, len(spans), 500))
    path.write_text("".join(raw_line(*batch) for batch in batches))
    return path


def _pair(key: str, value: Any) -> dict[str, Any]:
    kinds = {str: "stringValue", bool: "boolValue", int: "intValue", float: "doubleValue"}
    written = str(value) if type(value) is int else value
    return {"key": key, "value": {kinds[type(value)]: written}}
