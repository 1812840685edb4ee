"""Write reports of runs that have not ended, with the real SDK and the real file exporter."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.json.file._log_exporter import FileLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context
from span_files import EPOCH

from flowspan import semconv

HEARTBEAT = 10.0


class Reporter:
    """A process that reports its runs; times are in seconds since `EPOCH`."""

    def __init__(self, file: Path, trace_id: str = "ab" * 16, process_id: int = 1) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.trace_id = trace_id
        self._process_id = process_id
        resource = Resource({"service.name": "nightly"})
        self._provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_log_record_processor(BatchLogRecordProcessor(FileLogExporter(file)))

    def report(
        self,
        name: str,
        at: float,
        *,
        start: float = 0.0,
        span_id: str = "1".zfill(16),
        parent: str | None = None,
        event: str = semconv.RUN_STARTED,
        activity: str = "execution",
        also: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Report a run: of a flow if the name begins with ``RUN``, else of a task.

        `also` are further attributes.
        """
        is_flow = name.startswith("RUN ")
        told = {
            semconv.RUN_TYPE: "flow" if is_flow else "task",
            semconv.RUN_ID: run_id_of(name),
            semconv.RUN_NAME: "meaty-vicugna" if is_flow else f"{name}-0",
            semconv.FLOW_NAME: name.removeprefix("RUN ") if is_flow else "etl",
            **({} if is_flow else {semconv.TASK_NAME: name}),
            semconv.RUN_STATE_TYPE: "RUNNING",
            semconv.RUN_STATE_NAME: "Running",
            semconv.PROCESS_ID: self._process_id,
            semconv.RUN_HOST: "here",
            semconv.RUN_START: EPOCH + round(start * 1e9),
            semconv.RUN_SPAN_KIND: "SERVER" if parent is None else "INTERNAL",
            semconv.RUN_ACTIVITY: activity,
            semconv.RUN_HEARTBEAT: HEARTBEAT,
            **({} if parent is None else {semconv.RUN_PARENT_SPAN_ID: parent}),
            **also,
        }
        time = EPOCH + round(at * 1e9)
        ids = SpanContext(
            int(self.trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=TraceFlags(1)
        )
        self._provider.get_logger(semconv.RUNS_SCOPE).emit(
            LogRecord(
                timestamp=time,
                observed_timestamp=time,
                context=set_span_in_context(NonRecordingSpan(ids)),
                body=f"{name} reported",
                attributes=told,
                event_name=event,
            )
        )
        self._provider.force_flush()


def run_id_of(name: str) -> str:
    """Return the id of the run of this name: a UUID with the name's first letter in it."""
    return f"0190f0aa-0000-7000-8000-0000000000{ord(name.removeprefix('RUN ')[0]):02x}"
