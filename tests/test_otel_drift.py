"""Check the private parts of OpenTelemetry that flowspan uses against what is installed.

Each has one entry in the table: where it is used, why, and a check that it has not changed. The
last tests search the sources to make sure that no other private part is used.
"""

import ast
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import _logs, context, metrics
from opentelemetry.distro import OpenTelemetryDistro
from opentelemetry.exporter.otlp.json.common import _log_encoder
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
    OTLPSpanExporter as HTTPSpanExporter,
)
from opentelemetry.instrumentation.logging.handler import LoggingHandler
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, InMemoryLogRecordExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    InMemoryMetricReader,
    MetricExporter,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from packaging.requirements import Requirement

import flowspan
from sinks import refusing_endpoint

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = Path(flowspan.__file__).parent
SOURCES = [
    *(
        path
        for room in ("export", "log_capture", "recording")
        for path in (PACKAGE / room).glob("*.py")
    ),
    *PACKAGE.glob("*.py"),
]
GRPC = (OTLPSpanExporter, OTLPMetricExporter, OTLPLogExporter)
OTHERS = {
    # structlog's, documented for authors of loggers, and namedtuple's
    *("_process_event", "_processors", "_context", "_logger", "_name", "_record"),
    *("_file", "_write", "_replace", "_asdict", "_fields"),
    # What BaseInstrumentor requires of subclasses
    *("_instrument", "_uninstrument"),
    # Dask's, see test_arrival.py
    "_instances",
}
"""Private names that are no part of OpenTelemetry, or meant to be used."""


@dataclass(frozen=True)
class Private:
    """A private part of OpenTelemetry, or a public but undocumented one."""

    name: str
    used_in: str
    why: str
    check: Callable[[], bool]


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def batch_processors() -> Iterator[Any]:
    processors: tuple[Any, ...] = (
        BatchSpanProcessor(InMemorySpanExporter()),
        BatchLogRecordProcessor(InMemoryLogRecordExporter()),  # type: ignore[no-untyped-call]
    )
    for processor in processors:
        try:
            yield processor
        finally:
            processor.shutdown()


def batch_shutdown_takes_a_timeout() -> bool:
    return all(
        "timeout_millis" in parameters(processor._batch_processor.shutdown)
        for processor in batch_processors()
    )


def batch_queue_takes_anything() -> bool:
    kinds = [type(processor._batch_processor) for processor in batch_processors()]
    return all(parameters(kind.emit) == ["data"] for kind in kinds)


def batch_queue_is_bounded() -> bool:
    return all(
        (len(one._batch_processor._queue), one._batch_processor._max_queue_size) == (0, 2048)
        for one in batch_processors()
    )


def batch_processor_logs_in_its_module() -> bool:
    kinds = {type(processor._batch_processor) for processor in batch_processors()}
    return {kind.__module__ for kind in kinds} == {"opentelemetry.sdk._shared_internal"}


def reader() -> Any:
    return PeriodicExportingMetricReader(ConsoleMetricExporter(), float("inf"))


def reader_without_interval_has_no_thread() -> bool:
    never, often = reader(), PeriodicExportingMetricReader(ConsoleMetricExporter(), 60_000)
    with closing_reader(often):
        return never._daemon_thread is None and often._daemon_thread is not None


def closing_reader(one: Any) -> Any:
    one.close = one.shutdown
    one._set_collect_callback(lambda *_, **__: iter(()))
    return closing(one)


def reader_guards_its_exports() -> bool:
    lock = reader()._export_lock
    return callable(lock.acquire) and callable(lock.release)


def fork_hooks() -> bool:
    return parameters(PeriodicExportingMetricReader._at_fork_reinit) == []


def consumer_can_be_made_anew() -> bool:
    provider: Any = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    provider.get_meter("x").create_observable_gauge("y")
    consumer = provider._measurement_consumer
    counted = len(consumer._async_instruments)
    anew: Any = type(consumer)(provider._sdk_config, [])
    return (counted, anew._async_instruments) == (1, [])


def metric_exporters_have_preferences() -> bool:
    exporter: Any = ConsoleMetricExporter()
    init = parameters(MetricExporter)
    return init[:2] == ["preferred_temporality", "preferred_aggregation"] and hasattr(
        exporter, "_preferred_temporality"
    )


