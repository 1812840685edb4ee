"""Every logged line is exported once, as an OTLP log record with the ids of its run."""

import asyncio
import contextlib
import contextvars
import json
import linecache
import logging
import logging.config
import os
import subprocess
import sys
import threading
import time
import traceback
import tracemalloc
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog
from opentelemetry import _logs as logs_api
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.instrumentation.logging.handler import LoggingHandler
from opentelemetry.instrumentation.structlog import StructlogProcessor
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs import LoggingHandler as SdkLoggingHandler
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind
from prefect import flow, task
from prefect.client.schemas import FlowRun
from prefect.logging import get_run_logger
from prefect.logging.loggers import flow_run_logger, patch_print
from pydantic import SecretStr, ValidationError

import flowspan
from flowspan import semconv
from flowspan._containment import Containment
from flowspan.export import providers
from flowspan.log_capture import export as log_export
from flowspan.log_capture import hooks as log_hooks
from flowspan.log_capture.export import LogExport
from flowspan.log_capture.hooks import LogHooks
from flowspan.log_capture.measurements import LogMeasure, Measurement
from flowspan.logs import add_run_context
from flowspan.recording.instruments import RunMetrics
from flowspan.recording.recorder import RunRecorder, RunTracer
from flowspan.recording.run import Attributes, Run
from flowspan.settings import Settings
from loggers import SOURCES, say
from processes import FLOWS, PATIENCE, environment, eventually, run_script
from sinks import UNBOUNDED, grpc_sink, http_sink, refusing_endpoint, silent_endpoint
from support import RecordedLogs, RecordedSpans, attributes, context, embedded_spans

SAID = "the line"


class Recorded:
    """The spans and the log records of one test."""

    def __init__(self) -> None:
        tracer_provider = TracerProvider()
        self.spans = RecordedSpans(tracer_provider)
        tracer_provider.add_span_processor(SimpleSpanProcessor(self.spans))
        self.logs = RecordedLogs()

    def instrument(self, **settings: Any) -> None:
        flowspan.instrument(
            tracer_provider=self.spans.provider,
            logger_provider=self.logs.provider,
            settings=Settings(**settings),
        )

    def run_fields(self, flow: str, task: str | None = None) -> dict[str, Any]:
        """Return the run attributes of a log record, from the spans of its flow and task run."""
        of_flow = attributes(self.spans.one(f"RUN {flow}"))
        fields = {
            semconv.FLOW_NAME: flow,
            semconv.FLOW_RUN_ID: of_flow[semconv.RUN_ID],
            semconv.FLOW_RUN_NAME: of_flow[semconv.RUN_NAME],
        }
        if task is not None:
            of_task = attributes(self.spans.one(task))
            fields[semconv.TASK_NAME] = task
            fields[semconv.TASK_RUN_ID] = of_task[semconv.RUN_ID]
            fields[semconv.TASK_RUN_NAME] = of_task[semconv.RUN_NAME]
        return fields


@pytest.fixture(autouse=True)
def levels() -> Iterator[None]:
    """Let INFO pass in the loggers of the tests."""
    loggers = [
        logging.getLogger(n) for n in ("pipelines", "prefect.flow_runs", "prefect.task_runs")
    ]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.INFO)
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def recorded(prefect_server: str) -> Iterator[Recorded]:
    """Instrument Prefect for one test and record its spans and log records."""
    found = Recorded()
    found.instrument()
    try:
        yield found
    finally:
        flowspan.uninstrument()


# The table: every logger in every kind of run

Say = Callable[[], None]
PLACES: dict[str, Callable[[Say], tuple[str, dict[str, str]] | None]] = {}


def place(function: Callable[[Say], Any]) -> Callable[[Say], Any]:
    """Log in one kind of place; return the names of its span and of its runs, if any."""
    PLACES[function.__name__] = function
    return function


@place
def sync_task(say: Say) -> tuple[str, dict[str, str]]:
    step = task(name="step")(lambda: say())
    flow(name="main", log_prints=True)(lambda: step())()
    return "step", {"flow": "main", "task": "step"}


@place
def async_task(say: Say) -> tuple[str, dict[str, str]]:
    @task
    async def step() -> None:
        await asyncio.sleep(0)
        say()

    @flow(log_prints=True)
    async def main() -> None:
        await step()

    asyncio.run(main())
    return "step", {"flow": "main", "task": "step"}


@place
def thread_pool(say: Say) -> tuple[str, dict[str, str]]:
    step = task(name="step")(lambda: say())
    flow(name="main", log_prints=True)(lambda: step.submit().wait())()
    return "step", {"flow": "main", "task": "step"}


@place
def subflow(say: Say) -> tuple[str, dict[str, str]]:
    child = flow(name="child", log_prints=True)(lambda: say())
    flow(name="main")(lambda: child())()
    return "RUN child", {"flow": "child"}


@place
def generator_task(say: Say) -> tuple[str, dict[str, str]]:
    @task
    def step() -> Iterator[int]:
        yield 1
        say()
        yield 2

    flow(name="main", log_prints=True)(lambda: list(step()))()
    return "step", {"flow": "main", "task": "step"}


@place
def second_attempt(say: Say) -> tuple[str, dict[str, str]]:
    attempts: list[int] = []

    @task(retries=1)
    def step() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("once")
        say()

    flow(name="main", log_prints=True)(lambda: step())()
    return "attempt 2", {"flow": "main", "task": "step"}


@place
def after_the_run(say: Say) -> None:
    ended = threading.Event()
    threads: list[threading.Thread] = []

    def later() -> None:
        ended.wait(30)
        with patch_print():  # as if another run were going on
            say()

    @task
    def step() -> None:
        run = contextvars.copy_context().run
        threads.append(threading.Thread(target=run, args=(later,)))
        threads[0].start()

    flow(name="main", log_prints=True)(lambda: step())()
    ended.set()
    threads[0].join(30)


