"""flowspan, the OpenTelemetry bridge for Prefect 3.

Call `instrument` once, at module level or as the first line inside a running flow. From then on,
every flow and task run has a span and metrics, and log lines are exported along with them.
"""

from __future__ import annotations

from threading import RLock
from time import time_ns
from typing import TYPE_CHECKING, Any, Literal, SupportsFloat

from flowspan._version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from uuid import UUID

    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from flowspan.instrumentor import PrefectInstrumentor
    from flowspan.settings import Settings

_lock = RLock()  # several tasks of a flow may call instrument() at once

__all__ = [
    "PrefectInstrumentor",
    "__version__",
    "flush",
    "instrument",
    "record_metric",
    "record_rows",
    "register_rows",
    "trace_url",
    "uninstrument",
]


def instrument(
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    logger_provider: LoggerProvider | None = None,
    settings: Settings | None = None,
) -> None:
    """Record every flow and task run of this process from now on.

    Processes to which Prefect sends task runs, such as those of a pool, record these runs with the
    same settings. Providers that are given here, or that the application has set, stay here.

    Inside a running flow or task, it also records the runs that called it, with their real start
    times. It cannot reach a flow whose task calls it from another thread. Calling it again changes
    nothing else.

    Args:
        tracer_provider: Where spans go. Default: the provider that the application has set
            globally, or one that is built from the standard ``OTEL_*`` variables and set globally.
        meter_provider: Where metrics go. Default: as for spans.
        logger_provider: Where log records go. Default: as for spans.
        settings: All other settings. Default: read from the ``FLOWSPAN_*`` variables, and
            objectives from ``flowspan.toml`` or ``pyproject.toml`` (see `flowspan.objectives`).

    Raises:
        pydantic.ValidationError: A ``FLOWSPAN_*`` variable is unknown or has a bad value.
        flowspan.errors.ConfigurationError: An ``OTEL_*`` variable names something that is not
            installed, or an objectives file is wrong; the message says what and where.
        TypeError: An argument is not a provider.
    """
    since = time_ns()
    with _lock:
        instrumentor = _instrumentor()
        if instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.adopt_running()
        else:
            instrumentor.instrument(
                tracer_provider=tracer_provider,
                meter_provider=meter_provider,
                logger_provider=logger_provider,
                settings=settings,
            )
    if instrumentor.patched:
        from flowspan.recording.recorder import current_recorder  # noqa: PLC0415 - import flowspan is fast

        if (recorder := current_recorder()) is not None:
            recorder.exclude(since, time_ns())  # the run that called this has done nothing itself


def uninstrument() -> None:
    """Restore Prefect exactly as it was; do nothing if it is not instrumented."""
    with _lock:
        instrumentor = _instrumentor()
        if instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()


def flush(timeout: float = 5.0) -> bool:
    """Export all ended spans, metrics and log records, in at most `timeout` seconds.

    Returns False if not everything could be exported in time. This also happens automatically when
    a top-level flow run ends, or a task run that another process sent, or the process.
    """
    return _instrumentor().flush(timeout)


def record_rows(
    n: int, direction: Literal["output", "input"] = "output", name: str | None = None
) -> None:
    """Record how many rows the current run produces (``output``) or consumes (``input``).

    This replaces the number that flowspan counts itself: for a task, the rows of its result and its
    arguments (see `flowspan.recording.rows`); for a flow run, the rows of its leaves, which are the
    task and flow runs that it called itself and whose results none of its other runs consumed.
    Further calls in the same run add up, to at most 2**63 - 1. Cached results are not counted.

    Outside a run, or if nothing is instrumented, it does nothing.

    Args:
        n: Number of rows, from 0 to 2**63 - 1.
        direction: Whether the rows come out of the run or go into it.
        name: What the rows belong to, such as a table; its rows are also recorded separately.

    Raises:
        TypeError: `n` is not an int.
        ValueError: `n` is negative or larger than 2**63 - 1, or `direction` is not one of the two.
    """
    from flowspan import semconv  # noqa: PLC0415 - import flowspan is fast
    from flowspan.recording.recorder import current_recorder  # noqa: PLC0415 - as above
    from flowspan.redaction import redact  # noqa: PLC0415 - as above
    from flowspan.values import LAST_INT, is_a  # noqa: PLC0415 - as above

    if is_a(n, bool) or not is_a(n, int):
        raise TypeError(f"record_rows() takes a number of rows as an int, not {redact(n)!r}")
    if n < 0:
        raise ValueError(f"record_rows() takes a number of rows, 0 or more, not {n}")
    if n > LAST_INT:
        raise ValueError("record_rows() takes at most 2**63 - 1 rows, OTLP's largest integer")
    attributes = {"output": semconv.ROWS_OUTPUT, "input": semconv.ROWS_INPUT}
    if direction not in attributes:
        raise ValueError(f"direction is 'output' or 'input', not {direction!r}")
    recorder = current_recorder()
    if recorder is not None:
        recorder.rows.tell(attributes[direction], n, name)


def record_metric(
    name: str,
    value: SupportsFloat,
    unit: str = "1",
    attributes: Mapping[str, str | bool | int | float] | None = None,
) -> None:
    """Record a value of your own, as the gauge ``prefect.metric.<name>``.

    The gauge has the names of the calling flow and task. The log line ``METRIC: name=value`` in any
    logger does the same (see `flowspan.log_capture.measurements.parse`). A process has at most 200
    names.

    Outside a run, or if nothing is instrumented, it does nothing.

    Args:
        name: Up to 200 letters, digits and ``_ . - /``, the first one a letter.
        value: Any real number: Python's, NumPy's, a Fraction or a Decimal.
        unit: A code of UCUM (https://ucum.org/ucum), such as ``s``, ``By`` or ``{row}``.
        attributes: Attributes of the metric, such as a table; nothing that is different in every
            run, because each combination is a separate series.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: `name` or `unit` is invalid or too long, or `value` is not finite.
    """
    from flowspan.log_capture import measurements  # noqa: PLC0415 - import flowspan is fast

    measurements.record_in_run(measurements.check(name, value, unit, attributes))


def register_rows(kind: type, function: Callable[[Any], int | None]) -> None:
    """Register a function that counts the rows of objects of class `kind` or a subclass.

    Args:
        kind: A class; it overrides its base classes and flowspan's own rules.
        function: Takes the object; returns 0 or more, or None if the number is unknown. It must not
            compute anything lazy. If it raises, only the count is lost.

    Raises:
        TypeError: `kind` is not a class, or `function` cannot be called.
    """
    from flowspan.recording import rows  # noqa: PLC0415 - import flowspan is fast

    rows.register_rows(kind, function)


def trace_url(flow_run_id: UUID | str) -> str | None:
    """Return the URL of a flow run's trace, or None if ``FLOWSPAN_TRACE_URL`` is not set.

    The URL is ``FLOWSPAN_TRACE_URL`` with the trace id filled in. It needs no look-up, because a
    top-level flow run's trace id is derived from its id. The trace of a subflow, or of a run with a
    remote parent, is only known in the process that runs it.
    """
    return _instrumentor().trace_url(flow_run_id)


def _instrumentor() -> PrefectInstrumentor:
    from flowspan.instrumentor import PrefectInstrumentor  # noqa: PLC0415 - import flowspan is fast

    return PrefectInstrumentor()


def __getattr__(name: str) -> Any:
    if name == "PrefectInstrumentor":
        from flowspan.instrumentor import PrefectInstrumentor  # noqa: PLC0415 - as above

        return PrefectInstrumentor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