def exporters_make_their_stubs_anew() -> bool:
    """The exporter creates its client with `_stub`, from a channel, and calls its Export()."""
    for kind in GRPC:
        exporter: Any = kind(endpoint="http://127.0.0.1:1", insecure=True)
        made: list[Any] = []
        exporter._stub = made.append
        exporter._initialize_channel_and_stub()
        if made != [exporter._channel] or exporter._client is not None:
            return False
        source = "".join(inspect.getsource(kind._export).split())
        if "self._client.Export(request=" not in source or "metadata=" not in source:
            return False
    return True


def exporters_send_one_request() -> bool:
    """A client's private parts send one request, whose answer or error can be read."""
    with refusing_endpoint() as endpoint:
        client: Any = HTTPSpanExporter(endpoint=endpoint, headers={"a": "b"})._client
        answer = client._submit(client._compress(b""), 1.0)
    return (answer.status_code, isinstance(answer.error, Exception)) == (None, True)


def grpc_exporters_have_headers() -> bool:
    exporter: Any = OTLPSpanExporter(endpoint="http://127.0.0.1:1", headers={"a": "b"})
    return ("a", "b") in exporter._headers


def providers_hold_exporters() -> bool:
    """What undoes the distribution's defaults finds each exporter, and can replace it."""
    metric_exporter = ConsoleMetricExporter()
    reading: Any = PeriodicExportingMetricReader(metric_exporter, float("inf"))
    meters: Any = MeterProvider([reading], shutdown_on_exit=False)
    tracers: Any = TracerProvider(shutdown_on_exit=False)
    loggers: Any = LoggerProvider(shutdown_on_exit=False)
    spans, logs = batch_processors_of(tracers, loggers)
    holders = [
        *meters._metric_readers,
        *(one._batch_processor for one in tracers._active_span_processor._span_processors),
        *(
            one._batch_processor
            for one in loggers._multi_log_record_processor._log_record_processors
        ),
    ]
    found = [holder._exporter for holder in holders]
    for provider in (meters, tracers, loggers):
        provider.shutdown()
    return found == [metric_exporter, spans, logs]


def batch_processors_of(tracers: Any, loggers: Any) -> tuple[Any, Any]:
    """Give each provider a batch processor; return their exporters."""
    spans, logs = InMemorySpanExporter(), InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
    tracers.add_span_processor(BatchSpanProcessor(spans))
    loggers.add_log_record_processor(BatchLogRecordProcessor(logs))
    return spans, logs


def distribution_sets_these() -> bool:
    source = inspect.getsource(OpenTelemetryDistro._configure)
    set_by_it = dict(re.findall(r"setdefault\((\w+), \"(\w+)\"\)", source))
    return set_by_it == {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_LOGS_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
    }


def draft_limits() -> bool:
    provider: Any = LoggerProvider(shutdown_on_exit=False)
    logger = provider.get_logger("x")
    return hasattr(provider, "_log_record_limits") and logger.instrumentation_scope.name == "x"