@place
def outside(say: Say) -> None:
    with patch_print():
        say()


@pytest.mark.parametrize("where", PLACES)
def test_every_logger_everywhere(recorded: Recorded, where: str) -> None:
    """A line is one record, with the ids of its attempt or run, but not of one that has ended."""

    def say_all() -> None:
        for source in SOURCES:
            if (where, source) == ("outside", "get_run_logger"):  # it raises there
                flow_run_logger(FlowRun(flow_id=uuid.uuid4())).info(f"{SAID} of {source}")
            else:
                say(source, f"{SAID} of {source}")

    found = PLACES[where](say_all)
    heard = [source for source in SOURCES if (where, source) != ("outside", "print")]
    bodies = [record.body for record in recorded.logs.all if SAID in str(record.body)]
    assert sorted(map(str, bodies)) == sorted(f"{SAID} of {source}" for source in heard)
    expected: dict[str, Any] = {}
    ids = (0, 0)
    if found is not None:
        span, runs = found
        expected, of_span = recorded.run_fields(**runs), context(recorded.spans.one(span))
        ids = (of_span.trace_id, of_span.span_id)
    for source in heard:
        record = recorded.logs.one(f"{SAID} of {source}")
        extra = {"n": 1} if source.startswith("structlog") else {}
        assert (source, dict(record.attributes or {})) == (source, {**extra, **expected})
        assert (source, record.trace_id, record.span_id) == (source, *ids)
        assert (record.severity_number, record.severity_text) == (SeverityNumber.INFO, "INFO")


def written(folder: Path) -> list[dict[str, Any]]:
    """Return all log records in embedded files, with their attributes as a dict."""
    found = []
    for path in sorted(folder.glob("logs*.jsonl")):
        for line in path.read_text().splitlines():
            for resource in json.loads(line)["resourceLogs"]:
                for scope in resource["scopeLogs"]:
                    for record in scope["logRecords"]:
                        values = {
                            item["key"]: next(iter(item["value"].values()))
                            for item in record.get("attributes", ())
                        }
                        found.append({**record, "attributes": values})
    return found


