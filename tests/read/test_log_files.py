"""Reading log records from files."""

import json
import logging
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from log_files import (
    FLOW_RUN,
    LATER,
    OTHER_RUN,
    SUBFLOW_RUN,
    TASK_RUN,
    Process,
    of_run,
    raw_line,
    raw_log,
    trace_of_root,
)
from opentelemetry.exporter.otlp.json.file._log_exporter import FileLogExporter
from opentelemetry.instrumentation.logging.handler import LoggingHandler
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from span_files import EPOCH

from flowspan import semconv
from flowspan.read import log_files
from flowspan.read.selection import UnknownRunError

TRACE = "ab" * 16


def load(source: Path, wanted: str = TRACE) -> log_files.Logs:
    """Return the records of a run or trace."""
    return log_files.load(source, wanted)


def messages(found: log_files.Logs) -> list[str]:
    """Return the logged messages."""
    return [log.message for log in found.logs]


def pipeline(folder: Path) -> Path:
    """Log a flow with a task and a subflow, lines outside runs, and another trace."""
    file = folder / "logs.jsonl"
    with closing(Process(file)) as process:
        process.log("begin", 0)
        process.log("extract", 1, attributes=of_run(task_run="extract-0"))
        process.log("report", 2, attributes=of_run("report", SUBFLOW_RUN))
        process.log(
            "render",
            3,
            attributes=of_run("report", SUBFLOW_RUN, "render-0", str(uuid.uuid4())),
        )
        process.log("request", 4, attributes={})
    with closing(Process(folder / "logs-1.jsonl", trace_of_root(OTHER_RUN))) as process:
        process.log("other", -50, attributes=of_run("other", OTHER_RUN))
    return file


def test_a_record_of_the_sdk_is_read_as_it_was_logged(tmp_path: Path) -> None:
    """Level, body, typed attributes, logger, ids and resource are preserved in the file."""
    fields: dict[str, Any] = {
        "i": -7,
        "big": 2**62,
        "f": 0.5,
        "t": True,
        "s": "é\n",
        "l": [1, "2"],
        "d": {"a": {"b": None}},
    }
    with closing(Process(tmp_path / "logs.jsonl", TRACE)) as process:
        process.log("read", 1, level="WARN", attributes=fields, logger="etl.io", span_id="c" * 16)
    (log,) = load(tmp_path).logs
    assert log == log_files.Log(
        time=EPOCH + 10**9,
        severity=13,
        level="WARNING",
        body="read",
        attributes=fields,
        logger="etl.io",
        trace_id=TRACE,
        span_id="c" * 16,
        resource={"service.name": "nightly"},
    )


def test_a_record_of_the_standard_library_is_read(tmp_path: Path) -> None:
    """Its level has Python's name, and its exception a type, a message and a stack."""
    provider = LoggerProvider(shutdown_on_exit=False)
    exporter = FileLogExporter(tmp_path / "logs.jsonl")
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    logger = logging.Logger("etl")  # noqa: LOG001 - one that no other test sees
    logger.addHandler(LoggingHandler(logger_provider=provider))
    error = ValueError("no such table")
    extra = {semconv.FLOW_RUN_ID: FLOW_RUN, "rows": 3}
    logger.critical("load %s failed", "a", exc_info=error, extra=extra)
    try:
        raise error
    except ValueError:
        logger.exception("again", extra=extra)
    plain, raised = load(tmp_path, FLOW_RUN).logs
    assert (plain.level, plain.message, plain.fields) == (
        "CRITICAL",
        "load a failed",
        {"rows": "3"},
    )
    assert plain.exception == "ValueError: no such table"
    assert raised.stack.startswith("Traceback (most recent call last):\n  File ")
    assert raised.stack.endswith("\nValueError: no such table\n")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("text", "text"),
        (None, ""),
        (True, "true"),
        (7, "7"),
        (float("nan"), '"NaN"'),
        (b"\x00\xff", "AP8="),
        ([1, ["ä"]], '[1, ["ä"]]'),
        ({"event": "done", "n": {"x": None}}, '{"event": "done", "n": {"x": null}}'),
    ],
)
def test_a_body_may_be_any_value(tmp_path: Path, body: Any, message: str) -> None:
    """A body that is not text is shown as JSON."""
    with closing(Process(tmp_path / "logs.jsonl")) as process:
        process.log(body)
    assert messages(load(tmp_path, FLOW_RUN)) == [message]


