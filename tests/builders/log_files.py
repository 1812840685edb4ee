"""Write files of log records for tests, with the real SDK and the real file exporter."""

import json
from pathlib import Path
from typing import Any

from opentelemetry._logs import SeverityNumber
from opentelemetry.exporter.otlp.json.file._log_exporter import FileLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    set_span_in_context,
)
from span_files import EPOCH

from flowspan import semconv
from flowspan.identity import derive_trace_id

LATER = 0.25
"""Seconds from a record to its observation."""

FLOW_RUN = "0190f0aa-0000-7000-8000-00000000000a"
SUBFLOW_RUN = "0190f0aa-0000-7000-8000-00000000000b"
OTHER_RUN = "0190f0aa-0000-7000-8000-00000000000c"
TASK_RUN = "0190f0aa-0000-7000-8000-00000000000d"

_LEVELS = {
    "DEBUG": SeverityNumber.DEBUG,
    "INFO": SeverityNumber.INFO,
    "WARN": SeverityNumber.WARN,
    "ERROR": SeverityNumber.ERROR,
    "FATAL": SeverityNumber.FATAL,
}


def trace_of_root(run_id: str) -> str:
    """Return the id of the trace whose root is a run."""
    return f"{derive_trace_id(run_id):032x}"


def of_run(
    flow: str = "etl",
    flow_run_id: str = FLOW_RUN,
    task_run: str = "",
    task_run_id: str = TASK_RUN,
) -> dict[str, str]:
    """Return the attributes of a run; `task_run` is the task's name and a number."""
    attributes = {
        semconv.FLOW_NAME: flow,
        semconv.FLOW_RUN_ID: flow_run_id,
        semconv.FLOW_RUN_NAME: "meaty-vicugna",
    }
    if task_run:
        attributes |= {
            semconv.TASK_NAME: task_run.rpartition("-")[0],
            semconv.TASK_RUN_ID: task_run_id,
            semconv.TASK_RUN_NAME: task_run,
        }
    return attributes


class Process:
    """A process that logs; each `export` writes a line."""

    def __init__(self, file: Path, trace_id: str | None = None) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.trace_id = trace_of_root(FLOW_RUN) if trace_id is None else trace_id
        resource = Resource({"service.name": "nightly"})
        self._provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_log_record_processor(BatchLogRecordProcessor(FileLogExporter(file)))

    def export(self) -> None:
        """Write everything that is pending."""
        self._provider.force_flush()

    def close(self) -> None:
        """Write everything that is pending, and end."""
        self._provider.shutdown()

    def log(
        self,
        body: Any,
        second: float | None = 0.0,
        *,
        level: str = "INFO",
        span_id: str = "1".zfill(16),
        attributes: dict[str, Any] | None = None,
        logger: str = "prefect.flow_runs",
        exception: BaseException | None = None,
        **fields: Any,
    ) -> None:
        """Log a record, `second` seconds after `EPOCH`, in the span with this id.

        It is observed `LATER`.
        """
        context = SpanContext(
            int(self.trace_id or "0", 16),
            int(span_id, 16),
            is_remote=False,
            trace_flags=TraceFlags(1),
        )
        self._provider.get_logger(logger).emit(
            timestamp=None if second is None else EPOCH + round(second * 1e9),
            observed_timestamp=EPOCH + round(((second or 0) + LATER) * 1e9),
            context=set_span_in_context(NonRecordingSpan(context)),
            severity_number=_LEVELS.get(level),
            severity_text=level or None,
            body=body,
            attributes=(of_run() if attributes is None else attributes) | fields,
            exception=exception,
        )


def raw_log(number: int, **fields: Any) -> dict[str, Any]:
    """Return a record of a trace in OTLP JSON; keyword arguments replace or add fields."""
    return {
        "timeUnixNano": str(EPOCH + number),
        "severityNumber": 9,
        "body": {"stringValue": f"line {number}"},
        "traceId": "ab" * 16,
        "spanId": f"{number:016x}",
    } | fields


def raw_line(*records: Any) -> str:
    """Return a line of log records."""
    return json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": list(records)}]}]}) + "\n"
