"""Report the runs that have not ended, as log records, because a span is only exported at its end.

One thread for the whole process looks at the active runs. A flow run is reported at once. A task
run is reported when it has been open for a second, so that short ones cost nothing. After that, a
run is reported at each heartbeat, and when it does something else than before.
"""

from __future__ import annotations

import contextlib
import threading
from time import monotonic, time_ns
from typing import TYPE_CHECKING, Final

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, set_span_in_context

from flowspan import semconv
from flowspan._containment import Containment
from flowspan._version import __version__
from flowspan.units import NANOSECONDS
from flowspan.values import clean

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry._logs import LoggerProvider

    from flowspan.recording.recorder import RunRecorder, RunTracer

_contained = Containment("heartbeat")

_LOOK: Final = 1.0
"""Seconds between two looks at the active runs, and the age of a task run that is reported."""
_PAUSE: Final = 0.1
"""Seconds after each look, so that a flow that calls many others does not cause one for each."""


class Heartbeat:
    """Reports the active runs of a tracer: when each starts, and every `interval` seconds.

    Its thread is started by the first run, and sleeps while there is none.
    """

    def __init__(
        self,
        tracer: RunTracer,
        provider: LoggerProvider,
        interval: float,
        flush: Callable[[], object],
    ) -> None:
        """Report to `provider`, and call `flush` once a flow run has been reported first."""
        self._tracer = tracer
        self._logger = provider.get_logger(semconv.RUNS_SCOPE, __version__)
        self._interval = interval
        self._flush = flush
        self.forget_parent_process()
        tracer.notice = self.notice

    def forget_parent_process(self) -> None:
        """Begin anew, as after a fork: the thread exists only in the parent process."""
        self._thread: threading.Thread | None = None
        self._reported: dict[str, str] = {}  # by run id: what it was doing
        self._beats_at = self._looks_at = 0.0
        self._is_idle = True
        self._is_stopped = threading.Event()
        self._is_awake = threading.Event()

    def notice(self, recorder: RunRecorder) -> None:
        """Wake the thread if it must look at a run that has just started."""
        if not (recorder.run.is_flow or self._is_idle):
            return
        self._is_awake.set()
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="flowspan-heartbeat", daemon=True)
            with contextlib.suppress(RuntimeError):  # while the interpreter shuts down
                thread.start()
                self._thread = thread

    def stop(self, timeout: float) -> None:
        """End the thread, and wait for that at most `timeout` seconds."""
        self._tracer.notice = None
        self._is_stopped.set()
        self._is_awake.set()
        if self._thread is not None:
            self._thread.join(max(0.0, timeout))

    def _run(self) -> None:
        while not self._is_stopped.is_set():
            self._is_awake.clear()
            self._is_idle = True  # before the look, so that no run is missed
            with _contained:
                self._is_idle = not self._look()
            self._is_stopped.wait(_PAUSE)
            self._is_awake.wait(None if self._is_idle else _LOOK)

    def _look(self) -> bool:
        """Report what is due; return whether any run is active."""
        recorders = {recorder.run.id: recorder for recorder in tuple(self._tracer.active.values())}
        for run_id in self._reported.keys() - recorders.keys():
            del self._reported[run_id]
        now, began = monotonic(), False
        beats, looks = now >= self._beats_at, now >= self._looks_at
        self._beats_at = now + self._interval if beats else self._beats_at
        self._looks_at = now + _LOOK if looks else self._looks_at
        for run_id, recorder in recorders.items():
            if run_id not in self._reported:
                if self._is_due(recorder):
                    began = began or recorder.run.is_flow
                    self._report(recorder, semconv.RUN_STARTED)
            elif beats or (looks and self._reported[run_id] != recorder.activity):
                self._report(recorder, semconv.RUN_RUNNING)
        if began:
            self._flush()
        return bool(recorders)

    def _is_due(self, recorder: RunRecorder) -> bool:
        run = recorder.run
        return run.is_flow or time_ns() - run.start >= _LOOK * NANOSECONDS

    def _report(self, recorder: RunRecorder, event: str) -> None:
        span = recorder.span
        self._reported[recorder.run.id] = recorder.activity
        if not span.is_recording() or recorder.awaits_rollback or self._is_stopped.is_set():
            return
        with _contained:  # one failure must not lose the other records
            now, is_start = time_ns(), event == semconv.RUN_STARTED
            attributes = recorder.so_far(now, fully=is_start)
            attributes[semconv.RUN_HEARTBEAT] = self._interval
            # Datadog would take host.name of one log record for that of others, too.
            if (host := attributes.pop(semconv.HOST_NAME, None)) is not None:
                attributes[semconv.RUN_HOST] = host
            self._logger.emit(
                LogRecord(
                    timestamp=now,
                    observed_timestamp=now,
                    context=set_span_in_context(
                        NonRecordingSpan(span.get_span_context()), Context()
                    ),
                    severity_number=SeverityNumber.INFO if is_start else SeverityNumber.DEBUG,
                    severity_text="INFO" if is_start else "DEBUG",
                    body=f"{recorder.run.span_name} {event.rpartition('.')[2]}",
                    attributes=clean(attributes),
                    event_name=event,
                )
            )