@pytest.fixture(scope="module")
def pooled(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a flow on a process pool; return the folder of its files."""
    folder = tmp_path_factory.mktemp("pooled")
    path = os.pathsep.join((str(FLOWS), str(FLOWS.parent)))
    finished = run_script("logged.py", "pooled", env=environment(folder, PYTHONPATH=path))
    assert finished.returncode == 0, finished.stderr
    return folder


@pytest.mark.parametrize("source", SOURCES)
def test_every_logger_in_a_process_pool(pooled: Path, source: str) -> None:
    """The process that runs the task exports its lines, with the ids of its attempt."""
    text = f"said by {source}."
    (record,) = [r for r in written(pooled) if text in str(r["body"])]
    assert record["body"] == {"stringValue": text}
    spans = embedded_spans(pooled)
    ids = {f"{context(s).span_id:016x}": s for s in spans.named("attempt 1")}
    attempt = ids[record["spanId"]]
    assert record["traceId"] == f"{context(attempt).trace_id:032x}"
    assert attempt.parent is not None
    (run,) = [s for s in spans.named("step") if context(s).span_id == attempt.parent.span_id]
    of_flow = attributes(spans.one("RUN pooled"))
    assert {k: v for k, v in record["attributes"].items() if k != "n"} == {
        semconv.FLOW_NAME: "pooled",
        semconv.FLOW_RUN_ID: of_flow[semconv.RUN_ID],
        semconv.FLOW_RUN_NAME: of_flow[semconv.RUN_NAME],
        semconv.TASK_NAME: "step",
        semconv.TASK_RUN_ID: attributes(run)[semconv.RUN_ID],
        semconv.TASK_RUN_NAME: attributes(run)[semconv.RUN_NAME],
    }
    assert record["attributes"].get("n") == ("1" if source.startswith("structlog") else None)


# The content of a record


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[RecordedLogs]:
    """Export log lines without Prefect; everything must be restored."""
    monkeypatch.setattr(log_hooks, "_contained", Containment("logs"))
    before = dict(vars(logging.Logger)), vars(structlog.BoundLoggerBase)["_process_event"]
    found = RecordedLogs()
    found.hooks.install(None, LogExport(found.provider, logging.INFO, lambda _: None))
    try:
        yield found
    finally:
        found.hooks.remove()
        assert before == (
            dict(vars(logging.Logger)),
            vars(structlog.BoundLoggerBase)["_process_event"],
        )


def fields(record: LogRecord) -> Mapping[str, Any]:
    return dict(record.attributes or {})


@pytest.fixture
def logger() -> logging.Logger:
    """A logger that passes INFO, without pytest's handlers, which format everything."""
    made = logging.Logger("apart", logging.INFO)  # noqa: LOG001 - not to be found by its name
    made.addHandler(logging.NullHandler())
    return made


class UnluckyError(Exception):
    def __str__(self) -> str:
        return f"{self.args[0]}, twice {self.args[1]}"


def native(*processors: Any) -> Any:
    """A structlog logger whose output is discarded."""
    return structlog.wrap_logger(
        structlog.testing.ReturnLogger(),
        processors=[*processors, structlog.processors.KeyValueRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )


def over_logging(logger: logging.Logger, *processors: Any) -> Any:
    return structlog.wrap_logger(
        logger, processors=processors, wrapper_class=structlog.stdlib.BoundLogger
    )


STRUCTLOGS: dict[str, Callable[[logging.Logger], Any]] = {
    "native": lambda _: native(),
    "native, rendered exception": lambda _: native(structlog.processors.format_exc_info),
    "native, structured exception": lambda _: native(structlog.processors.dict_tracebacks),
    "over logging": lambda logger: over_logging(logger, structlog.stdlib.render_to_log_kwargs),
    "over logging, rendered": lambda logger: over_logging(
        logger, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()
    ),
    "over logging, formatter": lambda logger: over_logging(
        logger, structlog.stdlib.ProcessorFormatter.wrap_for_formatter
    ),
}


@pytest.mark.parametrize("kind", ["logging", *STRUCTLOGS])
def test_exceptions(logs: RecordedLogs, logger: logging.Logger, kind: str) -> None:
    """An exception has its qualified class, its own message and its stack trace."""
    log = logger if kind == "logging" else STRUCTLOGS[kind](logger)
    try:
        raise UnluckyError("first", 2)
    except UnluckyError:
        trace = traceback.format_exc()
        log.exception("it failed")
    record = logs.one("it failed")
    assert fields(record) == {
        "exception.type": f"{__name__}.UnluckyError",
        "exception.message": "first, twice 2",
        "exception.stacktrace": trace,
    }
    assert record.severity_text == "ERROR"


def test_the_source_of_an_exception_is_read_later(
    logs: RecordedLogs, logger: logging.Logger
) -> None:
    """The thread that logs does not read the source lines of a stack trace."""
    linecache.clearcache()
    try:
        raise ValueError("no")
    except ValueError:
        logger.exception("it failed")
    assert len(linecache.cache.get(__file__, ())) <= 1  # none, or how to get them
    assert 'raise ValueError("no")' in fields(logs.one("it failed"))["exception.stacktrace"]


def test_exceptions_by_hand(logs: RecordedLogs, logger: logging.Logger) -> None:
    """An exception object or a built-in exception works; without one there is none."""
    logger.warning("object", exc_info=ValueError("no"))
    native().warning("event", exc_info=ValueError("no"))
    for body in ("object", "event"):
        assert fields(logs.one(body))["exception.type"] == "ValueError"
    logger.warning("nothing", exc_info=True)  # noqa: LOG014 - there is none
    native().warning("nothing at all", exc_info=True)
    assert fields(logs.one("nothing")) == fields(logs.one("nothing at all")) == {}


def test_stack_info(logs: RecordedLogs, logger: logging.Logger) -> None:
    """A requested stack is exported."""
    logger.info("here", stack_info=True)
    native(structlog.processors.StackInfoRenderer()).info("there", stack_info=True)
    for body in ("here", "there"):
        assert "test_stack_info" in fields(logs.one(body))["code.stacktrace"]


class Lazy:
    def __init__(self) -> None:
        self.formatted = 0

    def __str__(self) -> str:
        self.formatted += 1
        return "formatted"


def test_lazy_messages(logs: RecordedLogs, logger: logging.Logger) -> None:
    """A message with arguments is formatted once, or never if nobody needs it."""
    lazy = Lazy()
    logger.info("it is %s", lazy)
    assert logs.one("it is formatted")
    assert lazy.formatted == 1
    logger.setLevel(logging.DEBUG)
    logger.debug("it is %s", lazy)
    assert lazy.formatted == 1


def test_a_message_that_is_measured_is_formatted_once(logger: logging.Logger) -> None:
    """Measurement and export share the text."""
    found: list[Measurement] = []
    lazy, recorded, hooks = Lazy(), RecordedLogs(), LogHooks()
    hooks.install(LogMeasure(found.append), LogExport(recorded.provider, 0, lambda _: None))
    try:
        logger.info("METRIC: rows=5 name=%s", lazy)
    finally:
        hooks.remove()
    assert [m.name for m in found] == ["rows"]
    assert recorded.one("METRIC: rows=5 name=formatted")
    assert lazy.formatted == 1


def test_arguments_of_structlog(logs: RecordedLogs, logger: logging.Logger) -> None:
    """Whoever formats an event, the body is its text."""
    native().info("n %d", 1)
    over_logging(logger, structlog.stdlib.render_to_log_args_and_kwargs).info("a %d", 2)
    formatter = structlog.stdlib.PositionalArgumentsFormatter()
    over_logging(logger, formatter, structlog.processors.JSONRenderer()).info("b %d", 3)
    logger.info("malformed %d", "x")
    assert [r.body for r in logs.all] == ["n 1", "a 2", "b 3", "malformed %d"]
    assert not any(map(fields, logs.all))


@pytest.mark.parametrize("kind", ["logging", *STRUCTLOGS])
def test_values(logs: RecordedLogs, logger: logging.Logger, kind: str) -> None:
    """Values keep OTLP's types; others become their repr; secrets are masked."""
    values = {
        "rows": 5,
        "share": 0.25,
        "full": True,
        "table": "orders",
        "columns": ["a", "b"],
        "nested": {"url": "pg://me:hidden@db", "token": "hidden", "n": [1]},
        "thing": Lazy,
        "api_key": "hidden",
        "key": SecretStr("hidden"),
    }
    if kind == "logging":
        logger.info(SAID, extra=values)
    else:
        STRUCTLOGS[kind](logger).bind(bound=1).info(SAID, **values)
        values = {"bound": 1, **values}
    assert fields(logs.one(SAID)) == {
        **values,
        "columns": ("a", "b"),
        "nested": {"url": "pg://[redacted]@db", "token": "[redacted]", "n": (1,)},
        "thing": repr(Lazy),
        "api_key": "[redacted]",
        "key": "[redacted]",
    }


def test_keys(logs: RecordedLogs, logger: logging.Logger) -> None:
    """Only keys that OTLP lacks are lost; structlog's own keys are left out."""
    extra: dict[Any, int] = {"": 1, "a\udcff": 2, 3: 4, "_record": 5, "größe": 6}
    logger.info(SAID, extra=extra)
    assert fields(logs.one(SAID)) == {"a?": 2, "3": 4, "größe": 6}


def test_values_are_those_of_the_call(logs: RecordedLogs, logger: logging.Logger) -> None:
    """Values that change after the call are exported unchanged."""
    rows = [1]
    logger.info("record", extra={"seen": rows})
    native().info("event", seen=rows)
    rows.append(2)
    assert [fields(record) for record in logs.all] == [{"seen": (1,)}] * 2


def test_secrets_in_texts(logs: RecordedLogs, logger: logging.Logger) -> None:
    """Credentials in the body, the exception's message and its trace are masked."""
    logger.info("to %s", "pg://me:hidden@db")
    try:
        raise ValueError("no answer from pg://me:hidden@db")
    except ValueError:
        logger.exception("failed")
    native().info("pg://me:hidden@db")
    assert "hidden" not in str([(r.body, fields(r)) for r in logs.all if "hidden@" in str(r.body)])
    assert logs.one("to pg://[redacted]@db")
    assert fields(logs.one("failed"))["exception.message"] == "no answer from pg://[redacted]@db"


def test_bodies(logs: RecordedLogs, logger: logging.Logger) -> None:
    """A body is the logged message, with its types."""
    logger.info({"rows": 5, "password": "x"})
    logger.info(ValueError("an object"))
    native().info(None, rows=5)
    native(structlog.processors.EventRenamer("message")).info("renamed", n=1)
    assert [record.body for record in logs.all] == [
        {"rows": 5, "password": "[redacted]"},
        "an object",
        None,
        "renamed",
    ]
    assert fields(logs.one("renamed")) == {"n": 1}


def test_severities(logs: RecordedLogs, logger: logging.Logger) -> None:
    """Levels are OpenTelemetry's, and the user's own names stay."""
    logging.addLevelName(25, "NOTICE")
    logger.log(25, "own")
    for log in (logger, native(), over_logging(logger, structlog.processors.JSONRenderer())):
        for method in ("debug", "info", "warning", "error", "critical"):
            getattr(log, method)(method)
    expected = [("INFO", 9), ("WARN", 13), ("ERROR", 17), ("FATAL", 21)]
    found = [(r.severity_text, r.severity_number and r.severity_number.value) for r in logs.all]
    assert found == [("NOTICE", 12), *expected * 3]


def test_contextvars_of_structlog(logs: RecordedLogs) -> None:
    """Values bound to the context are exported if the chain merges them."""
    with structlog.contextvars.bound_contextvars(request=8):
        native(structlog.contextvars.merge_contextvars).info(SAID, n=1)
    assert fields(logs.one(SAID)) == {"request": 8, "n": 1}


def test_chains_of_processors(logs: RecordedLogs) -> None:
    """Chains that end in several renderers or in none are exported, and unchanged."""
    returns = structlog.testing.ReturnLogger()
    renderer = structlog.processors.JSONRenderer()
    chains: dict[str, list[Any]] = {
        "renderer alone": [renderer],
        "rendered twice": [renderer, lambda _, __, text: text.encode()],
        "tuple": [structlog.processors.add_log_level, renderer],
    }
    for name, processors in chains.items():
        log = structlog.wrap_logger(returns, processors=processors)
        json.loads(log.info(name, n=1))
        assert fields(logs.one(name)) == {"n": 1}


def test_loggers_of_the_users(logs: RecordedLogs) -> None:
    """A logger may have its own __init__; it does not run for each line."""
    made: list[str] = []

    class Own(structlog.BoundLogger):
        def __init__(self, logger: Any, processors: Any, context: Any, *, team: str) -> None:
            super().__init__(logger, processors, context)
            made.append(team)

    renderer = structlog.processors.JSONRenderer()
    log = Own(structlog.testing.ReturnLogger(), [renderer], {"bound": 1}, team="data")
    assert json.loads(log.info(SAID, n=1)) == {"bound": 1, "n": 1, "event": SAID}
    assert fields(logs.one(SAID)) == {"bound": 1, "n": 1}
    assert made == ["data"]


def test_long_lines_are_not_held(tmp_path: Path, logger: logging.Logger) -> None:
    """Only the exported part of a long text is kept."""
    provider = providers.build_logger_provider(Settings(dir=tmp_path))
    hooks = LogHooks()
    hooks.install(None, LogExport(provider, 0, lambda _: None))
    tracemalloc.start()
    try:
        for n in range(20):
            logger.info(f"{n}" * 10**6, extra={"text": f"{n + 1}" * 10**6})
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        hooks.remove()
        providers.shutdown([provider], 5)
    assert held < 5_000_000


def test_records_made_by_hand(logs: RecordedLogs, logger: logging.Logger) -> None:
    """A record with only a message and a level is exported as it is."""
    logger.handle(logging.makeLogRecord({"msg": SAID, "levelno": logging.WARNING}))
    assert logs.one(SAID).severity_number == SeverityNumber.WARN
    assert fields(logs.one(SAID)) == {}


def test_events_that_are_dropped(logs: RecordedLogs, logger: logging.Logger) -> None:
    """Lines dropped by a processor, a filter or a level are not exported."""

    def drop(_: Any, __: str, event: Any) -> Any:
        raise structlog.DropEvent

    native(drop).info(SAID)
    native().debug(SAID)
    over_logging(logger, drop, structlog.processors.JSONRenderer()).info(SAID)
    logger.addFilter(lambda _: False)
    logger.info(SAID)
    over_logging(logger, structlog.processors.JSONRenderer()).info(SAID)
    assert logs.all == []


def test_capture_logs_of_structlog(logs: RecordedLogs) -> None:
    """The tool of structlog for tests works as usual."""
    log = structlog.get_logger()
    with structlog.testing.capture_logs() as captured:
        log.info(SAID, n=1)
    assert captured == [{"event": SAID, "n": 1, "log_level": "info"}]
    assert logs.all == []  # as it drops all events


def test_a_renderer_that_raises_raises_as_ever(logs: RecordedLogs) -> None:
    """The user gets the error of the user's mistake."""

    def fail(_: Any, __: str, event: Any) -> Any:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        structlog.wrap_logger(structlog.testing.ReturnLogger(), processors=[fail]).info("x")


def test_handlers_get_what_they_would_have_got(logs: RecordedLogs, logger: logging.Logger) -> None:
    """A record is not changed on its way to the handlers."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[assignment, method-assign]
    logger.addHandler(handler)
    logger.info("n %d", 1, extra={"rows": [1]})
    (record,) = records
    assert (record.msg, record.args) == ("n %d", (1,))
    assert set(vars(record)) - set(vars(logging.makeLogRecord({}))) == {"rows"}


def test_handlers_are_as_far_from_the_user_as_ever(
    logs: RecordedLogs, logger: logging.Logger
) -> None:
    """Prefect's handler counts the frames to the calling code, to warn there."""
    depths: list[int] = []
    handler = logging.Handler()
    handler.emit = lambda record: depths.append(len(traceback.extract_stack()))  # type: ignore[method-assign] # noqa: ARG005
    logger.addHandler(handler)
    logger.info(SAID)
    logs.hooks.remove()
    logger.info(SAID)
    assert depths[0] == depths[1]


def test_an_export_that_raises(
    logger: logging.Logger,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    logs: RecordedLogs,
) -> None:
    """If an export fails, neither the line nor the flow is lost, and it is reported once."""

    def fail(*_: Any) -> Any:
        raise LookupError("ours")

    monkeypatch.setattr(LogExport, "_run_of", fail)
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[assignment, method-assign]
    logger.addHandler(handler)
    for _ in range(3):
        logger.info(SAID)
        assert native().info(SAID) == f"event='{SAID}'"
        over_logging(logger, structlog.processors.JSONRenderer()).info("over")
    assert len(records) == 6
    assert len([r for r in caplog.records if "ours" in r.getMessage()]) == 1


def test_a_record_that_cannot_be_made_takes_no_other_with_it(
    logs: RecordedLogs, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each record is built separately, outside the thread that logs."""
    real = log_export._Draft.record

    def fail(draft: Any, context: Any) -> LogRecord:
        if draft._level == logging.ERROR:
            raise LookupError("ours")
        return real(draft, context)

    monkeypatch.setattr(log_export._Draft, "record", fail)
    logger.error("bad")
    logger.info("good")
    assert [record.body for record in logs.all] == ["good"]


def test_what_the_exporters_log_is_not_exported(
    logs: RecordedLogs, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each export would cause another."""
    export = logs.exporter.export

    def talkative(batch: Any) -> Any:
        logging.getLogger("urllib3").error("Starting new connection")
        native().error("connecting")
        return export(batch)

    monkeypatch.setattr(logs.exporter, "export", talkative)
    logger.info(SAID)
    assert [record.body for record in logs.all + logs.all] == [SAID] * 2


def test_records_of_other_processes(logs: RecordedLogs, logger: logging.Logger) -> None:
    """A record from another process, which this one only handles, is not exported."""
    record = {"msg": SAID, "levelno": logging.ERROR, "process": os.getpid() + 1}
    logger.handle(logging.makeLogRecord(record))
    assert logs.all == []


def test_threads(logs: RecordedLogs, logger: logging.Logger) -> None:
    """Threads that log at once through both libraries lose and mix up nothing."""

    def log(n: int) -> None:
        wrapped = over_logging(logger, structlog.stdlib.render_to_log_kwargs)
        for i in range(50):
            logger.info("plain", extra={"n": n, "i": i})
            wrapped.info("structured", n=n, i=i)

    threads = [threading.Thread(target=log, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    found = [(r.body, fields(r)["n"], fields(r)["i"]) for r in logs.all]
    assert len(found) == len(set(found)) == 800


# The run


def test_a_logger_of_the_run_in_a_thread_without_its_context(recorded: Recorded) -> None:
    """Prefect's logger knows its run without its context, until the run ends."""
    kept: list[Any] = []

    @task(retries=1)
    def step() -> None:
        log = get_run_logger()
        kept.append(log)
        thread = threading.Thread(target=log.info, args=(SAID,))
        thread.start()
        thread.join(30)

    @flow
    def main() -> None:
        step()

    main()
    kept[0].info("later")
    record = recorded.logs.one(SAID)
    assert fields(record) == recorded.run_fields("main", "step")
    assert record.span_id == context(recorded.spans.one("attempt 1")).span_id
    assert fields(recorded.logs.one("later")) == {}
    assert recorded.logs.one("later").trace_id == 0


def test_a_span_of_the_users(recorded: Recorded) -> None:
    """Inside a user's span the line belongs to that span, in the run's trace."""
    tracer = recorded.spans.provider.get_tracer("mine")

    @flow
    def main() -> None:
        with tracer.start_as_current_span("mine"):
            logging.getLogger("pipelines").info(SAID)

    main()
    record, ids = recorded.logs.one(SAID), context(recorded.spans.one("mine"))
    assert (record.trace_id, record.span_id) == (ids.trace_id, ids.span_id)
    assert fields(record) == recorded.run_fields("main")


def test_lines_of_prefect_itself(recorded: Recorded) -> None:
    """Prefect's lines about a run belong to the run, without fields that repeat it."""

    @task
    def step() -> None:
        pass

    flow(name="main")(lambda: step())()
    of_flow = [r for r in recorded.logs.all if str(r.body).startswith("Beginning flow run")]
    assert [fields(r) for r in of_flow] == [recorded.run_fields("main")]
    finished = recorded.logs.saying("Finished in state Completed()")
    assert [fields(r) for r in finished] == [
        recorded.run_fields("main", "step"),
        recorded.run_fields("main"),
    ]


def test_last_line_about_adopted_runs(prefect_server: str) -> None:
    """The line that Prefect logs after the end of an adopted run belongs to the run, too."""
    recorded = Recorded()

    @task
    def step() -> None:
        recorded.instrument()

    try:
        flow(name="main")(lambda: step())()
        finished = recorded.logs.saying("Finished in state Completed()")
    finally:
        flowspan.uninstrument()
    assert [fields(r) for r in finished] == [
        recorded.run_fields("main", "step"),
        recorded.run_fields("main"),
    ]
    spans = [recorded.spans.one("step"), recorded.spans.one("RUN main")]
    assert [r.span_id for r in finished] == [context(span).span_id for span in spans]
    assert [r.trace_id for r in finished] == [context(span).trace_id for span in spans]


def test_what_add_run_context_adds_is_not_said_twice(recorded: Recorded) -> None:
    """Fields of the processor are not repeated next to the record's own attributes."""

    @flow
    def main() -> None:
        native(add_run_context).info(SAID, n=1)

    main()
    assert fields(recorded.logs.one(SAID)) == {"n": 1, **recorded.run_fields("main")}


def test_the_applications_provider(prefect_server: str) -> None:
    """An application's provider gets each record at once, in the context of the line."""
    found: Any = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call] # the SDK's
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(found))
    seen: list[int] = []

    @flow
    def main() -> None:
        logging.getLogger("pipelines").info(SAID, extra={"thing": object})
        seen.append(len(found.get_finished_logs()))

    flowspan.instrument(tracer_provider=TracerProvider(), logger_provider=provider)
    try:
        main()
    finally:
        flowspan.uninstrument()
    (record,) = [r.log_record for r in found.get_finished_logs() if r.log_record.body == SAID]
    assert seen[0] >= 1
    assert fields(record)[semconv.FLOW_NAME] == "main"
    assert record.trace_id


def test_the_deployment_of_the_calling_flow() -> None:
    """A task's lines have the deployment of its flow run, if the process knows it."""
    tracer = RunTracer(TracerProvider(), RunMetrics())

    class Named:
        def __init__(self, **identity: str) -> None:
            self._identity = identity

        def identify(self) -> Attributes:
            return {**self._identity}

        def attributes(self) -> Attributes:
            return {}

    def start(caller: RunRecorder | None, task_name: str | None, **identity: str) -> RunRecorder:
        run = Run(
            id=str(uuid.uuid4()),
            flow_name="main",
            task_name=task_name,
            kind=SpanKind.INTERNAL,
            start=1,
            trace_id=1,
            parent=None,
            run_count=0,
            allows_retries=False,
            upstream=(),
        )
        return tracer.start(run, Named(**identity), caller)

    deployment = {semconv.DEPLOYMENT_NAME: "nightly"}
    main = start(None, None, **{semconv.FLOW_NAME: "main", **deployment})
    step = start(main, "step", **{semconv.TASK_NAME: "step"})
    child = start(main, None, **{semconv.FLOW_NAME: "child"})
    assert step.log_attributes == {
        semconv.FLOW_NAME: "main",
        semconv.TASK_NAME: "step",
        **deployment,
    }
    assert child.log_attributes == {semconv.FLOW_NAME: "child"}


def test_what_flowspan_says_of_a_run(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Violations are lines of their run, in whatever thread, even after its end."""
    has_ended = threading.Event()
    ended_before: list[bool] = []

    def slow(*_: Any) -> tuple[int, int]:
        ended_before.append(has_ended.wait(PATIENCE))
        return 0, 9

    monkeypatch.setattr("flowspan._prefect.objective_watch._read_history", slow)
    recorded = Recorded()
    objectives = {"max_duration": 0.1, "max_task_share": 0.1, "min_success_rate": 0.9}
    recorded.instrument(
        slo={"late": {"max_task_share": 0.01}, "bad": objectives},
        flush_timeout=2 * PATIENCE,  # for which the end of a run may wait for the history
    )
    step = task(name="step")(lambda: time.sleep(0.3))
    flow(name="late")(lambda: step())()

    @flow
    async def bad() -> None:
        await asyncio.sleep(0.3)
        raise ValueError("no")

    async def main() -> None:
        with contextlib.suppress(ValueError):
            await bad()
        assert not violations("min_success_rate")
        has_ended.set()

    def violations(objective: str) -> list[LogRecord]:
        said = f"Objective violated: {objective}"
        return [r for r in recorded.logs.all if str(r.body).startswith(said)]

    try:
        asyncio.run(main())
        eventually(lambda: violations("min_success_rate"), "the violation")
    finally:
        flowspan.uninstrument()
    assert ended_before == [True]  # in an event loop nobody waits for it
    found = [
        ("max_task_share", "late"),
        ("max_duration", "bad"),
        ("min_success_rate", "bad"),
    ]
    for objective, name in found:
        (record,) = violations(objective)
        ids = context(recorded.spans.one(f"RUN {name}"))
        assert fields(record) == recorded.run_fields(name)
        assert (record.trace_id, record.span_id) == (ids.trace_id, ids.span_id)


# Switches


def test_levels(prefect_server: str) -> None:
    """FLOWSPAN_LOG_LEVEL is the lowest level that is exported."""
    recorded = Recorded()
    recorded.instrument(log_level="error")
    try:
        for source in SOURCES[:2] + SOURCES[3:4]:
            say(source, SAID)
        logging.getLogger("pipelines").error("worse")
    finally:
        flowspan.uninstrument()
    assert [record.body for record in recorded.logs.all] == ["worse"]


def test_printed_events_below_the_level(recorded: Recorded) -> None:
    """Lines that structlog prints have structlog's level, even if Prefect logs them as INFO."""

    @flow(log_prints=True)
    def main() -> None:
        structlog.get_logger().debug(SAID)
        structlog.get_logger().info("more")

    main()
    assert not [record for record in recorded.logs.all if SAID in str(record.body)]
    assert recorded.logs.one("more")


@pytest.mark.parametrize("level", ["loud", "", "inf"])
def test_levels_that_are_none(level: str) -> None:
    """An unknown level raises at instrument()."""
    with pytest.raises(ValidationError, match="level of logging"):
        Settings(log_level=level)  # type: ignore[arg-type]
    assert Settings(log_level="Warning").log_level == logging.WARNING  # type: ignore[arg-type]
    assert Settings().log_level == logging.INFO


def test_logs_can_be_switched_off(prefect_server: str) -> None:
    """FLOWSPAN_LOGS=false exports no lines, but lines still measure."""
    recorded = Recorded()
    recorded.instrument(logs=False)
    try:
        say("logging", SAID)
        assert "filter" in vars(logging.Logger)  # for measurements
    finally:
        flowspan.uninstrument()
    assert recorded.logs.all == []
    assert "filter" not in vars(logging.Logger)


def test_logging_may_be_configured_later(recorded: Recorded) -> None:
    """Reconfiguring `logging` and structlog changes nothing."""
    before = logging.getLogger().handlers[:]
    level = logging.getLogger().level
    try:
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
        structlog.configure(processors=[structlog.processors.JSONRenderer()])
        for source in ("logging", "structlog"):
            say(source, f"{SAID} of {source}")
            recorded.logs.one(f"{SAID} of {source}")
    finally:
        logging.getLogger().handlers[:] = before
        logging.getLogger().setLevel(level)


def test_uninstrument_restores_everything(prefect_server: str) -> None:
    """Nothing is left behind, even if repeated."""

    def state() -> tuple[Any, ...]:
        return (
            dict(vars(logging.Logger)),
            vars(structlog.BoundLoggerBase)["_process_event"],
            logging.getLogRecordFactory(),
            structlog.get_config(),
        )

    before = state()
    for _ in range(2):
        recorded = Recorded()
        recorded.instrument()
        assert state() != before
        flowspan.uninstrument()
        assert state() == before
        say("logging", SAID)
        assert recorded.logs.all == []


def test_what_is_no_logger_provider_is_refused() -> None:
    """A wrong argument raises at instrument() and leaves nothing behind."""
    with pytest.raises(TypeError, match="logger_provider must be an OpenTelemetry LoggerProvider"):
        flowspan.instrument(logger_provider="loki")  # type: ignore[arg-type]


# Other exporters


@pytest.mark.parametrize("kind", [LoggingHandler, SdkLoggingHandler])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_handler_of_opentelemetry(recorded: Recorded, kind: Any) -> None:
    """A handler exports the lines it gets, with the run's attributes; flowspan does not."""
    theirs = RecordedLogs()
    handler = kind(logger_provider=theirs.provider, level=logging.INFO)

    @flow
    def main() -> None:
        for source in ("structlog over logging", "get_run_logger", "logging"):
            say(source, f"{SAID} of {source}")
        say("structlog", "native")

    logging.getLogger().addHandler(handler)
    try:
        main()
    finally:
        logging.getLogger().removeHandler(handler)
    said = [record for record in theirs.all if SAID in str(record.body)]
    assert len(said) == 3
    run = recorded.run_fields("main").items()
    assert all(run <= fields(record).items() for record in said)
    assert [r.body for r in recorded.logs.all if "prefect" not in str(r.body)] == ["native"]


@pytest.mark.parametrize("log_prints", [True, False])
def test_a_handler_of_opentelemetry_and_captured_prints(
    recorded: Recorded, *, log_prints: bool
) -> None:
    """If Prefect records a print of structlog, the handler exports it."""
    theirs = RecordedLogs()
    handler = LoggingHandler(logger_provider=theirs.provider)

    @flow(log_prints=log_prints)
    def main() -> None:
        with patch_print():  # as another run does that goes on meanwhile
            structlog.get_logger().info(SAID, n=1)

    logging.getLogger().addHandler(handler)
    try:
        main()
    finally:
        logging.getLogger().removeHandler(handler)
    said = [record for record in theirs.all if SAID in str(record.body)]
    ours = [record for record in recorded.logs.all if SAID in str(record.body)]
    assert (len(said), len(ours)) == ((1, 0) if log_prints else (0, 1))
    assert recorded.run_fields("main").items() <= fields((said + ours)[0]).items()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_handler_that_does_not_handle_the_line(
    logs: RecordedLogs, logger: logging.Logger
) -> None:
    """A handler with a higher level, elsewhere, or without a destination exports nothing."""
    theirs = RecordedLogs()
    handlers = [
        LoggingHandler(level=logging.ERROR, logger_provider=theirs.provider),
        LoggingHandler(logger_provider=logs_api.NoOpLoggerProvider()),
    ]
    other = LoggingHandler(logger_provider=theirs.provider)
    logging.getLogger().addHandler(other)
    try:
        for handler in handlers:
            logger.addHandler(handler)
        logger.info(SAID)
    finally:
        logging.getLogger().removeHandler(other)
    assert theirs.all == []
    assert logs.one(SAID)


@pytest.mark.parametrize("kind", ["native", "over logging"])
def test_the_processor_of_opentelemetry(recorded: Recorded, kind: str) -> None:
    """In the chain, it exports the event, with the run's attributes; flowspan does not."""
    theirs = RecordedLogs()
    processor: Any = StructlogProcessor(logger_provider=theirs.provider)  # type: ignore[no-untyped-call]
    lines: list[str] = []

    @flow
    def main() -> None:
        if kind == "native":
            lines.append(native(processor).info(SAID, n=1))
        else:
            apart = logging.Logger("apart", logging.INFO)  # noqa: LOG001 - to see what it gets
            handler = logging.Handler()
            handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
            apart.addHandler(handler)
            over_logging(apart, processor, structlog.processors.KeyValueRenderer()).info(SAID, n=1)

    main()
    assert lines == [f"n=1 event='{SAID}'"]
    assert fields(theirs.one(SAID)) == {"n": 1, **recorded.run_fields("main")}
    assert not [r for r in recorded.logs.all if SAID in str(r.body)]


def test_both_instrumentations_of_opentelemetry(prefect_server: str, tmp_path: Path) -> None:
    """With both in one process, each line is one record in flowspan's files."""
    finished = run_script("instrumented.py", env=environment(tmp_path))
    assert finished.returncode == 0, finished.stderr
    found = [r for r in written(tmp_path) if "line of" in str(r["body"])]
    bodies = sorted(r["body"]["stringValue"] for r in found)
    assert bodies == ["line of logging", "line of structlog"]
    assert {r["attributes"][semconv.FLOW_NAME] for r in found} == {"main"}
    assert all(r["traceId"] for r in found)


# On their way


def brief(tmp_path: Path, **variables: str) -> Any:
    env = environment(tmp_path, OTEL_METRICS_EXPORTER="none", **variables)
    return run_script("talkative.py", "20", env=env)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_records_arrive_over_otlp(prefect_server: str, tmp_path: Path, protocol: str) -> None:
    """A short process loses no line, and each has the ids of its span in the sink."""
    sinks: dict[str, Any] = {"grpc": grpc_sink, "http/protobuf": http_sink}
    with sinks[protocol]() as sink:
        finished = brief(
            tmp_path,
            OTEL_EXPORTER_OTLP_ENDPOINT=sink.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
        )
        assert finished.returncode == 0, finished.stderr
        said = [record for record in sink.logs if record.body.string_value.startswith("line ")]
        assert sorted(int(record.body.string_value.split()[1]) for record in said) == [*range(20)]
        (span,) = [span for span in sink.spans if span.name == "attempt 1"]
        assert {record.span_id for record in said} == {span.span_id}
        assert {record.trace_id for record in said} == {span.trace_id}
        numbers = [{a.key: a.value for a in record.attributes}["n"] for record in said]
        assert [value.int_value for value in numbers] == [*range(20)]
    assert not list(tmp_path.glob("*.jsonl"))


def test_a_brief_process_loses_nothing(prefect_server: str, tmp_path: Path) -> None:
    """Also with the embedded files, and for lines after the flow."""
    finished = brief(tmp_path)
    assert finished.returncode == 0, finished.stderr
    bodies = [record["body"].get("stringValue", "") for record in written(tmp_path)]
    assert len([body for body in bodies if body.startswith("line ")]) == 20
    assert bodies[-1] == "the end"


@pytest.mark.parametrize("dead", [refusing_endpoint, silent_endpoint])
def test_a_dead_endpoint_costs_a_bounded_time(
    prefect_server: str, tmp_path: Path, dead: Any
) -> None:
    """The process ends in time, and logs once that log records are lost."""
    with dead() as endpoint:
        finished = brief(  # for no longer than its patience
            tmp_path,
            OTEL_TRACES_EXPORTER="none",
            OTEL_EXPORTER_OTLP_LOGS_ENDPOINT=endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            OTEL_EXPORTER_OTLP_TIMEOUT=str(UNBOUNDED),
            FLOWSPAN_FLUSH_TIMEOUT="1",
        )
    assert finished.returncode == 0, finished.stderr
    (line,) = [line for line in finished.stderr.splitlines() if "being dropped" in line]
    assert "logs do not reach" in line


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_exports_its_own_lines(prefect_server: str, tmp_path: Path) -> None:
    """Parent and child each write their own lines, once."""
    finished = run_script("talkative.py", "3", "fork", env=environment(tmp_path))
    assert finished.returncode == 0, finished.stderr
    bodies = [record["body"].get("stringValue", "") for record in written(tmp_path)]
    assert bodies.count("in the child") == bodies.count("before the fork") == 1


def test_a_burst_is_not_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logger: logging.Logger
) -> None:
    """A loop logs thousands of lines before any is written."""
    monkeypatch.setenv("OTEL_BLRP_SCHEDULE_DELAY", "60000")
    provider = providers.build_logger_provider(Settings(dir=tmp_path))
    hooks = LogHooks()
    hooks.install(None, LogExport(provider, 0, lambda _: None))
    try:
        for n in range(5000):
            logger.info("%d", n)
    finally:
        hooks.remove()
    assert providers.flush([provider], 30)
    providers.shutdown([provider], 5)
    assert len(written(tmp_path)) == 5000


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("OTEL_LOGS_EXPORTER", "pigeon", r"OTEL_LOGS_EXPORTER.*pigeon.*embedded"),
        ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "0", "OTEL_BLRP_"),
    ],
)
def test_bad_variables_are_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    """If the SDK rejects a value, the error names the variable."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(providers.ConfigurationError, match=message):
        providers.build_logger_provider(Settings())


def test_structlog_and_the_contrib_packages_are_not_imported() -> None:
    """Packages that are not used are not imported."""
    program = (
        "import sys, flowspan\n"
        "flowspan.instrument()\n"
        "names = ['structlog', 'opentelemetry.instrumentation.structlog',\n"
        "         'opentelemetry.instrumentation.logging']\n"
        "print([name for name in names if name in sys.modules])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.strip() == "[]"
