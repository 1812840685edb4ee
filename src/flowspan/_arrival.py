"""Instrument a process that receives task runs from an instrumented one."""

from __future__ import annotations

import json
import logging
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

import flowspan
from flowspan._containment import Containment
from flowspan._parcel import Parcel, keep_note

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowspan.settings import Settings

_logger = logging.getLogger("flowspan")
_contained = Containment("arrival")


def arrive(text: str, note: str) -> Parcel:
    """Instrument this process with the sender's settings, unless that has been done.

    Called whenever a `Parcel` is unpickled; never raises. Returns what this process may pass on.
    """
    with _contained:
        if not _is_scheduler():
            _instrument_like(json.loads(text))
            keep_note(note)
    return Parcel(text, note)


def _is_scheduler() -> bool:
    """Return whether this is a Dask scheduler, which unpickles tasks only to pass them on."""
    module = sys.modules.get("distributed.scheduler")
    return module is not None and bool(module.Scheduler._instances)  # noqa: SLF001 - Dask's workers ask the same


def _instrument_like(sender: dict[str, Any]) -> None:
    from flowspan.settings import Settings  # noqa: PLC0415 - a scheduler needs none of this

    if flowspan.PrefectInstrumentor().is_instrumented_by_opentelemetry:
        return
    settings = Settings(**sender["settings"])
    if missing := _without_destination(sender["given"], settings):
        _complain(", ".join(missing))
    else:
        flowspan.instrument(settings=settings)


def _without_destination(given: Iterable[str], settings: Settings) -> list[str]:
    """Return which of the signals that the sender's application set up go nowhere from here."""
    from flowspan.export import declared  # noqa: PLC0415 - as above
    from flowspan.export.routes import EMBEDDED, describe_signals  # noqa: PLC0415 - as above
    from flowspan.instrumentor import unset_signals  # noqa: PLC0415 - as above

    if declared.path():
        return []
    unset, routes = unset_signals(), describe_signals(settings)
    unnamed = {route.signal for route in routes if route.exporter == EMBEDDED}
    return [signal for signal in given if signal in unset and signal in unnamed]


@cache
def _complain(signals: str) -> None:
    _logger.warning(
        "The task runs of this process are not recorded: the application's own OpenTelemetry "
        "providers (%s) cannot be sent to it. Set them globally in a module that it imports, or "
        "name an exporter in the OTEL_* variables.",
        signals,
    )
