"""Instrument a process that receives task runs from an instrumented one."""

from __future__ import annotations

import json
import logging
import sys
from collections import defaultdict
from functools import cache, lru_cache
from typing import TYPE_CHECKING

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
            _instrument_like(text)
            keep_note(note)
    return Parcel(text, note)


def _is_scheduler() -> bool:
    """Return whether this is a Dask scheduler, which unpickles tasks only to pass them on."""
    module = sys.modules.get("distributed.scheduler")
    return module is not None and bool(module.Scheduler._instances)  # noqa: SLF001 - Dask's workers ask the same


def _instrument_like(text: str) -> None:
    from flowspan.settings import Settings  # noqa: PLC0415 - a scheduler needs none of this

    instrumentor = flowspan.PrefectInstrumentor()
    if instrumentor.is_instrumented_by_opentelemetry:
        if instrumentor.parcel not in (None, text):
            _compare(text, str(instrumentor.parcel))
        return
    sender = json.loads(text)
    settings = Settings(**sender["settings"])
    if missing := _without_destination(sender["given"], settings):
        _complain(", ".join(missing))
    else:
        flowspan.instrument(settings=settings)


@lru_cache(maxsize=1000)  # so that each sender is compared once
def _compare(text: str, own_text: str) -> None:
    """Warn about a sender's settings that this process does not follow."""
    from flowspan.export.routes import EMBEDDED  # noqa: PLC0415 - as above
    from flowspan.settings import Settings  # noqa: PLC0415 - as above

    sender, own = json.loads(text)["settings"], json.loads(own_text)
    kept = own["settings"]
    differing = {name for name in kept.keys() & sender.keys() if kept[name] != sender[name]}
    exporters = _exporters(Settings(**kept))
    if not any(EMBEDDED in names for one, names in exporters.items() if one not in own["given"]):
        differing.discard("dir")
    if differing:
        _logger.warning(
            "A flow with other settings (%s) sends task runs to this process, which keeps the "
            "settings that it has.%s",
            ", ".join(sorted(differing)),
            f" Its files are in {kept['dir']}, not in {sender['dir']}."
            if "dir" in differing
            else "",
        )


def _exporters(settings: Settings) -> dict[str, set[str]]:
    """Return the exporters of each signal, unless there are other providers."""
    from flowspan.export import declared  # noqa: PLC0415 - as above
    from flowspan.export.routes import describe_signals  # noqa: PLC0415 - as above

    found: dict[str, set[str]] = defaultdict(set)
    for route in [] if declared.path() else describe_signals(settings):
        found[route.signal].add(route.exporter)
    return found


def _without_destination(given: Iterable[str], settings: Settings) -> list[str]:
    """Return which of the signals that the sender's application set up have no other way here."""
    from flowspan.export.routes import EMBEDDED  # noqa: PLC0415 - as above
    from flowspan.instrumentor import unset_signals  # noqa: PLC0415 - as above

    exporters, unset = _exporters(settings), unset_signals()
    return [signal for signal in given if signal in unset and exporters[signal] == {EMBEDDED}]


@cache
def _complain(signals: str) -> None:
    _logger.warning(
        "The task runs of this process are not recorded: the application's own OpenTelemetry "
        "providers (%s) cannot be sent to it. Set them globally in a module that it imports, or "
        "name an exporter in the OTEL_* variables.",
        signals,
    )
