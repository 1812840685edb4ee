"""Log lines have the run that logs them, whatever logger they come through."""

import asyncio
import contextvars
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import structlog
from opentelemetry import trace
from opentelemetry.instrumentation.logging.handler import LoggingHandler
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from prefect import flow, get_run_logger, task
from prefect.logging.configuration import DEFAULT_LOGGING_SETTINGS_PATH
from prefect.logging.handlers import APILogHandler, PrefectConsoleHandler

import flowspan
from flowspan import logs
from flowspan._containment import Containment
from flowspan.identity import derive_attempt_span_id, derive_span_id, derive_trace_id
from flowspan.recording.recorder import RunRecorder
from flowspan.redaction import MASK
from kinds import KINDS, make
from support import RecordedLogs, RecordedMetrics, RecordedSpans, context

SCRIPT = Path(__file__).parent / "flows" / "configured.py"
RUN_FIELDS = {
    *("trace_id", "span_id", "trace_flags", "service", "flow_name", "flow_run_id"),
    *("flow_run_name", "task_name", "task_run_id", "task_run_name"),
}
SECRETS: Any = {"password": "hunter2", "nested": {"token": "hunter2"}}
FLOW_FIELDS = RUN_FIELDS - {"task_name", "task_run_id", "task_run_name"}

Line = dict[str, Any]
Read = Callable[[], list[Line]]


@pytest.fixture(autouse=True)
def unchanged_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let INFO pass in Prefect's loggers, and restore logging afterwards."""
    root, known = logging.getLogger(), logging.root.manager.loggerDict.values()
    loggers = [root, *(item for item in known if isinstance(item, logging.Logger))]
    before = [(logger, [*logger.handlers], [*logger.filters], logger.level) for logger in loggers]
    monkeypatch.setattr(logs, "_contained", Containment("logs"))
    logging.getLogger("prefect").setLevel("INFO")
    yield
    logging.getLogger("library").handlers = []
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    for logger, handlers, filters, level in before:
        logger.handlers, logger.filters = handlers, filters
        logger.setLevel(level)
    logging.getLogger("mine").setLevel("NOTSET")


@pytest.fixture
def read(capsys: pytest.CaptureFixture[str]) -> Read:
    """Return the lines written since the last call; each must be one JSON object."""
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.fixture
def lines(read: Read) -> Read:
    """Call `configure` for JSON; return `read`."""
    logs.configure("json")
    return read


def said(lines: list[Line], event: str = "said") -> Line:
    """The one line with this event."""
    found = [line for line in lines if line["event"] == event]
    assert len(found) == 1, lines
    return found[0]


def run_fields(line: Line) -> set[str]:
    return RUN_FIELDS & line.keys()


def without_pytests_handlers() -> None:
    """Remove pytest's handlers, which format everything and raise if that fails."""
    root = logging.getLogger()
    root.handlers = [item for item in root.handlers if isinstance(item, logs.StderrHandler)]


WAYS: dict[str, Callable[[], Any]] = {
    "structlog": lambda: structlog.get_logger("mine").info("said"),
    "structlog bound": lambda: structlog.get_logger("mine").bind(n=1).info("said"),
    "run logger": lambda: get_run_logger().info("said"),
    "stdlib": lambda: logging.getLogger("library").warning("said"),
    "print": lambda: print("said"),
}


# The processor


@pytest.fixture
def native() -> Iterator[list[Line]]:
    """Collect the events of a user's own structlog configuration, without `logging`."""
    events: list[Line] = []

    def keep(_logger: Any, _name: str, event_dict: Any) -> Any:
        events.append(dict(event_dict))
        raise structlog.DropEvent

    structlog.configure(processors=[logs.add_run_context, keep])
    yield events
    structlog.reset_defaults()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", ["flow", "task"])
def test_fields(level: str, kind: str, native: list[Line], spans: RecordedSpans) -> None:
    """In every kind of run, an event has the run's names, ids and span, and nothing else."""
    make(level, kind, lambda: structlog.get_logger().info("said"))()
    (event,) = native
    span = spans.one("RUN main" if level == "flow" else "step")
    assert event.keys() - {"event"} == (FLOW_FIELDS if level == "flow" else RUN_FIELDS)
    assert event["trace_id"] == f"{context(span).trace_id:032x}"
    assert event["trace_id"] == f"{derive_trace_id(event['flow_run_id']):032x}"
    assert event["span_id"] == f"{context(span).span_id:016x}"
    assert event["trace_flags"] == "03"
    assert event["flow_name"] == "main"
    if level == "task":
        assert event["task_name"] == "step"
        assert event["task_run_name"].startswith("step-")
        assert event["span_id"] == f"{derive_span_id(event['task_run_id']):016x}"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_attempts(kind: str, native: list[Line], spans: RecordedSpans) -> None:
    """If a run has attempts, an event has the span of its attempt."""
    failures = iter([True, False])

    def body() -> None:
        structlog.get_logger().info("said")
        if next(failures):
            raise ValueError("no")

    make("task", kind, body, retries=1)()
    run_id = native[0]["task_run_id"]
    expected = [f"{derive_attempt_span_id(run_id, attempt):016x}" for attempt in (1, 2)]
    assert [event["span_id"] for event in native] == expected
    assert len({event["task_run_id"] for event in native}) == 1


