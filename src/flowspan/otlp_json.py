"""Decode OTLP JSON lines, whatever their signal.

The encoding is that of protobuf's JSON mapping with OTLP's own exceptions
(https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding): 64-bit integers are text, though
numbers are read as well. What cannot be read raises `UnreadableError`, so that readers can name it
and go on.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

_SIGNALS: Final = {"resourceSpans": "spans", "resourceLogs": "logs", "resourceMetrics": "metrics"}
_INT64: Final = range(-(2**63), 2**63)
_UINT64: Final = range(2**64)


class SourceError(Exception):
    """The file or folder is missing, or holds no file to read."""


class UnreadableError(Exception):
    """A line, or a part of it, is not what OTLP says; the message is a `Problem`'s reason."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that could not be read; lines count from 1, 0 is the file itself."""

    file: Path
    line: int
    reason: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else str(self.file)
        return f"{place}: {self.reason}"


def find_files(source: Path, pattern: str) -> list[Path]:
    """List the files to read, newest first: `source` itself, or those in it that match.

    Raises:
        SourceError: There are none.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise SourceError(f"{source} does not exist.")
    files = [path for path in source.glob(pattern) if path.is_file()]
    if not files:
        raise SourceError(f"{source} holds no {pattern} file.")
    return sorted(files, key=_modified, reverse=True)


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file, counted from 1."""
    with path.open("rb") as file:
        yield from enumerate(file, 1)


def request(raw: bytes, field: str) -> dict[str, Any]:
    """Parse one line; a blank one is an empty request.

    Args:
        raw: The line.
        field: Where requests of the wanted signal hold their data, e.g. ``resourceSpans``.
    """
    line = raw.strip().removeprefix(b"\xef\xbb\xbf")
    if not line:
        return {}
    found = _json(line)
    if not isinstance(found, dict):
        raise UnreadableError("not OTLP: JSON, but no object")
    if field not in found:
        other = next((name for key, name in _SIGNALS.items() if key in found), None)
        raise UnreadableError(
            f"holds {other}, not {_SIGNALS[field]}" if other else f"not OTLP: no {field}"
        )
    return found


def _json(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        pass
    try:
        # An undecodable file name in an error message is a lone surrogate: legal for the writer
        # and for the standard library, not for orjson. It must not cost the rest of the line.
        return json.loads(json.dumps(json.loads(line), ensure_ascii=False).encode(errors="replace"))
    except UnicodeDecodeError:
        raise UnreadableError("not UTF-8 text") from None
    except (ValueError, RecursionError):
        cut_off = line.startswith(b"{") and not line.endswith(b"}")
        raise UnreadableError(
            "cut off: the line ends in the middle" if cut_off else "not JSON"
        ) from None


def unsigned(value: Any, what: str) -> int:
    """Read a 64-bit unsigned integer, e.g. nanoseconds or a count; 0 where there is none."""
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
    """Read a 64-bit signed integer; anything else is returned as it is."""
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        if int(value) in _INT64:
            return int(value)
    return value


def double(value: Any) -> Any:
    """Read a floating point number, also "NaN" and "Infinity"; anything else is returned as is."""
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return float(value)
    return value


def enum(value: Any, names: Sequence[str], prefix: str) -> str:
    """Name an enum value: OTLP JSON writes numbers, other writers of protobuf JSON names."""
    if isinstance(value, str) and value.removeprefix(prefix) in names:
        return value.removeprefix(prefix)
    if isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return names[0]


def text(value: Any) -> str:
    """Read text; empty where there is none."""
    return "" if value is None else str(value)


def mapping(value: Any, what: str) -> dict[str, Any]:
    """Read an object; empty where there is none."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UnreadableError(f"not OTLP: {what} is no object")
    return value


def mappings(value: Any, what: str) -> list[dict[str, Any]]:
    """Read a list of objects; empty where there is none."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise UnreadableError(f"not OTLP: {what} is no list of objects")
    return value


def attributes(value: Any) -> dict[str, Any]:
    """Read a list of key-value pairs.

    Values are ``str``, ``bool``, ``int``, ``float``, ``None``, or lists and dicts of these; bytes
    stay base64 text.
    """
    items = mappings(value, "attributes")
    return {text(item.get("key")): _any_value(item.get("value")) for item in items}


def _any_value(wrapped: Any) -> Any:
    """Unwrap an OTLP ``AnyValue``."""
    if not isinstance(wrapped, dict) or not wrapped:
        return None
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
            value = [_any_value(item) for item in values]
        case "kvlistValue":
            value = attributes(mapping(value, kind).get("values"))
    return value


def plain(value: Any) -> Any:
    """Make an attribute's value fit for JSON: numbers it lacks become text, as in OTLP."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"inf": "Infinity", "-inf": "-Infinity"}.get(str(value), "NaN")
    return value


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