PRIVATE = [
    Private(
        "_batch_processor",
        "export/bounded.py",
        "the public shutdown() takes no timeout",
        batch_shutdown_takes_a_timeout,
    ),
    Private(
        "emit",
        "export/bounded.py",
        "queues what is still to be made; only the exporter looks at it",
        batch_queue_takes_anything,
    ),
    Private("_queue", "export/bounded.py", "whether a line still fits in", batch_queue_is_bounded),
    Private(
        "_max_queue_size",
        "export/bounded.py",
        "whether a line still fits in",
        batch_queue_is_bounded,
    ),
    Private(
        "opentelemetry.sdk._shared_internal",
        "export/outages.py",
        "the logger that says that the queue is full",
        batch_processor_logs_in_its_module,
    ),
    Private(
        "_daemon_thread",
        "export/bounded.py",
        "a reader without one has to collect at its end",
        reader_without_interval_has_no_thread,
    ),
    Private(
        "_export_lock",
        "export/bounded.py",
        "a fork may leave it to a thread that is no more",
        reader_guards_its_exports,
    ),
    Private("_at_fork_reinit", "export/bounded.py", "renews that lock in a child", fork_hooks),
    Private(
        "_handle_fork",
        "export/bounded.py",
        "lets a child begin at zero",
        lambda: parameters(MeterProvider._handle_fork) == [],
    ),
    *(
        Private(name, "export/bounded.py", "lets a child begin at zero", consumer_can_be_made_anew)
        for name in ("_measurement_consumer", "_sdk_config", "_async_instruments")
    ),
    *(
        Private(
            name,
            "export/outages.py",
            "the reader asks an exporter for them; there is no other way to hand them on",
            metric_exporters_have_preferences,
        )
        for name in ("_preferred_temporality", "_preferred_aggregation")
    ),
    Private(
        "_log_record_limits",
        "export/bounded.py",
        "a record that is made later keeps the limits",
        draft_limits,
    ),
    *(
        Private(
            name,
            "export/forks.py",
            "no argument reaches the channel or its calls",
            exporters_make_their_stubs_anew,
        )
        for name in ("_stub", "_client", "_channel")
    ),
    *(
        Private(
            name,
            "export/probe.py",
            "the public export() does not return the answer",
            exporters_send_one_request,
        )
        for name in ("_submit", "_compress")
    ),
    Private("_headers", "export/probe.py", "as above, and gRPC's", grpc_exporters_have_headers),
    *(
        Private(
            name,
            "export/distro.py",
            "an exporter cannot be replaced in public",
            providers_hold_exporters,
        )
        for name in (
            "_active_span_processor",
            "_span_processors",
            "_multi_log_record_processor",
            "_log_record_processors",
            "_metric_readers",
            "_exporter",
        )
    ),
    Private(
        "opentelemetry.distro",
        "export/distro.py",
        "its defaults are undone, and only they",
        distribution_sets_these,
    ),
    Private(
        "opentelemetry.exporter.otlp.json.common._log_encoder",
        "export/files.py",
        "that of spans is public",
        lambda: parameters(_log_encoder.encode_logs) == ["batch"],
    ),
    Private(
        "opentelemetry._logs",
        "export/bounded.py, instrumentor.py, log_capture/export.py",
        "logs are stable as a specification, and not yet public here",
        lambda: {"LogRecord", "NoOpLoggerProvider", "get_logger_provider"} <= set(dir(_logs)),
    ),
    Private(
        "opentelemetry.sdk._logs",
        "export/",
        "as above",
        lambda: parameters(LoggerProvider)[:1] == ["resource"],
    ),
    Private(
        "opentelemetry.sdk._logs.export",
        "export/",
        "as above",
        lambda: "max_queue_size" in parameters(BatchLogRecordProcessor),
    ),
    Private(
        "opentelemetry._logs._internal",
        "log_capture/export.py",
        "whether the application has set a provider",
        lambda: hasattr(_logs._internal, "ProxyLoggerProvider"),
    ),
    Private(
        "_ProxyMeterProvider",
        "instrumentor.py",
        "whether the application has set a provider",
        lambda: hasattr(metrics._internal, "_ProxyMeterProvider"),  # type: ignore[attr-defined, unused-ignore]
    ),
    Private(
        "_SUPPRESS_INSTRUMENTATION_KEY",
        "log_capture/export.py",
        "whether OpenTelemetry itself logs, without an import of its instrumentation",
        lambda: isinstance(context._SUPPRESS_INSTRUMENTATION_KEY, str),
    ),
    Private(
        "_Gauge",
        "recording/custom_gauges.py",
        "the type of what create_gauge() returns",
        lambda: inspect.isclass(metrics._Gauge),
    ),
    Private(
        "_logger_provider",
        "log_capture/export.py",
        "whether a handler of the application's delivers",
        lambda: hasattr(LoggingHandler(logger_provider=LoggerProvider()), "_logger_provider"),
    ),
    Private(
        "_span_limits",
        "export/providers.py",
        "whether an application's provider keeps enough links",
        lambda: TracerProvider(span_limits=SpanLimits(max_links=7))._span_limits.max_links == 7,
    ),
    Private(
        "id_generator",
        "recording/recorder.py",
        "the SDK copies the provider's to each tracer, so ours alone can derive ids",
        lambda: hasattr(TracerProvider().get_tracer("x"), "id_generator"),
    ),
]