def test_own_spans(native: list[Line], spans: RecordedSpans) -> None:
    """Inside a user's span, an event has that span, and still the run."""

    def body() -> None:
        with spans.provider.get_tracer("mine").start_as_current_span("inner"):
            structlog.get_logger().info("said")

    make("task", "sync", body)()
    (event,) = native
    assert event["span_id"] == f"{context(spans.one('inner')).span_id:016x}"
    assert event["task_name"] == "step"


def test_own_keys(native: list[Line], spans: RecordedSpans) -> None:
    """The user's own keys override those of the run, whatever their value."""
    own = {"trace_id": "mine", "service": "shop", "flow_name": None}
    make("flow", "sync", lambda: structlog.get_logger().info("said", **own))()
    (event,) = native
    assert {key: event[key] for key in own} == own
    assert event["flow_run_id"]


def test_outside_of_runs(native: list[Line], spans: RecordedSpans) -> None:
    """Outside runs an event has no run fields, even inside a user's span."""
    structlog.get_logger().info("said")
    with spans.provider.get_tracer("mine").start_as_current_span("mine"):
        structlog.get_logger().info("said")
    assert native == [{"event": "said"}] * 2


def test_before_instrument(native: list[Line], prefect_server: str) -> None:
    """If nothing is instrumented, events in runs are unchanged."""
    make("flow", "sync", lambda: structlog.get_logger().info("said"))()
    assert native == [{"event": "said"}]


@pytest.mark.parametrize("level", ["flow", "task"])
def test_after_the_run(level: str, native: list[Line], spans: RecordedSpans) -> None:
    """Code that goes on after its run has ended no longer has the run."""
    kept: list[contextvars.Context] = []
    make(level, "sync", lambda: kept.append(contextvars.copy_context()))()
    kept[0].run(structlog.get_logger().info, "said")
    assert native == [{"event": "said"}]


def test_threads(native: list[Line], spans: RecordedSpans) -> None:
    """A thread with a run's context is in that run; a thread without is in none."""

    def body() -> None:
        for target in (contextvars.copy_context().run, lambda log, event: log(event)):
            thread = threading.Thread(target=target, args=(structlog.get_logger().info, "said"))
            thread.start()
            thread.join()

    make("task", "sync", body)()
    with_context, without = native
    assert with_context["task_name"] == "step"
    assert without == {"event": "said"}


def test_concurrent_tasks(native: list[Line], spans: RecordedSpans) -> None:
    """Concurrent tasks, in threads or on one event loop, each have their own events."""

    @task
    def threaded(n: int) -> None:
        structlog.get_logger().info("said", n=n)

    @task
    async def asynchronous(n: int) -> None:
        await asyncio.sleep(0.01)
        structlog.get_logger().info("said", n=n)

    @flow
    async def main() -> None:
        threads = threaded.map(range(5))
        await asyncio.gather(*(asynchronous(n) for n in range(5)))
        threads.wait()

    asyncio.run(main())
    assert len(native) == len({event["task_run_id"] for event in native}) == 10
    for event in native:
        assert event["span_id"] == f"{derive_span_id(event['task_run_id']):016x}"


def test_unsampled(native: list[Line], prefect_server: str) -> None:
    """A run that is not sampled still has its ids, and flags that say so."""
    flowspan.instrument(tracer_provider=TracerProvider(sampler=ALWAYS_OFF))
    try:
        make("flow", "sync", lambda: structlog.get_logger().info("said"))()
    finally:
        flowspan.uninstrument()
    (event,) = native
    assert event["trace_id"] == f"{derive_trace_id(event['flow_run_id']):032x}"
    assert event["trace_flags"] == "02"


def test_without_spans(native: list[Line], prefect_server: str) -> None:
    """If the provider makes no spans, there are no ids instead of zeros."""
    flowspan.instrument(tracer_provider=trace.NoOpTracerProvider())
    try:
        make("flow", "sync", lambda: structlog.get_logger().info("said"))()
    finally:
        flowspan.uninstrument()
    (event,) = native
    assert event.keys() - {"event"} == FLOW_FIELDS - {"trace_id", "span_id", "trace_flags"}


