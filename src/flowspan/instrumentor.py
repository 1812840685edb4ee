"""Patch Prefect, and restore it exactly."""

from __future__ import annotations

import atexit
import importlib
import inspect
import json
import logging
import multiprocessing.util
import os
import time
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, TypeVar

import wrapt
from opentelemetry import _logs, metrics, trace
from opentelemetry.instrumentation.instrumentor import (  # type: ignore[attr-defined] # it carries no types
    BaseInstrumentor,
)
from packaging.version import Version

from flowspan import places
from flowspan._containment import count_failures_with
from flowspan._parcel import Parcel
from flowspan._replacement import Replacement
from flowspan.export import declared, distro
from flowspan.export import providers as sdk
from flowspan.export.routes import EMBEDDED, describe_signals
from flowspan.identity import derive_trace_id
from flowspan.log_capture.hooks import LogHooks
from flowspan.settings import Configuration, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from flowspan._prefect import EngineObserver, Patch
    from flowspan.export.declared import Declaration
    from flowspan.log_capture.export import LogExport
    from flowspan.recording.heartbeat import Heartbeat

SUPPORTED_PREFECT: Final = "prefect >= 3.6, < 4"

_logger = logging.getLogger("flowspan")

P = TypeVar("P")


class Providers(NamedTuple):
    """The provider of each signal, by its name; a no-op one for log records if they are off."""

    traces: TracerProvider
    metrics: MeterProvider
    logs: LoggerProvider


