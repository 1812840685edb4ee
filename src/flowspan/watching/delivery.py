"""Export spans and metrics, and know whether they have arrived.

The SDK's batch processor drops what an endpoint does not take. What only the observer knows would
be lost for good, so here a batch is exported until it is taken.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Final

from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision

from flowspan.export import providers as sdk
from flowspan.recording.instruments import RunMetrics
from flowspan.recording.recorder import RunTracer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

    from flowspan.settings import Settings

_LONGEST_DELAY: Final = 60.0
_CHUNK: Final = 512
"""Spans in one export, as many as the SDK's batch processor sends at once."""

logger = logging.getLogger("flowspan")


class _Collected(SpanProcessor):
    """Keeps the spans that have ended, until they are taken."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


class Delivery:
    """The telemetry of the observer.

    Attributes:
        tracer: Starts recorders, whose spans are kept until `deliver`.
        meters: The provider of all metrics.
    """

    def __init__(self, settings: Settings) -> None:
        """Build exporters from the ``OTEL_*`` variables.

        Raises:
            ConfigurationError: A variable is wrong.
        """
        self._settings = settings
        self._collected = _Collected()
        self._exporters: Sequence[SpanExporter] = sdk.build_span_exporters(settings)
        self._provider = TracerProvider(
            resource=sdk.resource(), span_limits=sdk.span_limits(), shutdown_on_exit=False
        )
        self._provider.add_span_processor(self._collected)
        self.meters = sdk.build_meter_provider(settings)
        self.tracer = RunTracer(self._provider, RunMetrics(self.meters))

    def is_sampled(self, trace_id: int) -> bool:
        """Return whether the sampler wants a trace without a parent."""
        decision = self._provider.sampler.should_sample(None, trace_id, "").decision
        return decision is Decision.RECORD_AND_SAMPLE

    async def deliver(self) -> int:
        """Export the spans that have ended until each exporter has taken them, then the metrics.

        Returns how many spans there were.
        """
        spans, self._collected.spans = self._collected.spans, []
        for start in range(0, len(spans), _CHUNK):
            for exporter in self._exporters:
                await _insist(exporter, spans[start : start + _CHUNK])
        if spans:
            await asyncio.to_thread(sdk.flush, [self.meters], self._settings.flush_timeout)
        return len(spans)

    def discard(self) -> None:
        """Drop the spans that have ended, and those that have not, because recording has failed."""
        self._collected.spans.clear()
        self.tracer.active.clear()

    def close(self) -> None:
        """Export what is left of the metrics, and close all exporters."""
        for exporter in self._exporters:
            exporter.shutdown()
        sdk.shutdown([self.meters], self._settings.flush_timeout)


async def _insist(exporter: SpanExporter, spans: Sequence[ReadableSpan]) -> None:
    attempt = 0
    while await asyncio.to_thread(exporter.export, spans) is not SpanExportResult.SUCCESS:
        attempt += 1
        ceiling = min(_LONGEST_DELAY, 2.0**attempt)
        await asyncio.sleep(random.uniform(ceiling / 2, ceiling))  # noqa: S311 - only spreads load
