"""Decode OTLP JSON lines of any signal.

The encoding is protobuf's JSON mapping with OTLP's own exceptions
(https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding): 64-bit integers are text, but
numbers are accepted, too. Unreadable parts raise `UnreadableError`, so that readers can report them
and continue.
"""

import contextlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

# OpenTelemetry's own resource attribute; flowspan's semconv lists only what flowspan writes.
SERVICE_NAME: Final = "service.name"

TRACE_ID: Final = re.compile(r"[0-9a-f]{32}")
SPAN_ID: Final = re.compile(r"[0-9a-f]{16}")

_INT64: Final = range(-(2**63), 2**63)
_UINT64: Final = range(2**64)
_JSON_INTEGERS: Final = range(-(2**63), 2**64)  # what orjson writes as a number
_DEEPEST: Final = 64  # levels of a value; both JSON parsers and Python's stack have a limit


class Signal(NamedTuple):
    """The keys of a signal's requests: the entries are grouped by resource and by scope."""

    name: str
    resources: str
    scopes: str
    entries: str


SPANS: Final = Signal("spans", "resourceSpans", "scopeSpans", "spans")
LOGS: Final = Signal("logs", "resourceLogs", "scopeLogs", "logRecords")
METRICS: Final = Signal("metrics", "resourceMetrics", "scopeMetrics", "metrics")

Group: TypeAlias = tuple[Mapping[str, Any], Mapping[str, Any], Sequence[dict[str, Any]]]
"""The attributes of a resource, a scope, and the entries that share both."""


class UnreadableError(Exception):
    """A line, or a part of it, is not valid OTLP; the message is a `Problem`'s reason."""


def groups(raw: bytes, signal: Signal) -> Iterator[Group]:
    """Yield the groups of one line; a blank line has none."""
    for owner in mappings(_request(raw, signal).get(signal.resources), signal.resources):
        resource = attributes(mapping(owner.get("resource"), "resource").get("attributes"))
        for group in mappings(owner.get(signal.scopes), signal.scopes):
            scope = mapping(group.get("scope"), "scope")
            yield resource, scope, mappings(group.get(signal.entries), signal.entries)


def _request(raw: bytes, signal: Signal) -> dict[str, Any]:
    line = raw.strip().removeprefix(b"\xef\xbb\xbf")
    if not line:
        return {}
    found = parse(line)
    if not isinstance(found, dict):
        raise UnreadableError("not OTLP: JSON, but no object")
    # Jaeger's API wraps each request, like all answers of a gRPC stream over HTTP.
    if isinstance(wrapped := found.get("result"), dict):
        found = wrapped
    if signal.resources not in found:
        other = next((s.name for s in (SPANS, LOGS, METRICS) if s.resources in found), None)
        raise UnreadableError(
            f"holds {other}, not {signal.name}" if other else f"not OTLP: no {signal.resources}"
        )
    return found


def parse(line: bytes) -> Any:
    """Parse JSON, including lone surrogates.

    Raises:
        UnreadableError: Not valid JSON.
    """
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        pass
    try:
        # An undecodable file name in an error message has a lone surrogate. The writer and the
        # standard library accept it, orjson does not. The rest of the line must not be lost.
        return json.loads(json.dumps(json.loads(line), ensure_ascii=False).encode(errors="replace"))
    except UnicodeDecodeError:
        raise UnreadableError("not UTF-8 text") from None
    except (ValueError, RecursionError):
        cut_off = line.startswith(b"{") and not line.endswith(b"}")
        raise UnreadableError(
            "cut off: the line ends in the middle" if cut_off else "not JSON"
        ) from None


def unsigned(value: Any, what: str) -> int:
    """Read a 64-bit unsigned integer, e.g. nanoseconds or a count; 0 if it is missing."""
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise UnreadableError(f"its {what} is no number")
    try:
        number = int(value)
    except (ValueError, OverflowError):
        raise UnreadableError(f"its {what} is no number") from None
    if number not in _UINT64:
        raise UnreadableError(f"its {what} is out of range")
    return number


def integer(value: Any) -> Any:
    """Read a 64-bit signed integer; return anything else unchanged."""
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        if int(value) in _INT64:
            return int(value)
    return value


def double(value: Any) -> Any:
    """Read a floating point number, also "NaN" and "Infinity"; return anything else unchanged."""
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return float(value)
    return value


def enum(value: Any, names: Sequence[str], prefix: str) -> str:
    """Return the name of an enum value: OTLP JSON has numbers, other protobuf JSON names."""
    if isinstance(value, str) and value.removeprefix(prefix) in names:
        return value.removeprefix(prefix)
    if isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return names[0]


def text(value: Any) -> str:
    """Read text; empty if it is missing."""
    return "" if value is None else str(value)


def mapping(value: Any, what: str) -> dict[str, Any]:
    """Read an object; empty if it is missing."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UnreadableError(f"not OTLP: {what} is no object")
    return value


def mappings(value: Any, what: str) -> list[dict[str, Any]]:
    """Read a list of objects; empty if it is missing."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise UnreadableError(f"not OTLP: {what} is no list of objects")
    return value


def identifier(value: Any, pattern: re.Pattern[str], what: str) -> str:
    """Read a hexadecimal id in lower case; it must not be all zeros."""
    found = value.lower() if isinstance(value, str) else ""
    if not pattern.fullmatch(found) or not found.strip("0"):
        raise UnreadableError(f"its {what} is malformed" if value else f"no {what}")
    return found


def optional_identifier(value: Any, pattern: re.Pattern[str], what: str) -> str | None:
    """Read an id that may be missing: absent, empty or zeros."""
    if value is None or (isinstance(value, str) and not value.strip("0")):
        return None
    return identifier(value, pattern, what)


def attributes(value: Any) -> dict[str, Any]:
    """Read a list of key-value pairs; see `any_value` for the values."""
    return _attributes(value, 0)


def any_value(value: Any) -> Any:
    """Unwrap an OTLP ``AnyValue``.

    The result is a ``str``, ``bool``, ``int``, ``float``, ``None``, or a list or dict of these;
    bytes stay base64 text.
    """
    return _any_value(value, 0)


def _attributes(value: Any, depth: int) -> dict[str, Any]:
    items = mappings(value, "attributes")
    return {text(item.get("key")): _any_value(item.get("value"), depth) for item in items}


def _any_value(wrapped: Any, depth: int) -> Any:
    if not isinstance(wrapped, dict) or not wrapped:
        return None
    if depth > _DEEPEST:
        raise UnreadableError("a value is nested too deeply")
    kind, value = next(iter(wrapped.items()))
    match kind:
        case "stringValue" | "bytesValue":
            value = text(value)
        case "intValue":
            value = integer(value)
        case "doubleValue":
            value = double(value)
        case "arrayValue":
            values = mappings(mapping(value, kind).get("values"), kind)
            value = [_any_value(item, depth + 1) for item in values]
        case "kvlistValue":
            value = _attributes(mapping(value, kind).get("values"), depth + 1)
        case _ if isinstance(value, (dict, list)):
            value = None  # not a kind that OTLP has
    return value


def plain(value: Any) -> Any:
    """Convert an attribute's value for JSON: numbers that JSON lacks become text, as in OTLP."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, int) and value not in _JSON_INTEGERS:
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return {"inf": "Infinity", "-inf": "-Infinity"}.get(str(value), "NaN")
    return value