class PrefectInstrumentor(BaseInstrumentor):  # type: ignore[misc] # as above
    """Instrument Prefect 3; ``opentelemetry-instrument`` finds and loads this class.

    There is one instance per process. `flowspan.instrument` and `flowspan.uninstrument` are
    shortcuts for its methods.
    """

    configuration: ClassVar[type] = Configuration
    """The type of the options in a declarative configuration; `instrument` takes them by name."""

    def __init__(self) -> None:
        if not hasattr(self, "_patched"):  # the base class hands out one instance
            self._patched: list[Replacement] = []
            self._observer: EngineObserver | None = None
            self._providers: Providers | None = None
            self._settings: Settings | None = None
            self._heartbeat: Heartbeat | None = None
            self._flush_timeout = 0.0
            self._log_hooks = LogHooks()

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the range of Prefect releases that flowspan supports."""
        return (SUPPORTED_PREFECT,)

    @property
    def patched(self) -> list[str]:
        """The functions of Prefect that are wrapped now, as dotted names."""
        return [f"{patch.owner.__name__}.{patch.name}" for patch in self._patched]

    @property
    def parcel(self) -> Parcel | None:
        """What goes along with task runs to other processes while Prefect is instrumented."""
        return self._observer.parcel if self._observer is not None else None

    @property
    def provider(self) -> TracerProvider | None:
        """The provider that spans go to while Prefect is instrumented."""
        return self._providers.traces if self._providers is not None else None

    def _instrument(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        logger_provider: LoggerProvider | None = None,
        settings: Settings | None = None,
        **options: Any,
    ) -> None:
        arguments = {"traces": tracer_provider, "metrics": meter_provider, "logs": logger_provider}
        given = {name: provider for name, provider in arguments.items() if provider is not None}
        known = {name: value for name, value in options.items() if name in Settings.model_fields}
        chosen = settings if settings is not None else Settings(**known)
        if is_switched_off(chosen):
            return
        declaration = declared.read() if unset_signals() - given.keys() else None
        if declaration is not None and settings is None:
            chosen = Settings(**{**declaration.options, **known})
        if is_switched_off(chosen, declaration):
            return
        self._begin(_choose_providers(given, declaration, chosen), chosen)

    def _begin(self, providers: Providers, settings: Settings) -> None:
        # Importing Prefect's engines is slow, and pointless if there is nothing to patch.
        from flowspan._prefect import EngineObserver  # noqa: PLC0415
        from flowspan._prefect.acknowledgement import acknowledge, acknowledges  # noqa: PLC0415
        from flowspan.export.bounded import BoundedTracerProvider  # noqa: PLC0415
        from flowspan.log_capture.measurements import LogMeasure  # noqa: PLC0415
        from flowspan.recording.instruments import RunMetrics  # noqa: PLC0415
        from flowspan.recording.recorder import RunTracer  # noqa: PLC0415

        observer = EngineObserver(
            RunTracer(providers.traces, RunMetrics(providers.metrics)),
            settings,
            lambda **how: sdk.flush(_all_of(providers), settings.flush_timeout, **how),
            _pack(providers, settings),
            has_hint=settings.hint and _writes_only_files(providers.traces, settings),
        )
        observer.moved_to = _moved_folder(providers, settings)
        self._providers, self._settings, self._observer = providers, settings, observer
        self._flush_timeout = settings.flush_timeout
        self._heartbeat = _heartbeat(observer, providers.logs, settings)
        if isinstance(providers.traces, BoundedTracerProvider) and acknowledges(settings):
            observer.acknowledges = True
            providers.traces.listen(acknowledge)
        count_failures_with(providers.metrics)
        try:
            for patch, owner in targets():
                if owner is None:
                    _report_missing(patch)
                else:
                    self._wrap(owner, patch.name, patch.wrapper(observer))
            self._log_hooks.install(LogMeasure(), _log_export(observer, providers.logs, settings))
            _finish_at_exit(self)
            self.adopt_running()
        except BaseException:  # such as the timeout of the flow that calls this
            self._uninstrument()
            raise

    def _wrap(self, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
        wrapped = inspect.getattr_static(owner, name)  # a static method stays one
        patch = Replacement(owner, name, wrapt.FunctionWrapper(wrapped, wrapper))
        self._patched.append(patch)
        patch.install()

    def adopt_running(self) -> None:
        """Start recording the runs that called this, unless they are recorded already."""
        if self._observer is not None:
            from flowspan._prefect import adopt_running  # noqa: PLC0415 - as above

            adopt_running(self._observer)

    def _uninstrument(self, **_: Any) -> None:
        self._log_hooks.remove()
        self._stop_heartbeat(self._flush_timeout)
        if self._observer is not None:
            self._observer.sigterm.remove()
        while self._patched:
            self._patched.pop().restore()
        self.flush(self._flush_timeout)
        self._providers = self._settings = self._observer = None

    def flush(self, timeout: float) -> bool:
        """Export everything that has ended; return False if `timeout` seconds were too short."""
        return sdk.flush(_all_of(self._providers), timeout)

    def trace_url(self, flow_run_id: object) -> str | None:
        """Return the URL of a flow run's trace, or None without a template."""
        settings = self._settings if self._settings is not None else Settings()
        find = self._observer.trace_id_of if self._observer is not None else derive_trace_id
        return settings.url_of(find(str(flow_run_id)))

    def forget_parent_process(self) -> None:
        """Drop the runs that were active at a fork: the parent process records them."""
        if self._observer is not None:
            self._observer.tracer.active.clear()
        if self._heartbeat is not None:
            self._heartbeat.forget_parent_process()

    def _stop_heartbeat(self, timeout: float) -> None:
        if self._heartbeat is not None:
            self._heartbeat.stop(timeout)
            self._heartbeat = None

    def finish(self) -> None:
        """End the spans that are still open and export everything, within the flush timeout."""
        deadline = time.monotonic() + self._flush_timeout
        self._stop_heartbeat(self._flush_timeout / 10)
        if self._observer is not None:
            self._observer.tracer.finish_all()
        sdk.flush(_all_of(self._providers) - {*_owned}, self._flush_timeout)
        sdk.shutdown(_owned, deadline - time.monotonic())