@pytest.fixture
def service(native: list[Line], prefect_server: str) -> Callable[[trace.TracerProvider], str]:
    """Return the service field of a run under a provider."""

    def find(provider: trace.TracerProvider) -> str:
        flowspan.instrument(tracer_provider=provider)
        try:
            make("flow", "sync", lambda: structlog.get_logger().info("said"))()
        finally:
            flowspan.uninstrument()
        found: str = native[-1]["service"]
        return found

    return find


Service = Callable[[trace.TracerProvider], str]


def test_service_of_the_spans(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service is the one of the spans' provider."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "other")
    for name in ("one", "two"):
        assert service(TracerProvider(resource=Resource({"service.name": name}))) == name


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "prefect"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "a=b, service.name=in%20words"}, "in words"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=a", "OTEL_SERVICE_NAME": "named"}, "named"),
    ],
)
def test_service_of_the_environment(
    variables: dict[str, str], expected: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the spans have no resource, the standard variables name the service."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert service(trace.NoOpTracerProvider()) == expected


def test_failure(
    native: list[Line],
    spans: RecordedSpans,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If flowspan fails, fields are missing, but the event and the flow are unaffected."""
    monkeypatch.setattr(
        RunRecorder, "log_attributes", property(lambda _: (_ for _ in ()).throw(LookupError("no")))
    )
    make("flow", "sync", lambda: [structlog.get_logger().info("said") for _ in range(2)])()
    assert [event["event"] for event in native] == ["said"] * 2
    assert native[0]["trace_id"]
    reports = [record for record in caplog.records if record.name == "flowspan"]
    assert [record.levelname for record in reports if "logs: no" in record.message] == ["WARNING"]


@pytest.mark.parametrize("chain", ["processors", "foreign_pre_chain"])
def test_processor_formatter(chain: str, spans: RecordedSpans) -> None:
    """Under a user's own formatter, records of other libraries have the fields, too."""
    stream, handler = io.StringIO(), logging.StreamHandler()
    handler.setStream(stream)
    is_last = chain == "processors"
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[] if is_last else [logs.add_run_context],
            processors=[
                *([logs.add_run_context] if is_last else []),
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    structlog.configure(
        processors=[
            *([] if is_last else [logs.add_run_context]),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    logging.getLogger().handlers = [handler]

    def body() -> None:
        structlog.get_logger("mine").warning("native")
        logging.getLogger("library").warning("foreign")

    make("task", "sync", body)()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    for event in ("native", "foreign"):
        assert said(lines, event).keys() - {"event"} == RUN_FIELDS


def test_imports_little() -> None:
    """Importing the module imports neither Prefect nor the SDK nor structlog."""
    heavy = ["prefect", "structlog", "opentelemetry.sdk"]
    code = f"import flowspan.logs, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# One call


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", ["flow", "task"])
def test_every_way(level: str, kind: str, way: str, lines: Read, spans: RecordedSpans) -> None:
    """However a run logs, there is one line with the run."""
    make(level, kind, WAYS[way], log_prints=True)()
    span = spans.one("RUN main" if level == "flow" else "step")
    line = said(lines())
    assert run_fields(line) == (FLOW_FIELDS if level == "flow" else RUN_FIELDS)
    assert line["trace_id"] == f"{context(span).trace_id:032x}"
    assert line["span_id"] == f"{context(span).span_id:016x}"


@pytest.mark.parametrize("way", WAYS)
def test_subflow_in_a_task(way: str, lines: Read, spans: RecordedSpans) -> None:
    """In a subflow that a task calls, a line has the subflow, although Prefect mixes up both."""

    @flow(name="inner", log_prints=True)
    def inner() -> None:
        WAYS[way]()

    make("task", "sync", inner, log_prints=True)()  # both, for Prefect 3.6.0
    line = said(lines())
    assert run_fields(line) == FLOW_FIELDS
    assert line["flow_name"] == "inner"
    assert line["span_id"] == f"{derive_span_id(line['flow_run_id']):016x}"


def test_task_without_flow(lines: Read, spans: RecordedSpans) -> None:
    """A task run outside flows has no flow fields."""
    task(lambda: get_run_logger().info("said"), name="alone")()  # type: ignore[call-overload]
    line = said(lines())
    assert run_fields(line) == RUN_FIELDS - {"flow_name", "flow_run_id", "flow_run_name"}
    assert line["task_name"] == "alone"
    assert "<unknown>" not in line.values()


@pytest.mark.parametrize("way", ["structlog", "structlog bound", "stdlib"])
def test_lines_outside(way: str, lines: Read, spans: RecordedSpans) -> None:
    """Outside runs a line has no run fields."""
    WAYS[way]()
    assert run_fields(said(lines())) == set()


def test_shape(lines: Read) -> None:
    """A line starts with time in UTC, level, logger and event, followed by the user's keys."""
    structlog.get_logger("mine").warning("said", rows=5)
    logging.getLogger("library").error("said too", extra={"rows": 6})
    mine, library = lines()
    assert list(mine) == list(library) == ["timestamp", "level", "logger", "event", "rows"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", mine.pop("timestamp"))
    assert mine == {"level": "warning", "logger": "mine", "event": "said", "rows": 5}
    assert (library["level"], library["logger"], library["rows"]) == ("error", "library", 6)


@pytest.mark.parametrize(
    ("message", "args", "expected"),
    [
        ("%d of %s", (5, "ten"), "5 of ten"),
        ("%(n)d rows", ({"n": 5},), "5 rows"),
        ("100 %", (), "100 %"),
        ("%s", ((1, 2),), "(1, 2)"),
        ("%s", ({},), "{}"),
    ],
)
def test_arguments(message: str, args: tuple[Any, ...], expected: str, lines: Read) -> None:
    """Both libraries put %-style arguments into the event."""
    structlog.get_logger("mine").warning(message, *args)
    logging.getLogger("library").warning(message, *args)
    mine, library = lines()
    assert mine["event"] == library["event"] == expected
    assert "positional_args" not in mine.keys() | library.keys()


def test_arguments_that_do_not_fit(lines: Read) -> None:
    """If the arguments do not fit, the line has both, and nothing raises."""
    without_pytests_handlers()
    structlog.get_logger("mine").warning("%d rows", "no")
    logging.getLogger("library").warning("%d rows", "no")
    for line in lines():
        assert (line["event"], line["positional_args"]) == ("%d rows", ["no"])


def test_exceptions(lines: Read) -> None:
    """An exception is the text of its traceback, without values of variables."""
    hidden = "in a variable"
    try:
        raise ValueError(f"{len(hidden)} is wrong")
    except ValueError as error:
        structlog.get_logger("mine").exception("one")
        structlog.get_logger("mine").error("two", exc_info=error)
        logging.getLogger("library").exception("three")
    found = lines()
    assert [line["event"] for line in found] == ["one", "two", "three"]
    for line in found:
        assert line["exception"].startswith("Traceback (most recent call last):")
        assert line["exception"].endswith("ValueError: 13 is wrong")
        assert hidden not in line["exception"]
        assert "exc_info" not in line


def test_stack(lines: Read) -> None:
    """A requested stack ends at the log call."""
    structlog.get_logger("mine").warning("one", stack_info=True)
    logging.getLogger("library").warning("two", stack_info=True)
    for line in lines():
        assert line["stack"].rstrip().endswith("stack_info=True)")


class _Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": [1, None, 2.5, "x"]}, {"a": [1, None, 2.5, "x"]}),
        (np.int64(5), 5),
        (np.float32(0.5), 0.5),
        (float("nan"), "nan"),
        (2**70, str(2**70)),
        (b"\xff", r"b'\xff'"),
        ({1: "one"}, {"1": "one"}),
        (Path("a/b"), "a/b"),
        (_Unprintable(), "<test_logs._Unprintable>"),
        ([object], ["<class 'object'>"]),
        ("\ud800", "?"),
    ],
)
def test_values(value: Any, expected: Any, lines: Read) -> None:
    """Values keep their types if JSON has them, and become text otherwise."""
    structlog.get_logger("mine").warning("said", value=value)
    logging.getLogger("library").warning("said", extra={"value": value})
    assert [line["value"] for line in lines()] == [expected] * 2


def test_long_values(lines: Read) -> None:
    """Values unknown to JSON are cut; texts are not."""
    known, unknown = "x" * 5000, ValueError("x" * 5000)
    structlog.get_logger("mine").warning(known, unknown=unknown)
    (line,) = lines()
    assert line["event"] == known
    assert len(line["unknown"]) == 1000


def test_cycles(lines: Read) -> None:
    """A value that contains itself is cut."""
    value: list[Any] = []
    value.append(value)
    structlog.get_logger("mine").warning("said", value=value)
    assert said(lines())["value"]


def test_odd_keys(lines: Read) -> None:
    """Keys that JSON lacks lose neither the line nor the flow."""
    extra: Any = {"\ud800": 1, 2: 3}
    logging.getLogger("library").warning("said", extra=extra)
    assert {key: value for key, value in said(lines()).items() if key in "?2"} == {"?": 1, "2": 3}


def test_secrets(lines: Read) -> None:
    """Secrets are masked, in values, in the event and in tracebacks."""
    url = "postgres://me:hunter2@host/db"
    try:
        raise ConnectionError(url)
    except ConnectionError:
        structlog.get_logger("mine").exception(url, **SECRETS)
        logging.getLogger("library").exception("%s", url, extra={"api_key": "hunter2"})
    found = lines()
    assert len(found) == 2
    assert "hunter2" not in json.dumps(found)


def test_message_that_cannot_be_rendered(lines: Read) -> None:
    """If a record's message fails, there is a line that says so, and the failure is reported."""
    without_pytests_handlers()
    for _ in range(2):
        logging.getLogger("library").warning(_Unprintable())
    report, *found = sorted(lines(), key=lambda line: str(line["logger"]))
    assert report["event"].startswith("flowspan could not record everything (logs: no)")
    assert [line["event"] for line in found] == ["<test_logs._Unprintable>"] * 2
    assert [line["level"] for line in found] == ["warning"] * 2


def test_bound_context(lines: Read, spans: RecordedSpans) -> None:
    """Values bound to the context are on the lines of all loggers."""

    def body() -> None:
        with structlog.contextvars.bound_contextvars(day="today"):
            get_run_logger().info("run logger")
            structlog.get_logger("mine").info("structlog")

    make("task", "sync", body)()
    found = lines()
    assert said(found, "run logger")["day"] == said(found, "structlog")["day"] == "today"


def test_async_methods(lines: Read, spans: RecordedSpans) -> None:
    """Asynchronous methods of structlog, which log in another thread, have the run, too."""

    @flow
    async def main() -> None:
        await structlog.get_logger("mine").ainfo("said")
        try:
            raise ValueError("no")
        except ValueError:
            await structlog.get_logger("mine").aexception("failed")

    asyncio.run(main())
    found = lines()
    assert run_fields(said(found)) == FLOW_FIELDS
    assert said(found, "failed")["exception"].endswith("ValueError: no")


def test_structlog_around_the_run_logger(lines: Read, spans: RecordedSpans) -> None:
    """A structlog logger around Prefect's run logger works like both."""

    def body() -> None:
        structlog.wrap_logger(get_run_logger()).bind(rows=5).info("said")

    make("task", "sync", body)()
    line = said(lines())
    assert (line["rows"], line["logger"]) == (5, "prefect.task_runs")
    assert run_fields(line) == RUN_FIELDS


@pytest.mark.parametrize("way", WAYS)
def test_export(way: str, lines: Read, prefect_server: str) -> None:
    """Besides its line, each log call of a run is exported once, with the same ids."""
    exported = RecordedLogs()
    flowspan.instrument(tracer_provider=TracerProvider(), logger_provider=exported.provider)
    try:
        make("task", "sync", WAYS[way], log_prints=True)()
    finally:
        flowspan.uninstrument()
    line, record = said(lines()), exported.one("said")
    assert line["trace_id"] == f"{record.trace_id:032x}"
    assert line["span_id"] == f"{record.span_id:016x}"
    assert line["task_run_id"] == (record.attributes or {})["prefect.task_run.id"]
    assert not (record.attributes or {}).keys() & RUN_FIELDS


def test_export_by_another_handler(lines: Read, prefect_server: str) -> None:
    """Attributes that another handler's export adds to a record are not in its line."""
    exported = RecordedLogs()
    logging.getLogger("library").addHandler(LoggingHandler(logger_provider=exported.provider))
    flowspan.instrument(tracer_provider=TracerProvider(), logger_provider=exported.provider)
    try:
        make("task", "sync", WAYS["stdlib"])()
    finally:
        flowspan.uninstrument()
    assert (exported.one("said").attributes or {})["prefect.task.name"] == "step"
    assert not [key for key in said(lines()) if key.startswith("prefect.")]


def test_measurements(lines: Read, spans: RecordedSpans, metrics: RecordedMetrics) -> None:
    """A line with a measurement is measured once and written once."""
    make("task", "sync", lambda: structlog.get_logger("mine").info("METRIC: n=%d", 5))()
    (point,) = metrics.points("prefect.metric.n")
    assert (point.value, point.attributes["prefect.task.name"]) == (5, "step")
    assert said(lines(), "METRIC: n=5")["task_name"] == "step"


# Levels and handlers


@pytest.mark.parametrize(
    ("prefect", "root", "expected"),
    [
        ("INFO", "WARNING", {"mine": "info", "library": "warning"}),
        ("DEBUG", "WARNING", {"mine": "debug", "library": "warning"}),
        ("ERROR", "WARNING", {"mine": "warning", "library": "warning"}),
        ("WARNING", "INFO", {"mine": "info", "library": "info"}),
    ],
)
def test_levels(prefect: str, root: str, expected: dict[str, str], read: Read) -> None:
    """Loggers of structlog have Prefect's level; those of libraries have the root's."""
    logging.getLogger("prefect").setLevel(prefect)
    logging.getLogger().setLevel(root)
    logs.configure("json")
    for log in (structlog.get_logger("mine"), logging.getLogger("library")):
        for level in ("debug", "info", "warning"):
            getattr(log, level)("%s %s", log.name, level)
    least: dict[str, str] = {}
    for line in read():
        least.setdefault(line["logger"], line["level"])
    assert least == expected


def test_own_levels(lines: Read) -> None:
    """A level that the user has set for a logger also applies to its children."""
    logging.getLogger("quiet").setLevel("ERROR")
    structlog.get_logger("quiet.below").warning("no")
    structlog.get_logger("quiet.below").error("yes")
    assert [line["event"] for line in lines()] == ["yes"]


def test_level_of_the_root(lines: Read) -> None:
    """The root logger keeps its level, which applies to all libraries."""
    logging.getLogger().setLevel("WARNING")
    structlog.get_logger("root").info("no")
    logging.getLogger("library").info("no")
    assert lines() == []


def test_twice(read: Read) -> None:
    """A second call only applies the new arguments."""
    logs.configure("json")
    log = structlog.get_logger("mine")
    log.info("one")
    logs.configure("json")
    log.info("two")
    assert [line["event"] for line in read()] == ["one", "two"]
    assert sum(isinstance(h, logs.StderrHandler) for h in logging.getLogger().handlers) == 1
    logs.configure("json", datadog=True)
    log.info("three")
    assert said(read(), "three")["message"] == "three"


def test_replaced_handlers(read: Read, tmp_path: Path) -> None:
    """All handlers that write to the terminal are replaced; all others stay."""
    root, apart = logging.getLogger(), logging.getLogger("apart")
    file, other = logging.FileHandler(tmp_path / "log"), logging.StreamHandler(io.StringIO())
    before = [
        handler for handler in root.handlers if not isinstance(handler, PrefectConsoleHandler)
    ]
    for handler in (logging.StreamHandler(), logging.StreamHandler(sys.stdout), file, other):
        root.addHandler(handler)
        apart.addHandler(handler)
    apart.propagate = False
    for name in ("library", "library.below"):
        logging.getLogger(name).addHandler(logging.StreamHandler())
    shipping = [logging.getLogger(f"prefect.{kind}_runs").handlers for kind in ("flow", "task")]
    try:
        logs.configure("json")
        assert root.handlers[:-1] == [*before, file, other]
        for name in ("library", "library.below", "apart"):
            logging.getLogger(name).warning(name)
        assert [line["event"] for line in read()] == ["library", "library.below", "apart"]
        assert all(type(handler) is APILogHandler for kept in shipping for handler in kept)
        assert all(shipping)
        for kind, kept in zip(("flow", "task"), shipping, strict=True):
            assert logging.getLogger(f"prefect.{kind}_runs").handlers == kept
    finally:
        apart.propagate = True
        for name in ("library", "library.below", "apart"):
            logging.getLogger(name).handlers = []
        file.close()


def test_filters_and_levels_of_handlers(read: Read) -> None:
    """Records that a replaced handler filtered out are not written."""
    console = logging.StreamHandler()
    console.setLevel("ERROR")
    console.addFilter(lambda record: "hidden" not in record.getMessage())
    root = logging.getLogger()
    root.handlers = [console]
    for _ in range(2):
        logs.configure("json")
    for message in ("shown", "hidden"):
        logging.getLogger("library").error(message)
        logging.getLogger("library").warning(message)
    assert [(line["level"], line["event"]) for line in read()] == [("error", "shown")]


def test_handlers_that_share_the_records(read: Read) -> None:
    """If handlers share the records, for example by level, what any of them wrote is written."""
    low, high = logging.StreamHandler(sys.stdout), logging.StreamHandler()
    low.addFilter(lambda record: record.levelno < logging.ERROR)
    high.setLevel("ERROR")
    logging.getLogger().handlers = [low, high]
    for _ in range(2):
        logs.configure("json")
    for level in ("warning", "error"):
        getattr(logging.getLogger("library"), level)("said")
    assert [line["level"] for line in read()] == ["warning", "error"]


def test_other_handlers(lines: Read) -> None:
    """For handlers that do not know structlog, its events read like messages."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    try:
        raise ValueError("no")
    except ValueError:
        structlog.get_logger("mine").exception("loaded", rows=5, **SECRETS)
    first, *_, last = stream.getvalue().splitlines()
    assert first == "loaded rows=5 password='[redacted]' nested={'token': '[redacted]'}"
    assert last == "ValueError: no"
    assert said(lines(), "loaded")["rows"] == 5


def test_odd_stderr(lines: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """If stderr is closed, as at exit, or not a file, logging does not fail."""
    closed = io.StringIO()
    closed.close()
    written: list[str] = []
    no_file = SimpleNamespace(write=written.append, flush=lambda: None)
    for stream in (closed, None, no_file):
        monkeypatch.setattr(sys, "stderr", stream)
        logs.configure("auto")
        structlog.get_logger("mine").warning("said")
    assert len(written) == 1


# Formats


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("form", "stream", "variables", "is_json", "has_colors"),
    [
        ("auto", _Terminal(), {}, False, True),
        ("auto", _Terminal(), {"NO_COLOR": "1"}, False, False),
        ("auto", io.StringIO(), {}, True, False),
        ("json", _Terminal(), {}, True, False),
        ("console", io.StringIO(), {}, False, False),
    ],
)
def test_formats(
    form: Any,
    stream: io.StringIO,
    variables: dict[str, str],
    *,
    is_json: bool,
    has_colors: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A terminal gets colours and text, anything else JSON, unless the user chooses otherwise."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure(form)
    structlog.get_logger("mine").info("said")
    written = stream.getvalue()
    assert written.startswith("{") is is_json
    assert ("\x1b[" in written) is has_colors
    assert "said" in written


def test_console(spans: RecordedSpans, capsys: pytest.CaptureFixture[str]) -> None:
    """A console line has the names of the run, the trace id, and the user's keys."""
    logs.configure("console")

    def body() -> None:
        try:
            raise ValueError("no")
        except ValueError:
            structlog.get_logger("mine").exception("failed", rows=5, service="shop", **SECRETS)
        get_run_logger().info("said")

    make("task", "sync", body)()
    written = capsys.readouterr().err
    (failed,) = re.findall(r".*failed .*", written)
    (said,) = re.findall(r".*said .*", written)
    assert failed.split("[mine] ")[1].startswith(f"rows=5 service=shop password={MASK} nested=")
    for line in (failed, said):
        keys = {pair.split("=")[0] for pair in line.split() if "=" in pair}
        assert keys - {"rows", "service", "password", "nested"} == {
            "flow_run_name",
            "task_run_name",
            "trace_id",
        }
    assert "ValueError: no\n" in written


@pytest.mark.parametrize("form", ["xml", "", None, "JSON", ["json"]])
def test_unknown_format(form: Any) -> None:
    """An unknown format raises, naming the known ones, before anything is changed."""
    before = logging.getLogger().handlers
    with pytest.raises(ValueError, match=r"'json', 'console' or 'auto', not "):
        logs.configure(form)
    assert logging.getLogger().handlers is before
    assert not structlog.is_configured()


def test_without_structlog(monkeypatch: pytest.MonkeyPatch) -> None:
    """If structlog is not installed, the error says how to install it."""
    monkeypatch.setitem(sys.modules, "structlog", None)
    with pytest.raises(ImportError, match=r"pip install structlog"):
        logs.configure("json")


# Datadog


def test_datadog(read: Read, spans: RecordedSpans) -> None:
    """The ids are the lower 64 bits in decimal, as text, next to OpenTelemetry's ids."""
    logs.configure("json", datadog=True)
    make("task", "sync", WAYS["structlog"])()
    line = said(read())
    assert line["dd.trace_id"] == str(int(line["trace_id"][16:], 16))
    assert line["dd.span_id"] == str(int(line["span_id"], 16))
    assert line["dd.service"] == line["service"]
    assert line["message"] == "said"
    assert "dd.env" not in line
    assert "dd.version" not in line


ATTRIBUTES = "deployment.environment=old,service.version=1,service.name=etl"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, {"dd.service": "prefect"}),
        (
            {"OTEL_RESOURCE_ATTRIBUTES": ATTRIBUTES},
            {"dd.service": "etl", "dd.env": "old", "dd.version": "1"},
        ),
        (
            {"OTEL_RESOURCE_ATTRIBUTES": f"{ATTRIBUTES},deployment.environment.name=new"},
            {"dd.service": "etl", "dd.env": "new", "dd.version": "1"},
        ),
        (
            {
                "OTEL_RESOURCE_ATTRIBUTES": ATTRIBUTES,
                "DD_SERVICE": "shop",
                "DD_ENV": "prod",
                "DD_VERSION": "2",
            },
            {"dd.service": "shop", "dd.env": "prod", "dd.version": "2"},
        ),
    ],
)
def test_datadog_tags(
    variables: dict[str, str],
    expected: dict[str, str],
    read: Read,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Datadog's variables override the resource; outside runs there are no ids."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    logs.configure("json", datadog=True)
    with TracerProvider().get_tracer("mine").start_as_current_span("mine"):
        structlog.get_logger("mine").info("said")
    line = said(read())
    assert {key: value for key, value in line.items() if key.startswith("dd.")} == expected


# Other processes, and the terminal


def run_script(*args: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *args],
        check=False,
        env=os.environ
        | {"PREFECT_LOGGING_LEVEL": "INFO", "OTEL_TRACES_EXPORTER": "none"}
        | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("setup", [[], ["setup"]])
def test_process_pool(setup: list[str], prefect_server: str, tmp_path: Path) -> None:
    """In pool processes lines have the task run, even if Prefect sets up logging again."""
    done = run_script("pooled", "configure", *setup, FLOWSPAN_DIR=str(tmp_path))
    found = [json.loads(line) for line in done.stderr.splitlines()]
    assert run_fields(said(found, "outside")) == set()
    in_flow = said(found, "in the flow")
    for n in (1, 2):
        ways = [
            said([line for line in found if line.get("n") == n], event)
            for event in ("structlog", "bound", f"stdlib {n}")
        ]
        ways += [said(found, f"{event} {n}") for event in ("run logger", "print")]
        for line in ways:
            assert run_fields(line) == RUN_FIELDS
            assert line["trace_id"] == f"{derive_trace_id(in_flow['flow_run_id']):032x}"
            assert line["span_id"] == f"{derive_span_id(line['task_run_id']):016x}"
            assert line["flow_run_name"] == in_flow["flow_run_name"]


def test_terminal(prefect_server: str, tmp_path: Path) -> None:
    """With the filter in Prefect's logging.yml, its terminal lines have the trace id."""
    settings = DEFAULT_LOGGING_SETTINGS_PATH.read_text()
    for before, after in (
        ("    formatter: standard\n", "    formatter: standard\n    filters: [run_context]\n"),
        ("%(levelname)-7s | %(name)s - ", "%(levelname)-7s | %(name)s - %(trace_id)s - "),
        ("Flow run %(flow_run_name)r - ", "Flow run %(flow_run_name)r - %(trace_id)s - "),
    ):
        assert settings.count(before) == 1
        settings = settings.replace(before, after)
    settings += "\nfilters:\n  run_context:\n    (): flowspan.logs.RunContextFilter\n"
    path = tmp_path / "logging.yml"
    path.write_text(settings)
    done = run_script(
        "terminal",
        PREFECT_LOGGING_SETTINGS_PATH=str(path),
        PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT="%(task_name)s %(span_id)s %(message)s",
        FLOWSPAN_DIR=str(tmp_path),
    )
    (run_id,) = re.findall(r"runs/flow-run/(\S+)", done.stderr)
    trace_id = f"{derive_trace_id(run_id):032x}"
    assert re.search(rf"Flow run '\S+' - {trace_id} - in the flow\n", done.stderr)
    assert re.search(r"\nstep [0-9a-f]{16} run logger 1\n", done.stderr)
    assert "WARNING | library - - - outside\n" in done.stderr
    assert "Logging error" not in done.stderr


def test_filter(spans: RecordedSpans) -> None:
    """The filter fills every format string, and keeps a record's own attributes."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    fields = " ".join(f"%({field})s" for field in sorted(RUN_FIELDS))
    handler.setFormatter(logging.Formatter(fields))
    handler.addFilter(logs.RunContextFilter())
    logger = logging.getLogger("library")
    logger.addHandler(handler)

    def body() -> None:
        logger.warning("said")
        logger.warning("said", extra={"service": "own"})

    logger.warning("said")
    make("task", "sync", body)()
    outside, inside, own = (line.split() for line in written.getvalue().splitlines())
    assert outside == ["-"] * len(RUN_FIELDS)
    assert "-" not in inside
    assert [a for a, b in zip(own, inside, strict=True) if a != b] == ["own"]


def test_filter_for_some_loggers() -> None:
    """Like any filter, it can be added to some loggers only."""
    of_mine = logs.RunContextFilter("mine")
    assert of_mine.filter(logging.makeLogRecord({"name": "mine.below"})) is True
    assert of_mine.filter(logging.makeLogRecord({"name": "other"})) is False


def test_filter_and_lines(lines: Read) -> None:
    """JSON lines omit the filter's placeholders."""
    handlers = logging.getLogger().handlers
    (handler,) = (item for item in handlers if isinstance(item, logs.StderrHandler))
    handler.addFilter(logs.RunContextFilter())
    logging.getLogger("library").warning("said")
    assert run_fields(said(lines())) == set()
