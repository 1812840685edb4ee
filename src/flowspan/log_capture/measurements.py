"""Measurements that users write as log lines, such as ``METRIC: rows_extracted=1234``.

`parse` reads them, and `LogMeasure` finds them in lines of all loggers of `logging`, including
Prefect's and captured prints, and of structlog. Nothing here blocks, and a line that cannot be
parsed stays a log line.
"""

import contextlib
import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from numbers import Integral, Real
from typing import Any, Final, NamedTuple, SupportsFloat, cast

from flowspan._containment import Containment
from flowspan.log_capture.hooks import Line
from flowspan.recording.recorder import current_recorder
from flowspan.redaction import redact
from flowspan.values import LAST_INT, is_a

Attribute = str | bool | int | float


class Measurement(NamedTuple):
    """One value of one of the user's own metrics.

    Attributes:
        name: The metric's name, without flowspan's prefix.
        value: A 64-bit integer or a finite float, as in OTLP.
        unit: Its unit, a code of UCUM (https://ucum.org/ucum).
        attributes: Its attributes.
    """

    name: str
    value: float
    unit: str
    attributes: Mapping[str, Attribute]


Sink = Callable[[Measurement], None]


class _Quantity(NamedTuple):
    value: float
    unit: str


_Value = _Quantity | Attribute

# OpenTelemetry allows 255 characters, including flowspan's prefix:
# https://opentelemetry.io/docs/specs/otel/metrics/api/#instrument-name-syntax
_NAME: Final = r"[A-Za-z][A-Za-z0-9_./-]{0,199}"
_IS_NAME: Final = re.compile(_NAME)
_HEAD: Final = re.compile(r"\s*METRIC(?::|\s|\Z)\s*")
_PAIR: Final = re.compile(rf"""({_NAME})=(?:"([^"]*)"|'([^']*)'|([^\s,='"]+))(?:\s*,\s*|\s+|\Z)""")
_NUMBER: Final = re.compile(
    r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    # At most 63 characters with the braces around both, OpenTelemetry's limit.
    r"([\u00b5\u03bc]s|(?:[A-Za-z]{1,28}|%)(?:/[A-Za-z]{1,28})?)?"
)
# A hexadecimal number, such as a commit, is not a decimal number with a unit.
_IS_HEXADECIMAL: Final = re.compile(r"0[xX][0-9A-Fa-f]+|[0-9]+(?:[a-f]{2,}|[A-F]{2,})")
_IS_NOT_FINITE: Final = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_MOST_DIGITS: Final = 20  # of a 64-bit integer, with its sign
_LONGEST_UNIT: Final = 63  # https://opentelemetry.io/docs/specs/otel/metrics/api/#instrument-unit

# By symbol: multiplier, divisor, unit. Both are whole numbers, because 0.001 is not exactly a
# thousandth.
_UNITS: Final[dict[str, tuple[int, int, str]]] = {
    "": (1, 1, "1"),
    "%": (1, 1, "%"),
    "ns": (1, 10**9, "s"),
    "us": (1, 10**6, "s"),
    "\N{MICRO SIGN}s": (1, 10**6, "s"),
    "\N{GREEK SMALL LETTER MU}s": (1, 10**6, "s"),
    "ms": (1, 10**3, "s"),
    "s": (1, 1, "s"),
    "min": (60, 1, "s"),
    "h": (3600, 1, "s"),
    "d": (86400, 1, "s"),
    "B": (1, 1, "By"),
    "KB": (1000, 1, "By"),
    **{f"{prefix}B": (1000**power, 1, "By") for power, prefix in enumerate("kMGTP", 1)},
    **{f"{prefix}iB": (1024**power, 1, "By") for power, prefix in enumerate("KMGTP", 1)},
}

# Keys that structlog's own loggers and processors use, besides those that start with "_".
_OF_STRUCTLOG: Final = frozenset(
    {
        *("event", "exc_info", "exception", "extra", "level", "level_number", "logger"),
        *("logger_name", "positional_args", "stack", "stack_info", "stacklevel", "timestamp"),
    }
)

