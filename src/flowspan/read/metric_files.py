"""Read metrics from OTLP JSON lines, and add up each one over time and processes.

Each line is one ``ExportMetricsServiceRequest`` in the OTLP JSON encoding. In a cumulative series
only the latest point counts, in a delta series every point; a process that restarts begins a new
series (https://opentelemetry.io/docs/specs/otel/metrics/data-model/#temporality). Unreadable parts
become a `Problem`; everything else is still returned.
"""

import contextlib
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import orjson

from flowspan import semconv
from flowspan.places import Folders
from flowspan.read import lines
from flowspan.read import otlp_json as otlp
from flowspan.read.distribution import Bucket, Distribution
from flowspan.read.lines import Problem
from flowspan.read.otlp_json import UnreadableError

FILE_PATTERN: Final = "metrics*.jsonl"

# The kinds of data that a metric may have, by their names in OTLP
_GAUGE: Final = ("gauge",)
_COUNTER: Final = ("sum",)
_HISTOGRAM: Final = ("histogram", "exponentialHistogram")
_KINDS: Final = {
    semconv.METRIC_PIPELINE_RUN_DURATION: _HISTOGRAM,
    semconv.METRIC_PIPELINE_RUN_ERRORS: _COUNTER,
    semconv.METRIC_FLOW_RUNS: _COUNTER,
    semconv.METRIC_TASK_RUNS: _COUNTER,
    semconv.METRIC_TASK_RUN_DURATION: _HISTOGRAM,
    semconv.METRIC_TASK_RUN_WAIT: _HISTOGRAM,
    semconv.METRIC_TASK_RUN_RETRIES: _COUNTER,
    semconv.METRIC_TASK_ROWS: _HISTOGRAM,
    semconv.METRIC_SLO_VIOLATIONS: _COUNTER,
}
_TEMPORALITIES: Final = ("UNSPECIFIED", "DELTA", "CUMULATIVE")
_NO_RECORDED_VALUE: Final = 1  # the flag of a point that only marks the end of its series
_GREATEST_EXPONENT: Final = 63
_LIMIT: Final = 2.0**_GREATEST_EXPONENT  # larger numbers cannot be seconds, rows or runs
_SCALES: Final = range(-9, 64)  # others give a base that is not a float; the SDK's end at 20


@dataclass(frozen=True, slots=True)
class Counter:
    """How often something happened."""

    name: str
    attributes: Mapping[str, Any]
    value: int


@dataclass(frozen=True, slots=True)
class Histogram:
    """How something was distributed; durations are in seconds."""

    name: str
    attributes: Mapping[str, Any]
    values: Distribution


@dataclass(frozen=True, slots=True)
class Gauge:
    """The latest value of something, and its time in nanoseconds since the epoch."""

    name: str
    attributes: Mapping[str, Any]
    value: float
    unit: str
    time: int


@dataclass(frozen=True, slots=True)
class Metrics:
    """flowspan's metrics, one for each set of attributes, and the problems while reading.

    `start` and `end` are the first and the last time, in nanoseconds since the epoch.
    """

    counters: tuple[Counter, ...]
    histograms: tuple[Histogram, ...]
    gauges: tuple[Gauge, ...]
    start: int
    end: int
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _Stream:
    """The properties that all points of one metric on one line share."""

    name: str
    unit: str
    kind: str
    is_delta: bool
    origin: str
    file: Path
    line: int


@dataclass(frozen=True, slots=True)
class _Point:
    """A data point; its value is decoded only if it counts."""

    stream: _Stream
    attributes: Mapping[str, Any]
    key: str
    start: int
    time: int
    raw: Mapping[str, Any]

    @property
    def series(self) -> tuple[object, ...]:
        """The key of the series, of whose points only the latest counts."""
        if self.stream.kind in _GAUGE:
            return self.stream.name, self.key
        return self.stream.name, self.key, self.start, self.stream.origin


_Decoded: TypeAlias = tuple[Mapping[str, Any], str]


