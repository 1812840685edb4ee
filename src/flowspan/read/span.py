"""A span of a trace, small enough to hold a million of them.

Everything that the analysis needs is in memory. Details may stay where they were read from until
they are needed.
"""

from __future__ import annotations

import contextlib
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol

import msgspec

from flowspan import semconv
from flowspan.read import otlp_json as otlp
from flowspan.read import prefect_spans
from flowspan.read.events import Event, Link
from flowspan.read.facts import Facts, facts_of, text
from flowspan.read.otlp_json import UnreadableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from flowspan.read.lines import Problem

_INSTANCE_ID: Final = "service.instance.id"


class Details(NamedTuple):
    """The details of a span, which the analysis does not need."""

    attributes: Mapping[str, Any]
    events: tuple[Event, ...]
    links: tuple[Link, ...]
    status_message: str


class Place(Protocol):
    """A place that has the details of spans."""

    def details(self, offset: int, length: int) -> Details:
        """Read the details of the span at `offset`."""


class Open(NamedTuple):
    """What is known of a span that has not ended.

    Attributes:
        state: ``running``, or ``lost`` if its process has not been heard of for too long.
        last_seen: When its process was last heard of, in nanoseconds since the epoch.
        activity: What it was doing then: ``execution``, ``orchestration`` or the name of a wait;
            empty if unknown.
    """

    state: Literal["running", "lost"]
    last_seen: int
    activity: str


class Span:
    """One span; read-only.

    Ids are lower-case hex, times nanoseconds since the epoch. Attribute values are ``str``,
    ``bool``, ``int``, ``float``, ``None``, or lists and dicts of these; bytes stay base64 text.

    Attributes:
        trace_id: The id of its trace.
        span_id: Its id, unique in the trace.
        parent_span_id: None for a root.
        name: Its name, the same for all spans of the same operation.
        kind: Such as ``SERVER`` or ``INTERNAL``.
        start: When it began.
        end: When it ended, or the time up to which it is known, if it has not.
        status: ``UNSET``, ``OK`` or ``ERROR``.
        resource: The attributes of its process.
        facts: The facts about its run, from its attributes and events.
        upstream: The spans of the same trace that it depends on, from links of that type or none.
        previous: The spans of the same trace that it continues.
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
        """Create a span with all its details."""
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
        """Create a span whose details stay in their place."""
        span = cls.__new__(cls)
        span._place = place  # noqa: SLF001 - the class's own attribute, also below
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
    def open(self) -> Open | None:
        """What is known if it has not ended; None for a span that has."""
        return None

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Its attributes."""
        return self._details.attributes

    @property
    def events(self) -> tuple[Event, ...]:
        """Its events."""
        return self._details.events

    @property
    def links(self) -> tuple[Link, ...]:
        """Its links to other spans, also in other traces."""
        return self._details.links

    @property
    def status_message(self) -> str:
        """The message of its status."""
        return self._details.status_message

    def as_root(self) -> Span:
        """Return a copy without a parent, for a tree that begins here."""
        root = copy(self)
        root.parent_span_id = None
        return root

    @property
    def _details(self) -> Details:
        return self._place.details(self._offset, self._length)

    @property
    def duration(self) -> int:
        """Nanoseconds from start to end; 0 if the end is first, because of different clocks."""
        return max(0, self.end - self.start)

    @property
    def is_run(self) -> bool:
        """Whether it is the span of a flow or task run."""
        return self.facts.run_type is not None

    @property
    def failed(self) -> bool:
        """Whether its status is ERROR."""
        return self.status == "ERROR"

    @property
    def service(self) -> str | None:
        """The name of its service."""
        name = self.resource.get(otlp.SERVICE_NAME)
        return None if name is None else str(name)

    @property
    def process(self) -> str:
        """An identifier of its process, as far as its resource has one; may be empty."""
        if (instance := self.resource.get(_INSTANCE_ID)) is not None:
            return str(instance)
        process_id, host = self._process_id, self.host
        if process_id is not None:
            return process_id if host is None else f"{host}:{process_id}"
        return self.service or ""

    @property
    def place(self) -> str:
        """A name of its process for people: host and process id, as far as they are known."""
        process_id, host = self._process_id, self.host or self.service or "process"
        return host if process_id is None else f"{host}:{process_id}"

    @property
    def host(self) -> str | None:
        """The name of the host that it was recorded on; None if unknown."""
        return self.facts.host or text(self.resource.get(semconv.HOST_NAME))

    @property
    def _process_id(self) -> str | None:
        return self.facts.process_id or text(self.resource.get(semconv.PROCESS_ID))


class OpenSpan(Span):
    """A span that has not ended, as far as its process has reported it."""

    __slots__ = ("_open",)

    def __init__(self, open: Open, **fields: Any) -> None:  # noqa: A002 - the name of the property
        """Create a span that is known up to its `end`."""
        super().__init__(**fields)
        self._open = open

    @property
    def open(self) -> Open:
        """What is known of it."""
        return self._open


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
    """The place of details that are in memory."""

    __slots__ = ("_details",)

    def __init__(self, details: Details) -> None:
        self._details = details

    def details(self, offset: int, length: int) -> Details:  # noqa: ARG002 - there is only one
        return self._details


def by_type(
    links: Iterable[tuple[str, object]],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sort the ids of linked spans by type: those it depends on, and those it continues.

    A link without a type is a dependency, because other instrumentations have no types, and some
    storages drop the attributes of links.
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
    """Read the details of a span in OTLP JSON.

    Raises:
        UnreadableError: They are not valid OTLP.
    """
    status = otlp.mapping(raw.get("status"), "status")
    return Details(
        otlp.attributes(raw.get("attributes")),
        tuple(map(_event, otlp.mappings(raw.get("events"), "events"))),
        tuple(map(_link, otlp.mappings(raw.get("links"), "links"))),
        otlp.text(status.get("message")),
    )


def readable_details_of(raw: Mapping[str, Any]) -> Details:
    """Read the details of a span, without events and links that are not valid OTLP."""
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
    """The spans of one trace, each once, sorted by start, and the problems while reading.

    `is_part` is whether it only has one flow run that another run called, with everything below it.
    Then `called_by` is the span of the flow run that called it, if known.
    """

    trace_id: str
    spans: tuple[Span, ...]
    problems: tuple[Problem, ...]
    is_part: bool = False
    called_by: Span | None = None
