"""Report exported spans to Prefect as events, which `flowspan watch` reads.

An event is queued, and Prefect's own thread sends it, so nothing here waits for the network.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from prefect.events import emit_event
from prefect.settings import PREFECT_API_URL

from flowspan import semconv

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from flowspan.settings import Settings


def acknowledges(settings: Settings) -> bool:
    """Return whether somebody may want to know: not on a server that ends with this process."""
    return settings.acknowledge and bool(PREFECT_API_URL.value())


def acknowledge(spans: Sequence[ReadableSpan]) -> None:
    """Emit an event for each flow run of which spans have been exported.

    Those of a task run outside of a flow are its own.
    """
    exported: dict[str, list[str]] = defaultdict(list)
    for span in spans:
        resource = _resource(span.attributes or {})
        if resource is not None and span.context is not None:
            exported[resource].append(f"{span.context.span_id:016x}")
    for resource, span_ids in exported.items():
        emit_event(
            semconv.REPORTED_EVENT,
            resource={"prefect.resource.id": resource},
            payload={semconv.REPORTED_SPANS: span_ids},
        )


def _resource(attributes: Mapping[str, object]) -> str | None:
    """Return what the event about a span is about; None if the span is not a run's."""
    if semconv.RUN_ID not in attributes:
        return None
    if (flow_run_id := attributes.get(semconv.FLOW_RUN_ID)) is not None:
        return f"prefect.flow-run.{flow_run_id}"
    return f"prefect.task-run.{attributes[semconv.RUN_ID]}"
