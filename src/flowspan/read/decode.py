"""Decode lines of OTLP JSON into spans, a million in seconds.

There are two decoders. The fast one knows the types that OTLP writes, skips details, and gives up
on everything else. Then the careful one decodes the line: it reads everything that the encoding
allows, and reports errors.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from flowspan import semconv
from flowspan.read import otlp_json as otlp
from flowspan.read import prefect_spans
from flowspan.read.facts import READERS, Facts, inside
from flowspan.read.facts import text as as_text
from flowspan.read.otlp_json import UnreadableError
from flowspan.read.span import Span, by_type, details_of, readable_details_of

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from flowspan.read.texts import Text

_KINDS: Final = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
_STATUS_CODES: Final = ("UNSET", "OK", "ERROR")
_TIMES: Final = range(2**64)
_is_span_id: Final = otlp.SPAN_ID.fullmatch
_RUNNING: Final = b'"RUNNING"'
_ABSENT: Final = msgspec.Raw(b"")
_FIELDS: Final = msgspec.structs.fields(Facts)
_DEFAULTS: Final = [field.default for field in _FIELDS]
_PLACES: Final = {field.name: place for place, field in enumerate(_FIELDS)}
_RUNNING_SINCE: Final = _PLACES["running_since"]
_DEPENDENCIES: Final = _PLACES["dependencies"]
_DEPENDENCIES_BEFORE: Final = _PLACES["dependencies_before"]
# By attribute: the place of its field, the function that reads its value, and whether many spans
# share the text. Every run has its own id and name.
_SLOTS: Final = {
    key: (_PLACES[name], read, read is as_text and name not in ("run_id", "run_name"))
    for key, (name, read) in READERS.items()
}


# The parts of OTLP JSON that the fast decoder reads. Times and integers may be text.


class _Value(msgspec.Struct, frozen=True, gc=False):
    stringValue: str | UnsetType = UNSET  # noqa: N815 - OTLP's names, here and below
    intValue: int | UnsetType = UNSET  # noqa: N815
    doubleValue: float | UnsetType = UNSET  # noqa: N815
    boolValue: bool | UnsetType = UNSET  # noqa: N815
    arrayValue: msgspec.Raw = _ABSENT  # noqa: N815
    kvlistValue: msgspec.Raw = _ABSENT  # noqa: N815
    bytesValue: str | UnsetType = UNSET  # noqa: N815


_NOTHING: Final = _Value()


class _KeyValue(msgspec.Struct, gc=False):
    key: str
    value: _Value = _NOTHING


class _Event(msgspec.Struct, gc=False):
    timeUnixNano: int = 0  # noqa: N815
    attributes: msgspec.Raw = _ABSENT


class _Link(msgspec.Struct, gc=False):
    traceId: str  # noqa: N815
    spanId: str  # noqa: N815
    attributes: list[_KeyValue] | None = None


class _Status(msgspec.Struct, gc=False):
    code: int | str | None = None


class _Span(msgspec.Struct, gc=False):
    traceId: str  # noqa: N815
    spanId: str  # noqa: N815
    parentSpanId: str | None = None  # noqa: N815
    name: str | None = None
    kind: int | str | None = None
    startTimeUnixNano: int | None = None  # noqa: N815
    endTimeUnixNano: int | None = None  # noqa: N815
    attributes: list[_KeyValue] | None = None
    events: list[_Event] | None = None
    links: list[_Link] | None = None
    status: _Status | None = None


class _Scope(msgspec.Struct, gc=False):
    spans: list[msgspec.Raw] | None = None


class _Resource(msgspec.Struct, gc=False):
    resource: msgspec.Raw = msgspec.Raw(b"{}")
    scopeSpans: list[_Scope] | None = None  # noqa: N815


class _Request(msgspec.Struct, gc=False):
    resourceSpans: list[_Resource] | None = None  # noqa: N815
    result: _Request | None = None  # as Jaeger wraps it


# Not strict, so that "1" is read as an integer and "NaN" as a floating point number.
_requests: Final = msgspec.json.Decoder(_Request, strict=False)
_spans: Final = msgspec.json.Decoder(_Span, strict=False)


class _DoubtError(Exception):
    """The fast decoder cannot decode the line."""


_DOUBTS: Final = (_DoubtError, UnreadableError, msgspec.DecodeError, UnicodeError, RecursionError)


class SpanDecoder:
    """Decode lines, and keep values that are equal in many spans only once."""

    def __init__(self) -> None:
        self._shared: dict[str, str] = {}
        self._ids: dict[str, str] = {}
        self._resources: dict[bytes, Mapping[str, Any]] = {}
        self._lists: dict[tuple[int, bytes], object] = {}

    def decode(
        self, raw: bytes, text: Text, offset: int, problems: list[str], wanted: str | None = None
    ) -> Iterable[Span]:
        """Return the readable spans of one line; append the reasons for the others to `problems`.

        Args:
            raw: The line.
            text: The text that it is from.
            offset: Where the line begins in the text.
            problems: The list of reasons.
            wanted: The id of the trace to read; None reads all traces.
        """
        try:
            return self._decode(raw, text, offset, wanted)
        except _DOUBTS:
            careful = _decode_carefully(raw, problems)
            return [span for span in careful if wanted is None or span.trace_id == wanted]

    def _decode(self, raw: bytes, text: Text, offset: int, wanted: str | None) -> list[Span]:
        if not raw.isascii():
            raw.decode()  # nothing checks the skipped parts later
        request = _requests.decode(raw)
        request = request.result or request
        if request.resourceSpans is None:
            raise _DoubtError
        found: list[Span] = []
        position = 0
        for owner in request.resourceSpans:
            resource = self._resource(bytes(owner.resource))
            for scope in owner.scopeSpans or ():
                for view in scope.spans or ():
                    written = bytes(view)
                    # Usually there is only a comma between two; searching costs more.
                    is_next = raw.startswith(written, position + 1)
                    position = position + 1 if is_next else raw.index(written, position)
                    span = self._span(written, text, offset + position, resource, wanted)
                    position += len(written)
                    if span is not None:
                        found.append(span)
        return found

    def _resource(self, raw: bytes) -> Mapping[str, Any]:
        known = self._resources.get(raw)
        if known is None:
            read = otlp.mapping(otlp.parse(raw), "resource")
            known = self._resources[raw] = otlp.attributes(read.get("attributes"))
        return known

    def _span(
        self, raw: bytes, text: Text, offset: int, resource: Mapping[str, Any], wanted: str | None
    ) -> Span | None:
        read = _spans.decode(raw)
        start, end = read.startTimeUnixNano, read.endTimeUnixNano
        start = end or 0 if start is None else start
        end = start if end is None else end
        if start not in _TIMES or end not in _TIMES:
            raise _DoubtError
        ids = self._ids  # a look-up here saves two calls for most spans
        trace_id = ids.get(read.traceId) or self._id(read.traceId, otlp.TRACE_ID)
        span_id, parent = read.spanId, read.parentSpanId
        if not _is_span_id(span_id) or not span_id.strip("0"):
            raise _DoubtError
        if parent is not None:
            parent = ids.get(parent) or (
                self._id(parent, otlp.SPAN_ID) if parent.strip("0") else None
            )
        known = self._facts(read.attributes or (), read.events or ())
        if wanted is not None and trace_id != wanted:
            return None
        if prefect_spans.is_native(known):
            known = prefect_spans.complete(known, readable_details_of(otlp.parse(raw)).events)
        upstream, previous = _links(read.links, trace_id) if read.links else ((), ())
        return Span.at(
            text,
            offset,
            len(raw),
            trace_id=trace_id,
            span_id=span_id,
            parent_span_id=parent,
            name=self._shared.setdefault(read.name or "", read.name or ""),
            kind=_known_kind(read.kind),
            start=start,
            end=end,
            status=_known_status(read.status.code if read.status else None),
            resource=resource,
            facts=known,
            upstream=upstream,
            previous=previous,
        )

    def _id(self, text: str, pattern: re.Pattern[str]) -> str:
        """Check an id that many spans share, and cache it."""
        if not pattern.fullmatch(text) or not text.strip("0"):
            raise _DoubtError
        self._ids[text] = text
        return text

    def _facts(self, attributes: Iterable[_KeyValue], events: Iterable[_Event]) -> Facts:
        # A span has about twenty attributes, so most of the time is spent here: make few calls, and
        # set fields by place.
        fields = _DEFAULTS.copy()
        fields[_RUNNING_SINCE] = _running_since(events)
        share, slot_of = self._shared.setdefault, _SLOTS.get
        for item in attributes:
            slot = slot_of(item.key)
            value = item.value
            text = value.stringValue
            if slot is None:
                if text is UNSET:
                    _plain(value)  # to check that it can be read
                continue
            place, read, is_shared = slot
            if text is not UNSET:
                fields[place] = share(text, text) if is_shared else read(text)
                continue
            number = value.doubleValue
            if number is UNSET:
                number = value.intValue
            if number is UNSET:
                number = value.boolValue
            if number is not UNSET:
                found = read(number)
            elif value.arrayValue is not _ABSENT:
                found = self._list(place, value.arrayValue, read)
            else:
                found = read(_plain(value))
            fields[place] = share(found, found) if is_shared and found is not None else found
        if before := fields[_DEPENDENCIES_BEFORE]:
            fields[_DEPENDENCIES] = inside(fields[_DEPENDENCIES], before)
        return Facts(*fields)

    def _list(self, place: int, written: msgspec.Raw, read: Callable[[object], object]) -> object:
        """Read a list that many spans share, such as their tags, only once."""
        key = place, bytes(written)
        known = self._lists.get(key)
        if known is None:
            known = self._lists[key] = read(_array(key[1]))
        return known


def _running_since(events: Iterable[_Event]) -> int | None:
    for event in events:
        if _RUNNING in bytes(event.attributes):  # a quote inside text would be escaped
            return event.timeUnixNano
    return None


def _plain(value: _Value) -> object:
    """Unwrap a value; lists and objects like `otlp_json.any_value`."""
    for kind in (value.doubleValue, value.intValue, value.boolValue, value.stringValue):
        if kind is not UNSET:
            return kind
    if value.arrayValue is not _ABSENT:
        return _array(bytes(value.arrayValue))
    if value.kvlistValue is not _ABSENT:
        return otlp.any_value({"kvlistValue": otlp.parse(bytes(value.kvlistValue))})
    return None if value.bytesValue is UNSET else value.bytesValue


def _array(written: bytes) -> object:
    return otlp.any_value({"arrayValue": otlp.parse(written)})


def _links(links: Iterable[_Link], trace_id: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return by_type(
        [
            (link.spanId.lower(), _link_type(link))
            for link in links
            if link.traceId == trace_id or link.traceId.lower() == trace_id
        ]
    )


def _link_type(link: _Link) -> object:
    for item in link.attributes or ():
        if item.key == semconv.LINK_TYPE:
            text = item.value.stringValue
            return _plain(item.value) if text is UNSET else text
    return None


def _kind(kind: object) -> str:
    return otlp.enum(kind, _KINDS, "SPAN_KIND_")


def _status(code: object) -> str:
    return otlp.enum(code, _STATUS_CODES, "STATUS_CODE_")


_known_kind: Final = functools.lru_cache(_kind)
_known_status: Final = functools.lru_cache(_status)


def _decode_carefully(raw: bytes, problems: list[str]) -> Iterator[Span]:
    try:
        for resource, _, spans in otlp.groups(raw, otlp.SPANS):
            for span in spans:
                try:
                    yield _span(span, resource)
                except UnreadableError as error:  # noqa: PERF203 - one span must not cost the others
                    problems.append(f"span skipped: {error}")
    except UnreadableError as error:
        problems.append(str(error))


def _span(raw: dict[str, Any], resource: Mapping[str, Any]) -> Span:
    start = raw.get("startTimeUnixNano")
    end = raw.get("endTimeUnixNano")
    details = details_of(raw)
    return Span(
        trace_id=otlp.identifier(raw.get("traceId"), otlp.TRACE_ID, "trace id"),
        span_id=otlp.identifier(raw.get("spanId"), otlp.SPAN_ID, "span id"),
        parent_span_id=otlp.optional_identifier(
            raw.get("parentSpanId"), otlp.SPAN_ID, "parent span id"
        ),
        name=otlp.text(raw.get("name")),
        kind=_kind(raw.get("kind")),
        start=otlp.unsigned(end if start is None else start, "start time"),
        end=otlp.unsigned(start if end is None else end, "end time"),
        status=_status(otlp.mapping(raw.get("status"), "status").get("code")),
        resource=resource,
        **details._asdict(),
    )
