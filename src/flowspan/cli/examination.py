"""Check an environment: what would be recorded, where it would go, what would record it twice."""

from __future__ import annotations

import logging
import os
import platform
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.instrumentation.environment_variables import (
    OTEL_PYTHON_DISABLED_INSTRUMENTATIONS,
)
from packaging.requirements import Requirement
from pydantic import ValidationError

from flowspan import places
from flowspan._version import __version__
from flowspan.errors import ConfigurationError
from flowspan.export import declared, probe, providers, routes
from flowspan.instrumentor import (
    SUPPORTED_PREFECT,
    PrefectInstrumentor,
    is_switched_off,
    targets,
)
from flowspan.objectives.promises import TAG_PREFIX
from flowspan.settings import Settings, objectives_source

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

_FEW_LINKS: Final = 1_000
_LOG_INSTRUMENTATIONS: Final = {
    "logging": "its handler exports the lines that reach the root logger",
    "structlog": "its processor exports structlog's events",
}


class Verdict(Enum):
    """The result of a check; only `WRONG` is an error."""

    WELL = "✓"
    NOTE = "·"
    WRONG = "✗"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked."""

    subject: str
    verdict: Verdict
    detail: str


def examine() -> Iterator[Finding]:
    """Check what `flowspan.instrument` would do if a flow called it here and now."""
    yield Finding("flowspan", Verdict.NOTE, f"{__version__} on Python {platform.python_version()}")
    declaration = None
    try:
        settings = Settings()
        if not is_switched_off(settings) and (declaration := declared.read()) is not None:
            settings = Settings(**declaration.options)
    except ValidationError as error:
        yield Finding("settings", Verdict.WRONG, _settings_problem(error))
        return
    except ConfigurationError as error:
        subject = "signals" if str(error).startswith(declared.VARIABLE) else "objectives"
        yield Finding(subject, Verdict.WRONG, str(error))
        return
    reason = is_switched_off(settings, declaration)
    if reason is not None:
        yield Finding(
            "settings", Verdict.NOTE, f"flowspan is switched off by {reason}: nothing is patched"
        )
    if (yield from _examine_prefect()):
        yield from _examine_patches()
    yield _examine_objectives(settings)
    signals = yield from _examine_signals(declaration, settings)
    yield from _examine_limits(declaration)
    exporters = {route.exporter for route in signals if route.signal == routes.LOGS}
    if reason is None and exporters - {routes.NONE}:
        yield from _examine_log_exporters(settings)
    yield from _examine_duplicates(signals)


def _settings_problem(error: ValidationError) -> str:
    lines = "; ".join(
        ": ".join(filter(None, (".".join(map(str, problem["loc"])), problem["msg"])))
        for problem in error.errors()
    )
    return f"{lines} (or in {declared.path()})" if declared.path() else lines


def _examine_prefect() -> Generator[Finding, None, bool]:
    """Check the installed Prefect; return whether flowspan supports it."""
    try:
        installed = version("prefect")
    except PackageNotFoundError:
        yield Finding("Prefect", Verdict.WRONG, "is not installed: pip install prefect")
        return False
    supported = Requirement(SUPPORTED_PREFECT).specifier
    is_supported = supported.contains(installed, prereleases=True)
    if is_supported:
        yield Finding("Prefect", Verdict.WELL, f"{installed} is supported ({supported})")
    else:
        yield Finding(
            "Prefect", Verdict.WRONG, f"{installed} is not supported: install {supported}"
        )
    return is_supported


def _examine_patches() -> Iterator[Finding]:
    missing, found = [], Counter[str]()
    for patch, owner in targets():
        if owner is None:
            missing.append(patch.target)
        else:
            found[patch.module] += 1
    if missing:
        detail = f"{', '.join(missing)} changed in this Prefect: upgrade flowspan"
        yield Finding("patches", Verdict.WRONG, detail)
    else:
        places = ", ".join(f"{count} in {module}" for module, count in found.items())
        detail = f"instrument() wraps {found.total()} functions of Prefect, all found: {places}"
        yield Finding("patches", Verdict.WELL, detail)


def _examine_objectives(settings: Settings) -> Finding:
    source = objectives_source()
    if not settings.slo:
        detail = f"none in {source}" if source else "none are set"
        return Finding("objectives", Verdict.NOTE, detail)
    tags = sum(key.startswith(TAG_PREFIX) for key in settings.slo)
    detail = f"for flows: {len(settings.slo) - tags}, for tags: {tags}, from {source}"
    return Finding("objectives", Verdict.WELL, detail)


def _examine_signals(
    declaration: declared.Declaration | None, settings: Settings
) -> Generator[Finding, None, Sequence[routes.SignalRoute]]:
    """Check where each signal goes; return the routes."""
    if declaration is not None:
        signals = declaration.routes()
        yield from _examine_declared(signals)
        return signals
    try:
        signals = routes.describe_signals(settings)
    except ConfigurationError as error:
        yield Finding("signals", Verdict.WRONG, str(error))
        return []
    for route in signals:
        place = f"to {route.destination} ({route.exporter})"
        if route.exporter == routes.NONE:
            variable = routes.switch_of(route.signal, settings)
            yield Finding(route.signal, Verdict.NOTE, f"are switched off by {variable}")
        elif (problem := probe.probe(route)) is None:
            yield Finding(route.signal, Verdict.WELL, f"{place}, which answers")
        else:
            yield Finding(route.signal, Verdict.WRONG, f"{place}, but {problem}")
    if any(route.exporter == routes.EMBEDDED for route in signals):
        yield from _examine_files(settings)
    return signals


def _examine_files(settings: Settings) -> Iterator[Finding]:
    """Say why the embedded files are not where they mostly are."""
    if places.is_temporary() and settings.dir == places.lasting():
        detail = (
            f"in {settings.dir}, because the working directory is temporary: {places.FOLDER} would "
            "be lost with it. The commands read both. FLOWSPAN_DIR names another folder"
        )
        yield Finding("files", Verdict.NOTE, detail)


def _examine_declared(signals: Sequence[routes.SignalRoute]) -> Iterator[Finding]:
    """Name the routes of a file; only OpenTelemetry itself can read their headers and TLS."""
    file = declared.path()
    for route in signals:
        place = f"to {route.destination} ({route.exporter}), declared in {file}, not tried"
        yield Finding(route.signal, Verdict.NOTE, place)
    for signal in routes.SIGNALS:
        if signal not in {route.signal for route in signals}:
            yield Finding(signal, Verdict.NOTE, f"are not declared in {file}, so they go nowhere")


def _examine_limits(declaration: declared.Declaration | None) -> Iterator[Finding]:
    provider = PrefectInstrumentor().provider or trace.get_tracer_provider()
    limit = providers.link_limit(provider) if declaration is None else declaration.link_limit
    if limit is not None and limit < _FEW_LINKS:
        variable = "OTEL_SPAN_LINK_COUNT_LIMIT=10000"
        yield Finding(
            "limits",
            Verdict.NOTE,
            f"the provider keeps {limit:,} links of a span: if a task has more upstream runs, only "
            "those that ended last are linked. Set "
            f"{variable if declaration is None else 'link_count_limit: 10000 in its limits'}",
        )


def _examine_log_exporters(settings: Settings) -> Iterator[Finding]:
    """Check who exports log lines: flowspan, unless the application has OpenTelemetry do it."""
    level = logging.getLevelName(settings.log_level)
    others = [name for name in _LOG_INSTRUMENTATIONS if _is_instrumented(name)]
    detail = f"flowspan exports the lines of every logger from {level} up, with the run's ids"
    if not others:
        detail += "; nothing else that is installed would export them"
    yield Finding("who logs", Verdict.WELL, detail)
    for name in others:
        yield Finding(
            "who logs",
            Verdict.NOTE,
            f"opentelemetry-instrumentation-{name} is installed: if opentelemetry-instrument or "
            f"the application activates it, {_LOG_INSTRUMENTATIONS[name]}, and flowspan only "
            "adds the run's attributes to them",
        )


def _is_instrumented(name: str) -> bool:
    disabled = os.environ.get(OTEL_PYTHON_DISABLED_INSTRUMENTATIONS, "").split(",")
    found = entry_points(group="opentelemetry_instrumentor", name=name)
    return bool(found) and name not in [one.strip() for one in disabled]


def _examine_duplicates(signals: Sequence[routes.SignalRoute]) -> Iterator[Finding]:
    found = list(_duplicates(signals))
    for detail in found:
        yield Finding("duplicates", Verdict.WRONG, detail)
    if not found:
        native = os.environ.get("PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY")
        also = f" (PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY={native})" if native else ""
        detail = f"none: Prefect's own spans are replaced{also}, nothing else records any"
        yield Finding("duplicates", Verdict.WELL, detail)


def _duplicates(signals: Sequence[routes.SignalRoute]) -> Iterator[str]:
    for entry in entry_points(group="opentelemetry_instrumentor"):
        if "prefect" in f"{entry.name} {entry.value}".lower() and "flowspan" not in entry.value:
            yield (
                f"{entry.value} instruments Prefect too: uninstall it, or name it in "
                "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
            )
    used = Counter((route.signal, route.destination) for route in signals)
    for (signal, place), count in used.items():
        if count > 1:
            yield f"{signal} go to {place} {count} times: name only one exporter for it"