def targets() -> Iterator[tuple[Patch, Any]]:
    """Yield each patch for this Prefect and its target's owner, or None if the target is gone."""
    from flowspan._prefect import PATCHES  # noqa: PLC0415 - it imports Prefect's engines

    installed = Version(version("prefect"))
    for patch in PATCHES:
        if not patch.applies_to(installed):
            continue
        try:
            owner = importlib.import_module(patch.module)
            owner = getattr(owner, patch.owner) if patch.owner else owner
        except (ImportError, AttributeError):
            owner = None
        yield patch, owner if hasattr(owner, patch.name) else None


def _report_missing(patch: Patch) -> None:
    # Prefect runs as usual; flowspan just records less.
    _logger.warning(
        "Prefect %s lacks %s, which flowspan watches, so spans will lack detail. A newer flowspan "
        "may support it; run `flowspan doctor` for details.",
        version("prefect"),
        patch.target,
    )


def is_switched_off(settings: Settings, declaration: Declaration | None = None) -> str | None:
    """Return the variable that turns flowspan off, or None."""
    if declaration is not None and (declaration.is_disabled or not settings.enabled):
        return declared.VARIABLE
    if not settings.enabled:
        return "FLOWSPAN_ENABLED"
    # https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return "OTEL_SDK_DISABLED"
    return None


_owned: list[object] = []
_redirected: list[object] = []
"""Global providers of opentelemetry-distro that write to the embedded files now."""
_stand_ins: dict[Any, Any] = {}
"""Our own provider for each of these: with flowspan's resource and limits, for Prefect's runs."""
_exits_cleanly = False


class _Signal(NamedTuple):
    """How to get, set and make a signal's provider; `nothing` makes one that records nothing."""

    argument: str
    method: str
    get_global: Callable[[], Any]
    set_global: Callable[[Any], None]
    build: Callable[[Settings], Any]
    nothing: Callable[[], Any]


_SIGNALS: Final = {
    "traces": _Signal(
        "tracer_provider",
        "get_tracer",
        trace.get_tracer_provider,
        trace.set_tracer_provider,
        sdk.build_tracer_provider,
        trace.NoOpTracerProvider,
    ),
    "metrics": _Signal(
        "meter_provider",
        "get_meter",
        metrics.get_meter_provider,
        metrics.set_meter_provider,
        sdk.build_meter_provider,
        metrics.NoOpMeterProvider,
    ),
    "logs": _Signal(
        "logger_provider",
        "get_logger",
        _logs.get_logger_provider,
        _logs.set_logger_provider,
        sdk.build_logger_provider,
        _logs.NoOpLoggerProvider,
    ),
}


def _choose_providers(
    given: Mapping[str, Any], declaration: Declaration | None, settings: Settings
) -> Providers:
    """Use the given providers, else the application's global ones, else build and set our own."""
    for name, signal in _SIGNALS.items():
        _check(signal.argument, given.get(name), signal.method)
    _redirected.extend(distro.undo_defaults(settings))
    if declaration is not None:
        declaration.configure(unset_signals() - given.keys())
    chosen = {name: signal.get_global() for name, signal in _SIGNALS.items()} | {**given}
    if not settings.logs:
        chosen["logs"] = _logs.NoOpLoggerProvider()
    # All are built before one is set: a bad variable must leave nothing behind.
    own: list[tuple[Callable[[Any], None], object]] = []
    for name, signal in _SIGNALS.items():
        chosen[name] = _stand_in(chosen[name], signal.build, settings)
        if not _is_unset(chosen[name]):
            continue
        if declaration is not None:  # which does not declare it
            chosen[name] = signal.nothing()
            continue
        chosen[name] = signal.build(settings)
        own.append((signal.set_global, chosen[name]))
    for set_globally, provider in own:
        set_globally(provider)
        _owned.append(provider)
    return Providers(**chosen)


def unset_signals() -> set[str]:
    """Return the signals for which no provider is set globally."""
    return {name for name, signal in _SIGNALS.items() if _is_unset(signal.get_global())}


def _is_unset(provider: object) -> bool:
    """Return whether a global provider only stands for the one that may be set later."""
    # By name, since two of these classes are private.
    return type(provider).__name__ in {
        "ProxyTracerProvider",
        "_ProxyMeterProvider",
        "ProxyLoggerProvider",
    }