def test_fields_are_what_the_application_said_beside_the_message(tmp_path: Path) -> None:
    """The run, the ids, the exception and the place in the code are left out."""
    process = Process(tmp_path / "logs.jsonl")
    own: dict[str, Any] = {
        "rows": 3,
        "path": "a b",
        "empty": "",
        "none": None,
        "equation": "a=b",
        "tags": ["x"],
    }
    repeated: dict[str, Any] = {
        "trace_id": process.trace_id,
        "span_id": f"{1:016x}",
        "trace_flags": "01",
        "service": "nightly",
        "flow_run_id": FLOW_RUN,
        "flow_name": "etl",
        "code.line.number": 7,
    }
    process.log("m", exception=ValueError("x"), **own, **repeated)
    process.log("m", flow_name="another", trace_id="mine", service="billing")
    process.close()
    first, second = load(tmp_path, FLOW_RUN).logs
    assert first.fields == {
        "rows": "3",
        "path": '"a b"',
        "empty": '""',
        "none": "null",
        "equation": '"a=b"',
        "tags": '["x"]',
    }
    assert second.fields == {"flow_name": "another", "trace_id": "mine", "service": "billing"}


def test_lines_are_in_order_of_time_over_all_files(tmp_path: Path) -> None:
    """Whatever the order in the files; a line without a time has that of its observation."""
    for name, seconds in (("logs-2.jsonl", (5, 3)), ("logs.jsonl", (4, 1, None))):
        with closing(Process(tmp_path / name)) as process:
            for second in seconds:
                process.log(f"at {second}", second)
    (tmp_path / "traces.jsonl").write_text("nonsense")
    found = load(tmp_path, FLOW_RUN)
    assert messages(found) == ["at None", "at 1", "at 3", "at 4", "at 5"]
    assert found.logs[0].time == EPOCH + round(LATER * 1e9)
    assert found.problems == ()


def test_a_root_run_has_all_lines_of_its_trace(tmp_path: Path) -> None:
    """The same as for the trace's id, in any spelling; also lines without a known run."""
    pipeline(tmp_path)
    whole = ["begin", "extract", "report", "render", "request"]
    trace_id = trace_of_root(FLOW_RUN)
    for wanted in (
        FLOW_RUN,
        FLOW_RUN.upper(),
        FLOW_RUN.replace("-", ""),
        trace_id,
        trace_id.upper(),
    ):
        assert messages(load(tmp_path, wanted)) == whole


def test_any_other_run_has_its_own_lines_and_those_of_its_tasks(tmp_path: Path) -> None:
    """Subflows are found by their flow run's id, tasks by theirs."""
    pipeline(tmp_path)
    assert messages(load(tmp_path, SUBFLOW_RUN)) == ["report", "render"]
    assert messages(load(tmp_path, TASK_RUN)) == ["extract"]


def test_latest_is_the_trace_whose_run_logged_last(tmp_path: Path) -> None:
    """A later line without a run does not change it; without runs, it is the last trace."""
    file = tmp_path / "logs.jsonl"
    with closing(Process(file, TRACE)) as process:
        process.log("no run", 100, attributes={})
    assert messages(load(tmp_path, "latest")) == ["no run"]
    pipeline(tmp_path)
    assert messages(load(tmp_path, "latest"))[-1] == "request"


def test_latest_is_looked_for_beyond_the_line_that_ends_last(tmp_path: Path) -> None:
    """The last record of a line may have no run, or an older one than another line's."""
    file = tmp_path / "logs.jsonl"
    with closing(Process(file)) as process:
        process.log("early", 1)
        process.log("no run", 100, attributes={})
    with closing(Process(file, trace_of_root(OTHER_RUN))) as process:
        process.log("late", 50, attributes=of_run("other", OTHER_RUN))
    assert messages(load(tmp_path, "latest")) == ["late"]


def test_latest_needs_no_trace(tmp_path: Path) -> None:
    """Without traces, lines still have their flow run."""
    with closing(Process(tmp_path / "logs.jsonl", "")) as process:
        process.log("untraced", span_id="0")
        process.log("of nothing", attributes={}, span_id="0")
    (log,) = load(tmp_path, "latest").logs
    assert (log.message, log.trace_id, log.span_id) == ("untraced", None, None)


