"""The one guard that keeps flowspan's own errors out of the user's flow."""

import contextlib
import logging
from types import TracebackType

from opentelemetry import metrics

from flowspan import semconv
from flowspan._version import __version__

_logger = logging.getLogger("flowspan")


class Containment:
    """Swallow and report any `Exception` of the code inside; use as ``with contained:``.

    Only our own code belongs inside, never the user's call or ``yield``. Exceptions below
    `Exception` pass: Prefect's ``Abort`` and ``Pause`` are control flow. Each kind of failure is
    logged once, with its traceback, and counted every time.
    """

    def __init__(self, component: str) -> None:
        """Guard the part of flowspan called `component`."""
        self._component = component
        self._reported: set[tuple[type[BaseException], int]] = set()

    def __enter__(self) -> None:
        """Do nothing: the guard has no state per use."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if kind is None or not issubclass(kind, Exception):
            return False
        with contextlib.suppress(Exception):  # the user's log handlers may fail, too
            self._report(kind, error, traceback)
        return True

    def _report(
        self,
        kind: type[BaseException],
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _internal_errors().add(1, {semconv.COMPONENT: self._component})
        failure = (kind, _innermost_line(traceback))
        if failure not in self._reported:
            self._reported.add(failure)
            _logger.warning(
                "flowspan could not record everything (%s: %s); the run itself is not affected. "
                "Further failures of this kind are only counted, in %s.",
                self._component,
                error,
                semconv.METRIC_INTERNAL_ERRORS,
                exc_info=error,
            )


def _innermost_line(traceback: TracebackType | None) -> int:
    line = 0
    while traceback is not None:
        line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


def count_failures_with(provider: metrics.MeterProvider | None) -> None:
    """Count failures with `provider`, or with the global one if that is None."""
    global _provider  # noqa: PLW0603 - guards are made before it is known
    _provider = provider


_provider: metrics.MeterProvider | None = None


def _internal_errors() -> metrics.Counter:
    # Looked up at each failure: failures are rare, and the provider may be set after the import.
    meter = metrics.get_meter("flowspan", __version__, _provider)
    return meter.create_counter(
        semconv.METRIC_INTERNAL_ERRORS,
        unit="{error}",
        description="Failures inside flowspan itself",
    )
