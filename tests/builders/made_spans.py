"""Spans without files, as the reader returns them."""

from collections.abc import Iterable, Mapping
from typing import Any

from hypothesis import strategies as st
from run_spans import EPOCH, TRACE_ID, make_span

from flowspan import semconv
from flowspan.read.span import Span, Trace


def span(
    number: int,
    start: int,
    end: int,
    *,
    parent: int | None = None,
    name: str = "",
    upstream: Iterable[int] = (),
    failed: bool = False,
    attributes: Mapping[str, Any] | None = None,
    resource: Mapping[str, Any] | None = None,
) -> Span:
    """Return a span; spans are named by numbers, times (ns) count from `EPOCH`."""
    return make_span(
        span_id(number),
        None if parent is None else span_id(parent),
        EPOCH + start,
        EPOCH + end,
        name=name or f"span {number}",
        attributes=attributes,
        upstream=map(span_id, upstream),
        failed=failed,
        resource=resource,
    )


def run(number: int, start: int, end: int, *, type_: str = "task", **given: Any) -> Span:
    """Return a run's span; see `span`."""
    attributes = {
        semconv.RUN_TYPE: type_,
        semconv.RUN_ID: f"run {number}",
        **given.pop("attributes", {}),
    }
    return span(number, start, end, attributes=attributes, **given)


def trace(*spans: Span) -> Trace:
    """Return spans as a trace, like the reader."""
    ordered = sorted(spans, key=lambda one: (one.start, -one.end, one.span_id))
    return Trace(TRACE_ID, tuple(ordered), ())


def span_id(number: int) -> str:
    """Return the id of a span."""
    return f"{number:016x}"


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Draw traces with ties, overlaps, circles, threads, processes and children out of range."""
    count = draw(st.integers(1, 25))
    times = st.integers(0, 40).map(lambda n: n * 250)  # quarters of a microsecond
    spans: list[Span] = []
    for number in range(1, count + 1):
        start, end = draw(times), draw(times)
        parent = draw(st.none() | st.integers(0, count))
        make = run if draw(st.booleans()) else span
        thread = draw(st.none() | st.integers(1, 3))
        spans.append(
            make(
                number,
                start,
                max(start, end),
                parent=parent,
                upstream=draw(st.lists(st.integers(0, count), max_size=3, unique=True)),
                attributes={} if thread is None else {"thread.id": thread},
                resource={"service.instance.id": draw(st.sampled_from(["a", "b"]))},
            )
        )
    return trace(*spans)