@dataclass(slots=True)
class _Found:
    decoded: dict[bytes, _Decoded] = field(default_factory=dict)
    latest: dict[tuple[object, ...], _Point] = field(default_factory=dict)
    counters: dict[tuple[str, str], Counter] = field(default_factory=dict)
    histograms: dict[tuple[str, str], Histogram] = field(default_factory=dict)
    gauges: list[Gauge] = field(default_factory=list)
    start: int = 0
    end: int = 0
    problems: list[Problem] = field(default_factory=list)

    @contextlib.contextmanager
    def noting(self, file: Path, line: int, skipped: str = "") -> Iterator[None]:
        """Turn an `UnreadableError` into a problem."""
        try:
            yield
        except UnreadableError as error:
            reason = f"{skipped} skipped: {error}" if skipped else str(error)
            self.problems.append(Problem(file, line, reason))


def load(source: Path | Folders) -> Metrics:
    """Read all metrics of runs.

    Args:
        source: A file of OTLP JSON lines, or folders with ``metrics*.jsonl``.

    Raises:
        SourceError: There is nothing to read at `source`.
    """
    found = _Found()
    files = lines.find_files(source, FILE_PATTERN)
    for path, number, raw in lines.lines(files, found.problems):
        with found.noting(path, number):
            _read_line(raw, path, number, found)
    for point in found.latest.values():
        with found.noting(point.stream.file, point.stream.line, point.stream.name):
            _add(point, found)
    return Metrics(
        tuple(found.counters.values()),
        tuple(found.histograms.values()),
        tuple(found.gauges),
        found.start,
        found.end,
        tuple(found.problems),
    )


def _read_line(raw: bytes, file: Path, line: int, found: _Found) -> None:
    for origin, metric in _metrics(raw):
        name = str(metric.get("name"))
        kinds = _GAUGE if name.startswith(semconv.METRIC_CUSTOM_PREFIX) else _KINDS.get(name)
        if kinds is None:
            continue
        with found.noting(file, line, name):
            kind, data = _data(metric, kinds)
            unit, is_delta = otlp.text(metric.get("unit")), _is_delta(data, kind)
            stream = _Stream(name, unit, kind, is_delta, origin, file, line)
            for raw_point in otlp.mappings(data.get("dataPoints"), "dataPoints"):
                with found.noting(file, line, name):
                    _take(_point(raw_point, stream, found.decoded), found)


