"""A span of a trace, lean enough for a million of them.

What every analysis asks for is in memory; what only a closer look asks for may stay where it was
read from until somebody looks.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import msgspec

from flowspan import semconv
from flowspan.read import otlp_json as otlp
from flowspan.read import prefect_spans
from flowspan.read.events import Event, Link
from flowspan.read.facts import Facts, facts_of
from flowspan.read.otlp_json import UnreadableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from flowspan.read.lines import Problem

_INSTANCE_ID: Final = "service.instance.id"
_HOST_NAME: Final = "host.name"


class Details(NamedTuple):
    """What only a closer look at a span asks for."""

    attributes: Mapping[str, Any]
    events: tuple[Event, ...]
    links: tuple[Link, ...]
    status_message: str


class Place(Protocol):
    """Where the details of spans are."""

    def details(self, offset: int, length: int) -> Details:
        """Read those of the span that is written there."""


class Span:
    """One finished span; read-only.

    Ids are lower-case hex, times nanoseconds since the epoch. Attribute values are ``str``,
    ``bool``, ``int``, ``float``, ``None``, or lists and dicts of these; bytes stay base64 text.

    Attributes:
        trace_id: The trace that it is part of.
        span_id: Tells it from the other spans of the trace.
        parent_span_id: None for a root.
        name: What it is about, the same for all spans of its sort.
        kind: Such as ``SERVER`` or ``INTERNAL``.
        start: When it began.
        end: When it ended.
        status: ``UNSET``, ``OK`` or ``ERROR``.
        resource: The attributes of the process that made it.
        facts: What its attributes and events tell of the run that it is about.
        upstream: The spans of the same trace that it depends on, by its links of that type or none.
        previous: The spans of the same trace that it takes up again.
    """

    __slots__ = (
        "_length",
        "_offset",
        "_place",
        "end",
        "facts",
        "kind",
        "name",
        "parent_span_id",
        "previous",
        "resource",
        "span_id",
        "start",
        "status",
        "trace_id",
        "upstream",
    )

    def __init__(
        self,
        *,
        trace_id: str,
        span_id: str,
        parent_span_id: str | None,
        name: str,
        kind: str,
        start: int,
        end: int,
        attributes: Mapping[str, Any],
        events: tuple[Event, ...],
        links: tuple[Link, ...],
        status: str,
        status_message: str,
        resource: Mapping[str, Any],
    ) -> None:
        """Make a span of all that there is to know of it."""
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent_span_id = parent_span_id
        self.name = name
        self.kind = kind
        self.start = start
        self.end = end
        self.status = status
        self.resource = resource
        self.facts = _facts(attributes, events)
        own = [(link.span_id, link.attributes) for link in links if link.trace_id == trace_id]
        types = [(span_id, found.get(semconv.LINK_TYPE)) for span_id, found in own]
        self.upstream, self.previous = by_type(types)
        self._place: Place = _Held(Details(attributes, events, links, status_message))
        self._offset = self._length = 0

    @classmethod
    def at(
        cls,
        place: Place,
        offset: int,
        length: int,
        *,
        trace_id: str,
        span_id: str,
        parent_span_id: str | None,
        name: str,
        kind: str,
        start: int,
        end: int,
        status: str,
        resource: Mapping[str, Any],
        facts: Facts,
        upstream: tuple[str, ...],
        previous: tuple[str, ...],
    ) -> Span:
        """Make a span whose details stay where they are."""
        span = cls.__new__(cls)
        span._place = place  # noqa: SLF001 - its own kind, and so below
        span._offset = offset  # noqa: SLF001
        span._length = length  # noqa: SLF001
        span.trace_id = trace_id
        span.span_id = span_id
        span.parent_span_id = parent_span_id
        span.name = name
        span.kind = kind
        span.start = start
        span.end = end
        span.status = status
        span.resource = resource
        span.facts = facts
        span.upstream = upstream
        span.previous = previous
        return span

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Span):
            return NotImplemented
        return self.span_id == other.span_id and all(
            getattr(self, name) == getattr(other, name) for name in _COMPARED
        )

    def __hash__(self) -> int:
        return hash((self.trace_id, self.span_id))

    def __repr__(self) -> str:
        return f"<Span {self.span_id} {self.name!r} {self.start}..{self.end}>"

    @property
    def attributes(self) -> Mapping[str, Any]:
        """All that was said of it."""
        return self._details.attributes

    @property
    def events(self) -> tuple[Event, ...]:
        """What happened in it."""
        return self._details.events

    @property
    def links(self) -> tuple[Link, ...]:
        """Its references to others, to other traces too."""
        return self._details.links

    @property
    def status_message(self) -> str:
        """Why its status is what it is."""
        return self._details.status_message

    @property
    def _details(self) -> Details:
        return self._place.details(self._offset, self._length)

    @property
    def duration(self) -> int:
        """Nanoseconds from start to end; 0 where clocks made the end come first."""
        return max(0, self.end - self.start)

    @property
    def is_run(self) -> bool:
        """Whether this is the span of a flow or task run."""
        return self.facts.run_type is not None

    @property
    def failed(self) -> bool:
        """Whether the span's status is ERROR."""
        return self.status == "ERROR"

    @property
    def service(self) -> str | None:
        """Name of the service that made the span."""
        name = self.resource.get(otlp.SERVICE_NAME)
        return None if name is None else str(name)

    @property
    def process(self) -> str:
        """What tells its process from others, as far as its resource says; else empty."""
        get = self.resource.get
        if (instance := get(_INSTANCE_ID)) is not None:
            return str(instance)
        if (process_id := get(semconv.PROCESS_ID)) is not None:
            host = get(_HOST_NAME)
            return str(process_id) if host is None else f"{host}:{process_id}"
        return self.service or ""


