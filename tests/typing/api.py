"""The public API as users call it. Nothing runs this file: mypy checks it with `make lint`.

A line with an ``ignore`` is a mistake that a type checker has to find. mypy reports the ``ignore``
as unused when it no longer does.
"""

import logging
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from uuid import UUID

import structlog
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from typing_extensions import assert_type

import flowspan
from flowspan import (
    PrefectInstrumentor,
    flush,
    instrument,
    record_metric,
    record_rows,
    register_rows,
    trace_url,
    uninstrument,
)
from flowspan.logs import RunContextFilter, add_run_context, configure
from flowspan.settings import Settings


class Batch:
    """A user's container of rows."""

    def __init__(self, rows: int) -> None:
        self.rows = rows


def set_up() -> None:
    """Call instrument() without arguments, with providers and with settings."""
    instrument()
    instrument(
        tracer_provider=TracerProvider(),
        meter_provider=MeterProvider(),
        logger_provider=LoggerProvider(),
        settings=Settings(capture_parameters="values", flush_timeout=2, dir=Path("telemetry")),
    )
    instrument(tracer_provider=None)
    instrument(TracerProvider())  # type: ignore[call-arg] # by name only
    instrument(tracer_provider=MeterProvider())  # type: ignore[arg-type]
    uninstrument()
    assert_type(flush(), bool)
    assert_type(flush(timeout=1), bool)
    assert_type(flowspan.__version__, str)


def find(flow_run_id: UUID) -> None:
    """Get the URL of a trace."""
    assert_type(trace_url(flow_run_id), str | None)
    assert_type(trace_url(str(flow_run_id)), str | None)
    trace_url(17)  # type: ignore[arg-type]


def count(rows: list[int]) -> None:
    """Record rows, and register a container."""
    record_rows(len(rows))
    record_rows(3, "input", name="flights")
    record_rows(3, direction="output")
    record_rows(3, "sideways")  # type: ignore[arg-type]
    record_rows("3")  # type: ignore[arg-type]
    register_rows(Batch, lambda batch: batch.rows)
    register_rows(Batch, lambda _: None)
    register_rows("Batch", len)  # type: ignore[arg-type]


def measure() -> None:
    """Record custom values."""
    record_metric("loaded", 3)
    record_metric("loaded", 0.5, "s", {"table": "flights", "day": 3, "is_full": True})
    record_metric("loaded", 0.5, unit="{row}", attributes=None)
    record_metric("loaded", Decimal("0.5"))
    record_metric("loaded", Fraction(1, 2))
    record_metric("loaded", "0.5")  # type: ignore[arg-type]
    record_metric("loaded", 1, attributes={"tables": ["flights"]})  # type: ignore[dict-item]


def log() -> None:
    """Set up logging in one call, or piece by piece."""
    configure()
    configure("json", datadog=True)
    configure(format="console")
    configure("yaml")  # type: ignore[arg-type]
    structlog.configure(processors=[add_run_context, structlog.processors.JSONRenderer()])
    handler = logging.StreamHandler()
    handler.addFilter(RunContextFilter())


def instrument_as_opentelemetry_does() -> None:
    """Use the instrumentor through OpenTelemetry's interface."""
    instrumentor = PrefectInstrumentor()
    instrumentor.instrument(tracer_provider=TracerProvider())
    instrumentor.uninstrument()
