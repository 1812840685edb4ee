"""Turn OTLP protobuf into lines of OTLP JSON."""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING, Any, Final

import orjson

from flowspan.read import otlp_json as otlp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, TracesData

_LENGTH: Final = struct.Struct(">I")


def to_json_lines(data: bytes) -> bytes | None:
    """Convert each message of spans to a line; None if `data` has no such messages.

    `data` is one ``TracesData`` or ``ExportTraceServiceRequest``, which have the same encoding, or
    any number of them, each preceded by its length in 4 bytes, big-endian, as the Collector's file
    exporter writes them. An unreadable message ends the conversion: the last line is then cut off
    and not valid JSON.
    """
    single = _parse(data)
    messages = [single] if single is not None else list(_delimited(data))
    if not messages or messages[0] is None:
        return None
    return b"".join(b"{" if message is None else _line(message) for message in messages)


def _delimited(data: bytes) -> Iterator[TracesData | None]:
    """Yield the length-prefixed messages; None, at the end, for one that cannot be read."""
    position = 0
    while position < len(data):
        start = position + _LENGTH.size
        position = start
        if start <= len(data):
            position += _LENGTH.unpack_from(data, start - _LENGTH.size)[0]
        message = _parse(data[start:position]) if position <= len(data) else None
        yield message
        if message is None:
            return


def _parse(data: bytes) -> TracesData | None:
    """Parse a message; None if it is invalid or has no spans: a message of logs parses, too."""
    from google.protobuf.message import (  # type: ignore[import-untyped]  # noqa: PLC0415 - heavy and rarely needed
        DecodeError,
    )
    from opentelemetry.proto.trace.v1.trace_pb2 import TracesData  # noqa: PLC0415 - as above

    message = TracesData()
    try:
        message.ParseFromString(data)
    except DecodeError:
        return None
    spans = (s for r in message.resource_spans for scope in r.scope_spans for s in scope.spans)
    return message if any(span.trace_id for span in spans) else None


def _line(message: TracesData) -> bytes:
    request = {"resourceSpans": [_resource_spans(owner) for owner in message.resource_spans]}
    return orjson.dumps(request, option=orjson.OPT_APPEND_NEWLINE)


def _resource_spans(owner: ResourceSpans) -> dict[str, Any]:
    return {
        "resource": {"attributes": _attributes(owner.resource.attributes)},
        "scopeSpans": [
            {
                "scope": {"name": group.scope.name, "version": group.scope.version},
                "spans": [_span(span) for span in group.spans],
            }
            for group in owner.scope_spans
        ],
    }


def _span(span: Span) -> dict[str, Any]:
    return {
        "traceId": span.trace_id.hex(),
        "spanId": span.span_id.hex(),
        "parentSpanId": span.parent_span_id.hex(),
        "name": span.name,
        "kind": span.kind,
        "startTimeUnixNano": str(span.start_time_unix_nano),
        "endTimeUnixNano": str(span.end_time_unix_nano),
        "attributes": _attributes(span.attributes),
        "events": [
            {
                "timeUnixNano": str(event.time_unix_nano),
                "name": event.name,
                "attributes": _attributes(event.attributes),
            }
            for event in span.events
        ],
        "links": [
            {
                "traceId": link.trace_id.hex(),
                "spanId": link.span_id.hex(),
                "attributes": _attributes(link.attributes),
            }
            for link in span.links
        ],
        "status": {"code": span.status.code, "message": span.status.message},
    }


def _attributes(items: Iterable[KeyValue]) -> list[dict[str, Any]]:
    return [{"key": item.key, "value": _value(item.value)} for item in items]


def _value(value: AnyValue) -> dict[str, Any]:
    """Convert a value to the JSON encoding; protobuf itself limits how deeply values nest."""
    kind = value.WhichOneof("value")
    if kind is None:
        return {}
    name, write = _WRITERS[kind]
    return {name: write(getattr(value, kind))}


_WRITERS: Final[Mapping[str, tuple[str, Callable[[Any], object]]]] = {
    "string_value": ("stringValue", str),
    "bool_value": ("boolValue", bool),
    "int_value": ("intValue", str),
    "double_value": ("doubleValue", otlp.plain),
    "bytes_value": ("bytesValue", lambda value: base64.b64encode(value).decode()),
    "array_value": ("arrayValue", lambda array: {"values": [*map(_value, array.values)]}),
    "kvlist_value": ("kvlistValue", lambda items: {"values": _attributes(items.values)}),
}