_contained: Final = Containment("logs")


def parse(text: str) -> list[Measurement]:
    """Read the measurements in `text`, such as ``METRIC: rows=5, took=3.2s table=orders``.

    Each line is read separately. It starts with ``METRIC:`` or ``METRIC`` and a space, and contains
    only pairs ``key=value``, separated by spaces or commas. Numbers are measurements. All other
    values are attributes of all measurements in the line: words such as ``2024-01-05``, ``1.2.3``
    or ``12ab34``, and everything in ``"`` or ``'``.

    A unit follows its number directly. Because OpenTelemetry asks for units without prefixes
    (https://opentelemetry.io/docs/specs/semconv/general/metrics/#instrument-units), durations (ns,
    us, µs, ms, s, min, h, d) become seconds, and sizes (B, kB or KB, MB, GB, TB, PB by 1000; KiB,
    MiB, GiB, TiB, PiB by 1024) become bytes, ``By``. Percents stay percents. Any other word becomes
    a UCUM annotation: ``5rows`` has the unit ``{rows}``. So does ``m``, which may be metres or
    minutes. A rate is one unit per another: ``10MB/s``.

    Returns:
        The measurements; none for a malformed line, which has no number, something that is not a
        pair, a repeated key, a key that cannot name a metric, or a number that is not finite.
    """
    return _read(text, {})


