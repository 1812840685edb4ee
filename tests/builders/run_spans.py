"""Spans like flowspan's, with only what the analysis needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowspan import semconv
from flowspan.read.events import Event, Link
from flowspan.read.span import Span

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TRACE_ID = "ab" * 16
SECOND = 1_000_000_000
EPOCH = 1_700_000_000 * SECOND
"""Second 0 of these traces, in nanoseconds."""

TOTALS = {
    **{wait.name: wait.attribute for wait in semconv.WAITS},
    "execution": semconv.EXECUTION,
    "orchestration": semconv.ORCHESTRATION,
    "exit": semconv.ENGINE_EXIT,
    "sent": semconv.TASK_RUNNER_DEPENDENCIES,
}


def make_span(
    span_id: str,
    parent: str | None,
    start: int,
    end: int,
    *,
    name: str = "span",
    kind: str = "INTERNAL",
    attributes: Mapping[str, Any] | None = None,
    upstream: Iterable[str] = (),
    failed: bool = False,
    resource: Mapping[str, Any] | None = None,
    events: tuple[Event, ...] = (),
) -> Span:
    """Return a span; `start` and `end` in nanoseconds since the epoch, `upstream` span ids."""
    dependency = {semconv.LINK_TYPE: semconv.LINK_DEPENDENCY}
    return Span(
        trace_id=TRACE_ID,
        span_id=span_id,
        parent_span_id=parent,
        name=name,
        kind=kind,
        start=start,
        end=end,
        attributes=attributes or {},
        events=events,
        links=tuple(Link(TRACE_ID, one, dependency) for one in upstream),
        status="ERROR" if failed else "UNSET",
        status_message="",
        resource=resource or {"service.name": "nightly"},
    )


def run(
    span_id: str,
    parent: str | None,
    start: float,
    end: float,
    *,
    name: str = "",
    flow: bool = False,
    run_id: str | None = None,
    count: int = 1,
    tags: Iterable[str] = (),
    lane: str | None = None,
    upstream: Iterable[str] = (),
    failed: bool = False,
    process: str = "nightly",
    host: str | None = None,
    **totals: float,
) -> Span:
    """Return the span of a run; times in seconds since `EPOCH`.

    `totals` are named as in `TOTALS`; 0 means that the wait did not occur.
    """
    name = name or span_id
    attributes: dict[str, Any] = {
        semconv.RUN_TYPE: "flow" if flow else "task",
        semconv.RUN_ID: f"run of {span_id}" if run_id is None else run_id,
        semconv.RUN_NAME: f"{name}-{span_id}",
        semconv.RUN_COUNT: count,
        semconv.FLOW_NAME if flow else semconv.TASK_NAME: name,
        semconv.PIPELINE_RESULT if flow else semconv.PIPELINE_TASK_RESULT: (
            "failure" if failed else "success"
        ),
        semconv.TAGS: [*tags],
        **{TOTALS[key]: seconds for key, seconds in totals.items() if seconds},
    }
    if lane is not None:
        attributes["thread.id"] = lane
    if host is not None:
        attributes[semconv.HOST_NAME] = host
    return make_span(
        span_id,
        parent,
        EPOCH + round(start * SECOND),
        EPOCH + round(end * SECOND),
        name=semconv.flow_span_name(name) if flow else name,
        kind="SERVER" if flow and parent is None else "INTERNAL",
        attributes=attributes,
        upstream=upstream,
        failed=failed,
        resource={"service.name": process},
    )


def attempt(
    span_id: str, parent: str, number: int, start: float, end: float, *, failed: bool = False
) -> Span:
    """Return the span of an attempt; times in seconds since `EPOCH`."""
    return make_span(
        span_id,
        parent,
        EPOCH + round(start * SECOND),
        EPOCH + round(end * SECOND),
        name=semconv.attempt_span_name(number),
        attributes={semconv.ATTEMPT: number},
        failed=failed,
    )