def test_latest_is_not_what_belongs_to_nothing(tmp_path: Path) -> None:
    """Not even if the text of a line makes it look broken."""
    with closing(Process(tmp_path / "logs.jsonl", "")) as process:
        process.log("{", attributes={}, span_id="0")
    with pytest.raises(UnknownRunError, match="no log lines of runs yet"):
        load(tmp_path, "latest")


def test_an_unknown_run_is_told_with_those_there_are(tmp_path: Path) -> None:
    """The latest first, by the ids of flow runs, with their names."""
    pipeline(tmp_path)
    with pytest.raises(UnknownRunError, match=f"no log lines of trace or run {TRACE}") as raised:
        load(tmp_path)
    known = [(one.run_id, one.name, one.run_name, one.end) for one in raised.value.known]
    second = 10**9
    assert known == [
        (SUBFLOW_RUN, "report", "meaty-vicugna", EPOCH + 3 * second),
        (FLOW_RUN, "etl", "meaty-vicugna", EPOCH + second),
        (OTHER_RUN, "other", "meaty-vicugna", EPOCH - 50 * second),
    ]


@pytest.mark.parametrize(
    ("fields", "severity", "level"),
    [
        ({"severityNumber": 13}, 13, "WARNING"),
        ({"severityNumber": 24}, 24, "CRITICAL"),
        ({"severityNumber": "SEVERITY_NUMBER_ERROR2"}, 18, "ERROR"),
        ({"severityNumber": 11, "severityText": "Success"}, 11, "SUCCESS"),
        ({"severityNumber": 0, "severityText": "fatal"}, 21, "CRITICAL"),
        ({"severityNumber": None, "severityText": "notice"}, 0, "NOTICE"),
        ({"severityNumber": 99}, 0, ""),
        ({"severityNumber": None}, 0, ""),
    ],
)
def test_levels_have_numbers_and_names(
    tmp_path: Path, fields: dict[str, Any], severity: int, level: str
) -> None:
    """Either may be missing; names are Python's, or the application's own."""
    (tmp_path / "logs.jsonl").write_text(raw_line(raw_log(1, **fields)))
    (log,) = load(tmp_path).logs
    assert (log.severity, log.level) == (severity, level)


def test_a_floor_leaves_out_what_is_below_it(tmp_path: Path) -> None:
    """Names may be OpenTelemetry's, in any case; a record without a level counts as INFO."""
    with closing(Process(tmp_path / "logs.jsonl")) as process:
        for level in ("DEBUG", "INFO", "WARN", "ERROR", "FATAL", ""):
            process.log(level, level=level)
    found = load(tmp_path, FLOW_RUN).logs
    kept = {
        name: [log.message for log in log_files.at_least(found, log_files.parse_level(name))]
        for name in ("trace", "INFO", "Warning", "warn", "FATAL", "critical")
    }
    assert kept == {
        "trace": ["DEBUG", "INFO", "WARN", "ERROR", "FATAL", ""],
        "INFO": ["INFO", "WARN", "ERROR", "FATAL", ""],
        "Warning": ["WARN", "ERROR", "FATAL"],
        "warn": ["WARN", "ERROR", "FATAL"],
        "FATAL": ["FATAL"],
        "critical": ["FATAL"],
    }


def test_a_task_is_chosen_by_its_name_or_that_of_its_run(tmp_path: Path) -> None:
    """The name must match exactly, because names of tasks may have the same start."""
    with closing(Process(tmp_path / "logs.jsonl")) as process:
        for task_run in ("load-0", "load-1", "load-all-0"):
            process.log(task_run, attributes=of_run(task_run=task_run))
    found = load(tmp_path, FLOW_RUN).logs
    assert [log.message for log in log_files.of_task(found, "load")] == ["load-0", "load-1"]
    assert [log.message for log in log_files.of_task(found, "load-1")] == ["load-1"]