@pytest.mark.parametrize("private", PRIVATE, ids=lambda private: private.name)
def test_private_part_is_what_it_was(private: Private) -> None:
    """Each part that OpenTelemetry does not promise still exists and behaves as before."""
    versions = f"OpenTelemetry {version('opentelemetry-sdk')} changed {private.name}"
    assert private.check(), f"{versions}, used in {private.used_in}: {private.why}."


# What the sources use


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own_names(tree: ast.AST) -> set[str]:
    """Return the private names that a file itself defines."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name):
            names.add(node.id)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        ):
            names.add(node.attr)
    return names


def private_names(path: Path) -> Iterator[str]:
    """Yield the foreign private names that a file uses: as attributes, imports and texts."""
    tree = ast.parse(path.read_text("utf-8"))
    own = own_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            if node.attr not in own or ast.unparse(node.value) == "super()":
                yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from private_imports(node)
        else:
            yield from private_texts(node)


def private_imports(node: ast.ImportFrom) -> Iterator[str]:
    module = node.module or ""
    if module.startswith("opentelemetry"):
        if "._" in module:
            yield module
        for name in (alias.name for alias in node.names if is_private(alias.name)):
            yield f"{module}.{name}" if module == "opentelemetry" else name


def private_texts(node: ast.AST) -> Iterator[str]:
    """Yield the names of modules, and texts given to getattr() or compared with __name__."""
    if isinstance(node, ast.Constant):
        text = str(node.value)
        if text.startswith("opentelemetry.") and "._" in text:
            yield text
    elif isinstance(node, (ast.Call, ast.Compare)) and any(
        word in ast.unparse(node) for word in ("attr(", "__name__")
    ):
        texts = [str(at.value) for at in ast.walk(node) if isinstance(at, ast.Constant)]
        yield from (text for text in texts if text.isidentifier() and is_private(text))


def test_every_private_part_is_listed() -> None:
    """The table has exactly the foreign private names that the sources use."""
    used = {name: path for path in SOURCES for name in private_names(path)}
    assert {"_stub", "_queue", "opentelemetry._logs", "_SUPPRESS_INSTRUMENTATION_KEY"} <= set(used)
    listed = {private.name for private in PRIVATE}
    own = {"_patched"}  # of PrefectInstrumentor, looked up by name to see if it is set
    unlisted = {name: str(used[name]) for name in set(used) - listed - OTHERS - own}
    assert unlisted == {}
    inherited = {name for _, names in shared_with_bases() for name in names}
    assert {name for name in listed - set(used) - inherited if is_private(name)} == set()


def shared_with_bases() -> Iterator[tuple[type, set[str]]]:
    """Yield our subclasses of OpenTelemetry's classes, with the private names that both use."""
    for path in SOURCES:
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        module = importlib.import_module(name.removesuffix(".__init__"))
        for kind in vars(module).values():
            if inspect.isclass(kind) and kind.__module__ == module.__name__:
                theirs = [b for b in kind.__mro__ if b.__module__.startswith("opentelemetry.")]
                if theirs:
                    yield kind, names_of_self(kind) & set().union(*map(names_of_self, theirs))


def names_of_self(kind: type) -> set[str]:
    """Return the private methods of a class, and the private names that they use on ``self``."""
    methods = [one for one in vars(kind).values() if inspect.isfunction(one)]
    return {method.__name__ for method in methods if is_private(method.__name__)} | {
        node.attr
        for method in methods
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(method))))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
        and is_private(node.attr)
    }


def test_no_subclass_takes_a_private_name_unawares() -> None:
    """If a class of ours shares a private name with its base in the SDK, it is on purpose."""
    listed = {private.name for private in PRIVATE}
    taken = {kind.__name__: names - listed - OTHERS for kind, names in shared_with_bases()}
    assert {name: names for name, names in taken.items() if names} == {}


@pytest.mark.parametrize(
    "package", ["opentelemetry-instrumentation", "opentelemetry-exporter-otlp-json-file"]
)
def test_beta_packages_have_an_upper_bound(package: str) -> None:
    """Packages that may change in any release have one, and the installed one is in range."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))[
        "project"
    ]
    requirements = map(Requirement, project["dependencies"])
    (specifier,) = [one.specifier for one in requirements if one.name == package]
    assert specifier.contains(version(package), prereleases=True)
    assert not specifier.contains("0.999b0", prereleases=True)