def _pack(providers: Providers, settings: Settings) -> Parcel:
    """Return what other processes need to record like this one."""
    # They may have another working directory, and they may switch flowspan off.
    settings = settings.model_copy(update={"dir": settings.dir.absolute()})
    given = [signal for signal, one in providers._asdict().items() if one not in _owned]
    return Parcel(
        json.dumps(
            {"settings": settings.model_dump(mode="json", exclude={"enabled"}), "given": given}
        )
    )


def _all_of(providers: Providers | None) -> set[object]:
    """Return everything to flush: the providers in use, and those of the distribution."""
    return {*(providers or ()), *_redirected}


def _writes_only_files(provider: object, settings: Settings) -> bool:
    """Return whether a tracer provider is our own, and writes to the embedded files alone."""
    return provider in _owned and [
        route.exporter for route in describe_signals(settings) if route.signal == "traces"
    ] == [EMBEDDED]


def _stand_in(provider: P, build: Callable[[Settings], Any], settings: Settings) -> P:
    """Return our own provider instead of one of `_redirected`; all others are used as they are."""
    if provider in _redirected and provider not in _stand_ins:
        _stand_ins[provider] = build(settings)
        _owned.append(_stand_ins[provider])
    found: P = _stand_ins.get(provider, provider)
    return found


def _moved_folder(providers: Providers, settings: Settings) -> Path | None:
    """Return where embedded files are written by default if the working directory is of one run."""
    if not places.is_temporary() or settings.dir != places.lasting():
        return None
    exporters = {route.exporter for route in describe_signals(settings)}
    return settings.dir if EMBEDDED in exporters and {*providers} & {*_owned} else None


def _log_export(
    observer: EngineObserver, provider: LoggerProvider, settings: Settings
) -> LogExport | None:
    """Create the export of log records, or return None if they go nowhere."""
    from flowspan._prefect import print_logger  # noqa: PLC0415 - as Prefect's engines
    from flowspan.log_capture.export import LogExport  # noqa: PLC0415 - as above

    if isinstance(provider, _logs.NoOpLoggerProvider):
        return None
    return LogExport(provider, settings.log_level, observer.recorder_for_line, print_logger)


def _heartbeat(
    observer: EngineObserver, provider: LoggerProvider, settings: Settings
) -> Heartbeat | None:
    """Create what reports the runs that have not ended, or return None if that is switched off."""
    from flowspan.recording.heartbeat import Heartbeat  # noqa: PLC0415 - as Prefect's engines

    if isinstance(provider, _logs.NoOpLoggerProvider) or not settings.heartbeat:
        return None
    flush = partial(sdk.flush, {provider}, settings.flush_timeout, gives_up=True)
    return Heartbeat(observer.tracer, provider, settings.heartbeat, flush)


def _check(name: str, given: object, method: str) -> None:
    if given is not None and not callable(getattr(given, method, None)):
        kind = "".join(part.capitalize() for part in name.split("_"))
        raise TypeError(
            f"{name} must be an OpenTelemetry {kind}, not {given!r}. "
            "Leave it out to let flowspan build one from the OTEL_* variables."
        )


def _finish_at_exit(instrumentor: PrefectInstrumentor) -> None:
    """Finish when this process, or one that it forks, ends."""
    global _exits_cleanly  # noqa: PLW0603 - handlers cannot be unregistered
    if _exits_cleanly:
        return
    _exits_cleanly = True
    atexit.register(instrumentor.finish)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=instrumentor.forget_parent_process)
    # Children that multiprocessing forks skip atexit, but not its own finalizers.
    multiprocessing.util.register_after_fork(instrumentor, _finish_with_multiprocessing)


def _finish_with_multiprocessing(instrumentor: PrefectInstrumentor) -> None:
    multiprocessing.util.Finalize(None, instrumentor.finish, exitpriority=1)