def _metrics(raw: bytes) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield all metrics, each with a text that identifies its resource and scope."""
    for resource, scope, metrics in otlp.groups(raw, otlp.METRICS):
        origin = f"{_key(resource)} {scope.get('name')} {scope.get('version')}"
        for metric in metrics:
            yield origin, metric


def _data(metric: Mapping[str, Any], kinds: Sequence[str]) -> tuple[str, Mapping[str, Any]]:
    for kind in kinds:
        if kind in metric:
            return kind, otlp.mapping(metric[kind], kind)
    raise UnreadableError(f"it is no {kinds[0]}")


def _is_delta(data: Mapping[str, Any], kind: str) -> bool:
    if kind in _GAUGE:
        return False
    found = data.get("aggregationTemporality")
    temporality = otlp.enum(found, _TEMPORALITIES, "AGGREGATION_TEMPORALITY_")
    if temporality == "UNSPECIFIED":
        raise UnreadableError("it is neither cumulative nor delta")
    return temporality == "DELTA"


def _point(raw: Mapping[str, Any], stream: _Stream, decoded: dict[bytes, _Decoded]) -> _Point:
    # The same few attributes recur; encoding them costs a tenth of decoding them.
    try:
        written = orjson.dumps(raw.get("attributes"))
    except orjson.JSONEncodeError:
        raise UnreadableError("its attributes are out of range") from None
    if written not in decoded:
        attributes = otlp.attributes(raw.get("attributes"))
        decoded[written] = attributes, _key(attributes)
    return _Point(
        stream,
        *decoded[written],
        otlp.unsigned(raw.get("startTimeUnixNano"), "start time"),
        otlp.unsigned(raw.get("timeUnixNano"), "time"),
        raw,
    )


def _key(attributes: Mapping[str, Any]) -> str:
    """Return attributes as text, independent of their order."""
    return repr(sorted(attributes.items()))


def _take(point: _Point, found: _Found) -> None:
    """Add a delta point; keep a cumulative one if it is the latest of its series so far."""
    if otlp.unsigned(point.raw.get("flags"), "flags") & _NO_RECORDED_VALUE:
        return
    start = point.start or point.time
    found.start = min(start, found.start or start)
    found.end = max(point.time, found.end)
    if point.stream.is_delta:
        _add(point, found)
        return
    known = found.latest.get(point.series)
    if known is None or point.time > known.time:
        found.latest[point.series] = point


def _add(point: _Point, found: _Found) -> None:
    stream = point.stream
    if stream.kind in _GAUGE:
        value = _value(point.raw)
        found.gauges.append(Gauge(stream.name, point.attributes, value, stream.unit, point.time))
    elif stream.kind in _COUNTER:
        _add_count(point, found.counters)
    else:
        _add_values(point, found.histograms)


def _add_count(point: _Point, counters: dict[tuple[str, str], Counter]) -> None:
    value = _value(point.raw)
    if not abs(value) < _LIMIT:
        raise UnreadableError("its value is out of range")
    name = point.stream.name
    known = counters.get((name, point.key))
    total = round(value) + (known.value if known else 0)
    counters[name, point.key] = Counter(name, point.attributes, total)


def _add_values(point: _Point, histograms: dict[tuple[str, str], Histogram]) -> None:
    buckets = _buckets(point)
    name = point.stream.name
    if (name, point.key) not in histograms:
        histograms[name, point.key] = Histogram(name, point.attributes, Distribution())
    histograms[name, point.key].values.add_histogram(
        buckets,
        total=_measure(point.raw.get("sum")) or 0.0,
        least=_measure(point.raw.get("min")),
        most=_measure(point.raw.get("max")),
    )


def _value(raw: Mapping[str, Any]) -> float:
    value = otlp.integer(raw["asInt"]) if "asInt" in raw else otlp.double(raw.get("asDouble"))
    if not isinstance(value, (int, float)):
        raise UnreadableError("its value is no number")
    return value


def _measure(value: Any) -> float | None:
    number = otlp.double(value)
    return number if isinstance(number, float) and abs(number) < _LIMIT else None


def _buckets(point: _Point) -> list[Bucket]:
    if point.stream.kind == "exponentialHistogram":
        return _exponential_buckets(point.raw)
    counts = _counts(point.raw) or [otlp.unsigned(point.raw.get("count"), "count")]
    bounds = _bounds(point.raw)
    if len(counts) != len(bounds) + 1:
        raise UnreadableError("its buckets do not fit their bounds")
    edges = (-math.inf, *bounds, math.inf)
    return [bucket for bucket in zip(edges, edges[1:], counts, strict=False) if bucket[2]]


def _bounds(raw: Mapping[str, Any]) -> list[float]:
    bounds = _items(raw, "explicitBounds")
    limited = [-_LIMIT, *bounds, _LIMIT] if {int, float}.issuperset(map(type, bounds)) else [0, 0]
    if not all(map(operator.lt, limited, limited[1:])):
        raise UnreadableError("its bounds are no ascending numbers")
    return bounds


def _exponential_buckets(raw: Mapping[str, Any]) -> list[Bucket]:
    """Return exponential buckets with their bounds; no duration or row count is negative.

    https://opentelemetry.io/docs/specs/otel/metrics/data-model/#exponential-buckets
    """
    positive = otlp.mapping(raw.get("positive"), "positive")
    scale, offset = otlp.integer(raw.get("scale", 0)), otlp.integer(positive.get("offset", 0))
    if scale not in _SCALES or not isinstance(offset, int):
        raise UnreadableError("its buckets have no usable scale")
    zero = (0.0, 0.0, otlp.unsigned(raw.get("zeroCount"), "zero count"))
    return [
        zero,
        *(
            (_power(index, scale), _power(index + 1, scale), count)
            for index, count in enumerate(_counts(positive), offset)
        ),
    ]


def _power(index: int, scale: int) -> float:
    power = 2.0 ** min(math.ldexp(index, -scale), _GREATEST_EXPONENT)
    return power if power < _LIMIT else math.inf


def _counts(raw: Mapping[str, Any]) -> list[int]:
    try:
        counts = list(map(int, _items(raw, "bucketCounts")))
    except (ValueError, TypeError, OverflowError):
        raise UnreadableError("its bucket counts are no numbers") from None
    if counts and not 0 <= min(counts) <= max(counts) < _LIMIT:
        raise UnreadableError("its bucket counts are out of range")
    return counts


def _items(raw: Mapping[str, Any], field: str) -> list[Any]:
    value = raw.get(field) or []
    if not isinstance(value, list):
        raise UnreadableError(f"its {field} is no list")
    return value