_COMPARED: Final = (
    "trace_id",
    "parent_span_id",
    "name",
    "kind",
    "start",
    "end",
    "attributes",
    "events",
    "links",
    "status",
    "status_message",
    "resource",
)


class _Held:
    """The details of a span that has them with it."""

    __slots__ = ("_details",)

    def __init__(self, details: Details) -> None:
        self._details = details

    def details(self, offset: int, length: int) -> Details:  # noqa: ARG002 - there is but one
        return self._details


def by_type(
    links: Iterable[tuple[str, object]],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tell from ids and types of links what a span depends on, and what it takes up again.

    A link without a type is a dependency: other makers of spans have no types, and some storages
    drop the attributes of links.
    """
    upstream: list[str] = []
    previous: list[str] = []
    for span_id, kind in links:
        if kind is None or kind == semconv.LINK_DEPENDENCY:
            upstream.append(span_id)
        elif kind == semconv.LINK_PREVIOUS_ATTEMPT:
            previous.append(span_id)
    return tuple(upstream), tuple(previous)


def _facts(attributes: Mapping[str, Any], events: Sequence[Event]) -> Facts:
    facts = facts_of(attributes)
    if prefect_spans.is_native(facts):
        return prefect_spans.complete(facts, events)
    running = (e.time for e in events if e.attributes.get(semconv.STATE_TYPE) == "RUNNING")
    return msgspec.structs.replace(facts, running_since=next(running, None))


def details_of(raw: Mapping[str, Any]) -> Details:
    """Read the details of a span as OTLP JSON has them.

    Raises:
        UnreadableError: They are not what OTLP says.
    """
    status = otlp.mapping(raw.get("status"), "status")
    return Details(
        otlp.attributes(raw.get("attributes")),
        tuple(map(_event, otlp.mappings(raw.get("events"), "events"))),
        tuple(map(_link, otlp.mappings(raw.get("links"), "links"))),
        otlp.text(status.get("message")),
    )


def readable_details_of(raw: Mapping[str, Any]) -> Details:
    """Read the details of a span, but for events and links that are not what OTLP says."""
    try:
        return details_of(raw)
    except UnreadableError:
        kept = {
            "events": list(_readable(_event, raw.get("events"))),
            "links": list(_readable(_link, raw.get("links"))),
        }
        return details_of({**raw, **kept})


def _readable(
    read: Callable[[dict[str, Any]], object], items: Iterable[dict[str, Any]] | None
) -> Iterable[dict[str, Any]]:
    for item in items or ():
        with contextlib.suppress(UnreadableError):
            read(item)
            yield item


def _event(raw: dict[str, Any]) -> Event:
    time = otlp.unsigned(raw.get("timeUnixNano"), "event time")
    return Event(otlp.text(raw.get("name")), time, otlp.attributes(raw.get("attributes")))


def _link(raw: dict[str, Any]) -> Link:
    trace_id, span_id = otlp.text(raw.get("traceId")).lower(), otlp.text(raw.get("spanId")).lower()
    return Link(trace_id, span_id, otlp.attributes(raw.get("attributes")))


@dataclass(frozen=True, slots=True)
class Trace:
    """The spans of one trace, by start time and each once, and what could not be read."""

    trace_id: str
    spans: tuple[Span, ...]
    problems: tuple[Problem, ...]
