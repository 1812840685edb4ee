"""Gauges for the user's own metrics."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from flowspan import semconv

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import Meter, _Gauge
    from opentelemetry.util.types import AttributeValue

    from flowspan.recording.run import Attributes

_logger = logging.getLogger("flowspan")
_MOST_CUSTOM_NAMES: Final = 200
_MOST_CUSTOM_SERIES: Final = 2000


class CustomGauges:
    """Gauges for the user's own metrics, with limits on the number of names and series."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._by_name: dict[str, tuple[_Gauge, str]] = {}
        self._series: set[tuple[str, frozenset[tuple[str, AttributeValue]]]] = set()
        self._warned: set[str] = set()

    def set(
        self, name: str, value: float, unit: str, attributes: Attributes, context: Context
    ) -> None:
        """Set a gauge, unless there are too many names; further series lose their attributes."""
        # No lock: a fork could inherit it locked, and a log handler that gets one of our warnings
        # may measure too. Without it, the limits may be exceeded by a few.
        key = name.lower()  # OpenTelemetry ignores the case of names
        if (gauge := self._gauge(key, name, unit)) is not None:
            gauge.set(value, self._bounded(key, attributes), context)

    def _gauge(self, key: str, name: str, unit: str) -> _Gauge | None:
        if key not in self._by_name:
            if len(self._by_name) >= _MOST_CUSTOM_NAMES:
                self._warn_once(
                    "names",
                    f"There are {_MOST_CUSTOM_NAMES} metrics already; {name} and further ones "
                    "are left out. Put what varies into attributes, not into names.",
                )
                return None
            gauge = self._meter.create_gauge(
                semconv.METRIC_CUSTOM_PREFIX + name,
                unit=unit,
                description="Measured by the user's code: a METRIC log line or record_metric()",
            )
            self._by_name.setdefault(key, (gauge, unit))
        gauge, known = self._by_name[key]
        if unit not in (known, "1"):
            self._warn_once(
                f"unit of {key}",
                f"The metric {name} is measured in {known}; values in {unit} are left out.",
            )
            return None
        return gauge

    def _bounded(self, key: str, attributes: Attributes) -> Attributes:
        series = key, frozenset(attributes.items())
        if series in self._series:
            return attributes
        if len(self._series) >= _MOST_CUSTOM_SERIES:
            self._warn_once(
                "series",
                f"Your metrics have {_MOST_CUSTOM_SERIES} combinations of attributes; "
                "further ones lose theirs. Leave out what is different in every run.",
            )
            names = (semconv.FLOW_NAME, semconv.TASK_NAME)
            return {name: attributes[name] for name in names if name in attributes}
        self._series.add(series)
        return attributes

    def _warn_once(self, what: str, message: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            _logger.warning("%s", message)
