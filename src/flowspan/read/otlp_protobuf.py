"""Turn OTLP protobuf, spans or log records, into lines of OTLP JSON."""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING, Any, Final

import orjson

from flowspan.read import otlp_json as otlp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, LogsData
    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, TracesData

    from flowspan.read.otlp_json import Signal

_LENGTH: Final = struct.Struct(">I")


def to_json_lines(data: bytes, signal: Signal = otlp.SPANS) -> bytes | None:
    """Convert each message of a signal to a line; None if `data` has no such messages.

    `data` is one ``TracesData`` or ``ExportTraceServiceRequest``, which have the same encoding, or
    any number of them, each preceded by its length in 4 bytes, big-endian, as the Collector's file
    exporter writes them. The same is true of ``LogsData``. An unreadable message ends the
    conversion: the last line is then cut off and not valid JSON.
    """
    parse, write = (_parse_logs, _log_line) if signal is otlp.LOGS else (_parse, _line)
    single = parse(data)
    messages = [single] if single is not None else list(_delimited(data, parse))
    if not messages or messages[0] is None:
        return None
    return b"".join(b"{" if message is None else write(message) for message in messages)


def _delimited(data: bytes, parse: Callable[[bytes], Any]) -> Iterator[Any]:
    """Yield the length-prefixed messages; None, at the end, for one that cannot be read."""
    position = 0
    while position < len(data):
        start = position + _LENGTH.size
        position = start
        if start <= len(data):
            position += _LENGTH.unpack_from(data, start - _LENGTH.size)[0]
        message = parse(data[start:position]) if position <= len(data) else None
        yield message
        if message is None:
            return


def _parse(data: bytes) -> TracesData | None:
    """Parse a message; None if it is invalid or has no spans: a message of logs parses, too."""
    from opentelemetry.proto.trace.v1.trace_pb2 import TracesData  # noqa: PLC0415 - heavy and rarely needed

    message = TracesData()
    if not _is_parsed(message, data):
        return None
    spans = (s for r in message.resource_spans for scope in r.scope_spans for s in scope.spans)
    return message if any(span.trace_id for span in spans) else None


def _parse_logs(data: bytes) -> LogsData | None:
    """Parse a message; None if it is invalid or has no log records."""
    from opentelemetry.proto.logs.v1.logs_pb2 import LogsData  # noqa: PLC0415 - as above

    message = LogsData()
    if not _is_parsed(message, data):
        return None
    records = (one for r in message.resource_logs for s in r.scope_logs for one in s.log_records)
    return message if any(one.time_unix_nano for one in records) else None


def _is_parsed(message: TracesData | LogsData, data: bytes) -> bool:
    from google.protobuf.message import (  # type: ignore[import-untyped]  # noqa: PLC0415 - as above
        DecodeError,
    )

    try:
        message.ParseFromString(data)
    except DecodeError:
        return False
    return True


def _log_line(message: LogsData) -> bytes:
    owners = [
        {
            "resource": {"attributes": _attributes(owner.resource.attributes)},
            "scopeLogs": [
                {
                    "scope": {"name": group.scope.name, "version": group.scope.version},
                    "logRecords": [_log_record(record) for record in group.log_records],
                }
                for group in owner.scope_logs
            ],
        }
        for owner in message.resource_logs
    ]
    return orjson.dumps({"resourceLogs": owners}, option=orjson.OPT_APPEND_NEWLINE)


def _log_record(record: LogRecord) -> dict[str, Any]:
    return {
        "timeUnixNano": str(record.time_unix_nano),
        "severityNumber": record.severity_number,
        "severityText": record.severity_text,
        "body": _value(record.body),
        "attributes": _attributes(record.attributes),
        "traceId": record.trace_id.hex(),
        "spanId": record.span_id.hex(),
        "eventName": record.event_name,
    }


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
