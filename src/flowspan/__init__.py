"""flowspan, the OpenTelemetry bridge for Prefect 3.

Call `instrument` once, at module level or as the first line inside a running flow; from then on
every flow and task run is a span, and is measured, and what is logged goes where these go.
"""

from __future__ import annotations

from threading import RLock
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

    Called inside a running flow, it takes up that run with its real start time, and so for the
    task runs that called it; a flow whose task calls it from another thread it cannot reach.
    Calling it again changes nothing else.

    Args:
        tracer_provider: Where spans go. Without it: the provider that the application has set
            globally, or else one that is built from the standard ``OTEL_*`` variables and set.
        meter_provider: Where metrics go. Without it: as for spans.
        logger_provider: Where log records go. Without it: as for spans.
        settings: What else to do. Without it: read from the ``FLOWSPAN_*`` variables, and
            objectives from ``flowspan.toml`` or ``pyproject.toml`` (see `flowspan.objectives`).

    Raises:
        pydantic.ValidationError: A ``FLOWSPAN_*`` variable is unknown or has a bad value.
        flowspan.errors.ConfigurationError: An ``OTEL_*`` variable names what is not installed,
            or a file of objectives is wrong: it says where, and what.
        TypeError: What is given as a provider is none.
    """
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


def uninstrument() -> None:
    """Restore Prefect exactly as it was; does nothing where nothing is instrumented."""
    with _lock:
        instrumentor = _instrumentor()
        if instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()


def flush(timeout: float = 5.0) -> bool:
    """Export what has ended, was measured and was logged so far, in at most `timeout` seconds.

    Returns False if they could not all be exported in time. A top-level flow run does this by
    itself when it ends, and so does the process.
    """
    return _instrumentor().flush(timeout)


def record_rows(
    n: int, direction: Literal["output", "input"] = "output", name: str | None = None
) -> None:
    """Tell how many rows the run that calls this gives (``output``) or gets (``input``).

    It takes the place of what flowspan counts by itself: the rows of a task's result and of its
    arguments (see `flowspan.rows`), and for a flow run the rows that its leaves give, which are the
    task and flow runs that it called itself and whose results none of its other runs consumed.
    Further calls in the same run add up. Cached results count nothing.

    Outside a run, or where nothing is instrumented, it does nothing.

    Args:
        n: Number of rows, 0 or more.
        direction: Whether they come out of the run or go into it.
        name: What the rows are of, such as a table: it is then told apart, too.

    Raises:
        TypeError: `n` is not an int.
        ValueError: `n` is negative, or `direction` is not one of the two.
    """
    from flowspan import semconv  # noqa: PLC0415 - import flowspan is fast
    from flowspan.recording.recorder import current_recorder  # noqa: PLC0415 - as above

    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"record_rows() takes a number of rows as an int, not {n!r}")
    if n < 0:
        raise ValueError(f"record_rows() takes a number of rows, 0 or more, not {n}")
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

    It carries the names of the flow and the task that call this. The log line
    ``METRIC: name=value`` in any logger does the same (see
    `flowspan.log_capture.measurements.parse`).
    A process has at most 200 names.

    Outside a run, or where nothing is instrumented, it does nothing.

    Args:
        name: Up to 200 letters, digits and ``_ . - /``, the first one a letter.
        value: Any real number: Python's, NumPy's, a Fraction or a Decimal.
        unit: A code of UCUM (https://ucum.org/ucum), such as ``s``, ``By`` or ``{row}``.
        attributes: What the metric is told apart by, such as a table; nothing that is different in
            every run, since each combination is a series of its own.

    Raises:
        TypeError: An argument is of another type.
        ValueError: `name` or `unit` has other characters or is too long, or `value` is not finite.
    """
    from flowspan.log_capture import measurements  # noqa: PLC0415 - import flowspan is fast

    measurements.record_in_run(measurements.check(name, value, unit, attributes))


def register_rows(kind: type, function: Callable[[Any], int | None]) -> None:
    """Teach flowspan how many rows an object of the class `kind`, or of a subclass, holds.

    Args:
        kind: A class; it wins over classes that it derives from, and over flowspan's own rules.
        function: Takes the object; returns 0 or more, or None if it cannot be told. It must not
            compute anything lazy. What it raises costs nothing but the count.

    Raises:
        TypeError: `kind` is not a class, or `function` cannot be called.
    """
    from flowspan.recording import rows  # noqa: PLC0415 - import flowspan is fast

    rows.register_rows(kind, function)


def trace_url(flow_run_id: UUID | str) -> str | None:
    """Return where the trace of a flow run can be seen.

    The URL is ``FLOWSPAN_TRACE_URL`` with the trace id filled in; None if that is not set. It
    needs no look-up, since a top-level flow run's trace id is derived from its id. The trace of a
    subflow, or of a run with a remote parent, is known in the process that runs it.
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