def check(
    name: str,
    value: SupportsFloat,
    unit: str = "1",
    attributes: Mapping[str, Attribute] | None = None,
) -> Measurement:
    """Check a user's arguments and return a measurement.

    Args:
        name: Up to 200 letters, digits and ``_ . - /``, the first one a letter.
        value: Any real number: Python's, NumPy's, a Fraction or a Decimal.
        unit: Up to 63 ASCII characters, by convention a code of UCUM, such as ``s`` or ``{row}``.
        attributes: Its attributes: strings, numbers and booleans.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: `name` or `unit` is invalid or too long, or `value` is not finite.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a metric must be a str, not {name!r}")
    if not _IS_NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot name a metric: use up to 200 ASCII letters, digits and _ . - /, "
            "the first one a letter, such as rows_extracted"
        )
    if is_a(value, bool) or not is_a(value, (Real, Decimal)):
        raise TypeError(
            f"the value of {name} must be a number, not {redact(value)!r}: "
            "convert it with int() or float()"
        )
    attributes = {} if attributes is None else attributes
    return Measurement(name, _finite(value), _checked_unit(unit), _checked_attributes(attributes))


def record_in_run(measurement: Measurement) -> None:
    """Record a measurement in the current run; do nothing outside a run."""
    recorder = current_recorder()
    if recorder is not None:
        recorder.measure(*measurement)


class LogMeasure:
    """Find measurements in log lines."""

    def __init__(self, sink: Sink = record_in_run) -> None:
        """Pass measurements to `sink`; its errors are contained."""
        self._sink = sink

    def wants(self, message: object, args: Any) -> bool:
        """Return whether a line may hold a measurement, without formatting it."""
        if not is_a(message, str):
            return False
        if "METRIC" in cast("str", message):
            return True
        return (
            isinstance(args, tuple)
            and len(args) > 0
            and is_a(args[0], str)
            and "METRIC" in args[0]  # as in logger.info("%s", line)
        )

    def hear(self, line: Line) -> None:
        """Pass on the measurements in a line of `logging` or an event of structlog."""
        text = line.text or ""
        found: list[Measurement] = []
        if line.keywords is None:
            found = parse(text)
        else:
            with contextlib.suppress(ValueError):  # malformed
                found = _read(text, _keywords(line.keywords))
        for measurement in found:
            with _contained:
                self._sink(measurement)


def _read(text: str, fields: Mapping[str, _Value]) -> list[Measurement]:
    """Read each line of `text` together with its `fields`."""
    if "METRIC" not in text:
        return []
    return [found for line in text.splitlines() for found in _read_line(line, fields)]


def _read_line(line: str, fields: Mapping[str, _Value]) -> list[Measurement]:
    head = _HEAD.match(line)
    if head is None:
        return []
    try:
        values = _pairs(line, head.end(), fields)
    except ValueError:
        return []
    attributes = {key: value for key, value in values.items() if not isinstance(value, _Quantity)}
    return [
        Measurement(key, value.value, value.unit, attributes)
        for key, value in values.items()
        if isinstance(value, _Quantity)
    ]


def _pairs(line: str, start: int, fields: Mapping[str, _Value]) -> dict[str, _Value]:
    """Return `fields` and the pairs from `start` on; raise ValueError if they are malformed."""
    values = dict(fields)
    while start < len(line):
        pair = _PAIR.match(line, start)
        if pair is None or pair[1] in values:
            raise ValueError
        key, double, single, word = pair.groups()
        values[key] = _value_of(word) if word is not None else (single or double or "")
        start = pair.end()
    return values


def _value_of(word: str) -> _Value:
    number = _NUMBER.fullmatch(word)
    if number is None or _IS_HEXADECIMAL.fullmatch(word):
        if _IS_NOT_FINITE.fullmatch(word):
            raise ValueError
        return word
    digits, symbol = number.groups(default="")
    is_whole = digits.lstrip("+-").isdigit() and len(digits) <= _MOST_DIGITS
    multiplier, divisor, unit = _conversion(symbol)
    value = (int(digits) if is_whole else float(digits)) * multiplier
    return _Quantity(_finite(value / divisor if divisor > 1 else value), unit)


def _conversion(symbol: str) -> tuple[int, int, str]:
    amount, slash, per = symbol.partition("/")
    if slash:
        multiplier, divisor, unit = _conversion(amount)
        per_multiplier, per_divisor, per_unit = _conversion(per)
        return multiplier * per_divisor, divisor * per_multiplier, f"{unit}/{per_unit}"
    return _UNITS.get(symbol, (1, 1, f"{{{symbol}}}"))


def _keywords(event_kw: Mapping[str, object]) -> dict[str, _Value]:
    """Return the key-value pairs of a structured event; raise ValueError if one is malformed."""
    values: dict[str, _Value] = {}
    for key, value in event_kw.items():
        if key.startswith("_") or key in _OF_STRUCTLOG:
            continue
        if is_a(value, (str, bool)):
            values[key] = cast("str | bool", value)
        elif is_a(value, (Real, Decimal)):
            values[key] = _Quantity(_finite(value), "1")
    if not all(map(_IS_NAME.fullmatch, values)):
        raise ValueError
    return values


def _finite(value: Any) -> float:
    """Return an integer of 64 bits or a finite float; raise ValueError if that is impossible."""
    if isinstance(value, Integral) and -LAST_INT - 1 <= int(value) <= LAST_INT:
        return int(value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{value!r} cannot be recorded: use a finite number")
    return number


def _checked_unit(unit: str) -> str:
    if not isinstance(unit, str):
        raise TypeError(f"the unit of a metric must be a str, such as 's' or 'By', not {unit!r}")
    if not unit.isascii() or len(unit) > _LONGEST_UNIT:
        raise ValueError(
            f"{unit!r} cannot be a unit: use up to {_LONGEST_UNIT} ASCII characters, "
            "such as s, By or {row}"
        )
    return unit


def _checked_attributes(attributes: Mapping[str, Attribute]) -> Mapping[str, Attribute]:
    if not isinstance(attributes, Mapping):
        raise TypeError(
            f"attributes must be a mapping, such as {{'table': 'orders'}}, not {attributes!r}"
        )
    for key, value in attributes.items():
        if not is_a(key, str) or not is_a(value, (str, bool, int, float)):
            raise TypeError(
                f"an attribute must map a str to a str, bool, int or float, not {redact(key)!r}: "
                f"{redact(value)!r}; convert it with str()"
            )
    return dict(attributes)