DEEP: dict[str, Any] = {"stringValue": "x"}
for _ in range(200):
    DEEP = {"arrayValue": {"values": [DEEP]}}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (raw_line(raw_log(9))[:-30].encode(), "cut off: the line ends in the middle"),
        (b'{"resourceLogs":[{"x":"\xff"}]}', "not UTF-8 text"),
        (b"hello", "not JSON"),
        (b"[1, 2]", "not OTLP: JSON, but no object"),
        (b"{}", "not OTLP: no resourceLogs"),
        (b'{"resourceSpans": []}', "holds spans, not logs"),
        (b'{"resourceLogs": [1]}', "not OTLP: resourceLogs is no list of objects"),
        (
            raw_line(raw_log(9, traceId="xyz")).encode(),
            "log record skipped: its trace id is malformed",
        ),
        (raw_line(raw_log(9, spanId=7)).encode(), "log record skipped: its span id is malformed"),
        (
            raw_line(raw_log(9, timeUnixNano="soon")).encode(),
            "log record skipped: its time is no number",
        ),
        (
            raw_line(raw_log(9, attributes=7)).encode(),
            "log record skipped: not OTLP: attributes is no list of objects",
        ),
        (
            raw_line(raw_log(9, body=DEEP)).encode(),
            "log record skipped: a value is nested too deeply",
        ),
    ],
)
@pytest.mark.parametrize("wanted", ["latest", TRACE])
def test_a_bad_line_is_named_and_everything_else_is_read(
    tmp_path: Path, line: bytes, reason: str, wanted: str
) -> None:
    """The problem has the line and the reason; records before and after it are read."""
    file = tmp_path / "logs.jsonl"
    first, second = raw_line(raw_log(1)).encode(), raw_line(raw_log(2)).encode()
    file.write_bytes(b"\n".join([first, line, second]))
    found = load(file, wanted)
    assert messages(found) == ["line 1", "line 2"]
    assert [(problem.line, problem.reason) for problem in found.problems] == [(3, reason)]


def test_a_bad_record_does_not_cost_its_neighbours(tmp_path: Path) -> None:
    """Only the unreadable record of the line is missing."""
    file = tmp_path / "logs.jsonl"
    file.write_text(raw_line(raw_log(1), raw_log(2, body="x", attributes=[3]), raw_log(3)))
    found = load(file)
    assert messages(found) == ["line 1", "line 3"]
    assert [problem.line for problem in found.problems] == [1]


def test_lines_of_other_traces_are_not_parsed(tmp_path: Path) -> None:
    """Their content is not parsed, whatever its script."""
    file = tmp_path / "logs.jsonl"
    other = '{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"größe":nonsense}]}]}]}\n'
    file.write_text(other + raw_line(raw_log(1)), encoding="utf-8")
    assert load(file).problems == ()


def test_text_that_is_no_unicode_does_not_cost_the_line(tmp_path: Path) -> None:
    """An undecodable file name is a lone surrogate in the file."""
    with closing(Process(tmp_path / "logs.jsonl")) as process:
        process.log("no \udcff.csv", rows=2**62)
    assert messages(load(tmp_path, FLOW_RUN)) == ["no ?.csv"]


def test_values_that_only_look_like_otlps_are_no_harm(tmp_path: Path) -> None:
    """A number beyond 64 bits is text in JSON, and an unknown kind of value is null."""
    big = {"key": "big", "value": {"intValue": 2**70}}
    odd = {"key": "odd", "value": {"oddValue": [{}]}}
    surrogate = {"stringValue": "\udcff"}  # sends the line to the standard library's parser
    record = raw_log(1, attributes=[big, odd], body=surrogate)
    (tmp_path / "logs.jsonl").write_text(raw_line(record))
    (log,) = load(tmp_path).logs
    found = orjson.loads(orjson.dumps(log_files.as_object(log)))
    assert (found["attributes"], found["body"]) == ({"big": str(2**70), "odd": None}, "?")


def test_the_json_object_has_the_documented_shape(tmp_path: Path) -> None:
    """Numbers that JSON lacks are text, and missing values are null."""
    with closing(Process(tmp_path / "logs.jsonl", "")) as process:
        process.log({"a": float("inf")}, level="", nan=float("nan"), span_id="0")
    (log,) = load(tmp_path, FLOW_RUN).logs
    assert json.loads(json.dumps(log_files.as_object(log), allow_nan=False)) == {
        "time": EPOCH,
        "level": None,
        "severity_number": 0,
        "body": {"a": "Infinity"},
        "attributes": of_run() | {"nan": "NaN"},
        "logger": "prefect.flow_runs",
        "trace_id": None,
        "span_id": None,
        "resource": {"service.name": "nightly"},
    }
