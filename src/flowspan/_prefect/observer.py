"""Keep what the telemetry of all engines in this process shares."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import UUID

from prefect.context import FlowRunContext
from prefect.utilities.urls import url_for

from flowspan._containment import Containment
from flowspan._sigterm import SigtermHandler
from flowspan.identity import derive_trace_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path
    from typing import Any

    from prefect.client.schemas.objects import FlowRun, TaskRun

    from flowspan._parcel import Parcel
    from flowspan.recording.recorder import RunRecorder, RunTracer
    from flowspan.settings import Settings

    Inputs = Mapping[str, Iterable[Any]]

_ANY_ID: Final = UUID(int=0)
_REMEMBERED: Final = 1000
K = TypeVar("K")
V = TypeVar("V")
contained = Containment("engine")


class _Recent(dict[K, V]):
    """A dict that forgets its oldest entries."""

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        if len(self) > _REMEMBERED:
            self.pop(next(iter(self)), None)


class EngineObserver:
    """The state shared by all engines of this process, on behalf of one `RunTracer`."""

    def __init__(
        self,
        tracer: RunTracer,
        settings: Settings,
        flush: Callable[..., object],
        parcel: Parcel,
        *,
        has_hint: bool = False,
    ) -> None:
        """Record on `tracer`.

        `flush` is called when a top-level flow run ends, and with ``gives_up=True`` when a task run
        ends whose caller is in another process. `parcel` goes along with task runs to other
        processes. With `has_hint`, the first top-level flow run logs how to look at it.
        """
        self.tracer = tracer
        self.settings = settings
        self.flush = flush
        self.parcel = parcel
        self.acknowledges = False  # whether Prefect is told which spans are exported
        self.moved_to: Path | None = None
        """The folder of the embedded files, if that is not in the working directory and nobody has
        been told yet."""
        self.sigterm = SigtermHandler(self.finish, settings.flush_timeout)
        self._has_hint = has_hint
        self._subflows: dict[str, dict[str, str]] = {}
        self._foreign_trace_ids = _Recent[str, int]()
        self._inputs = _Recent[str, "Inputs"]()
        self._leaving = _Recent[str, "RunRecorder"]()

    def take_hint(self) -> bool:
        """Return whether to log how to look at a run: once a process is enough."""
        has_hint, self._has_hint = self._has_hint, False
        return has_hint

    def expect_last_line(self, recorder: RunRecorder) -> None:
        """Note that Prefect logs one more line about a run whose span has ended."""
        self._leaving[recorder.run.id] = recorder

    def recorder_for_line(self, run_id: str) -> RunRecorder | None:
        """Return the recorder of the run that Prefect logs a line about, if it is known here."""
        return self.tracer.active.get(run_id) or self._leaving.pop(run_id, None)

    def finish(self) -> None:
        """End the spans of all runs that are under way, and export everything."""
        with contained:
            self.tracer.finish_all()
            self.flush(gives_up=True)

    def subflows_of(self, flow_run_id: object) -> Mapping[str, str]:
        """Return a flow run's subflows, by the task runs that stand for them in Prefect's API."""
        return self._subflows.get(str(flow_run_id), {})

    def remember_subflow(self, run: FlowRun) -> None:
        """Note which task run stands for a subflow, until the calling flow is left."""
        context = FlowRunContext.get()
        caller = str(context.flow_run.id) if context and context.flow_run else None
        if caller in self.tracer.active:
            self._subflows.setdefault(caller, {})[str(run.parent_task_run_id)] = str(run.id)

    def remember_inputs(self, run: TaskRun) -> None:
        """Keep the inputs of a task run that the API created: it may stand for a subflow."""
        self._inputs[str(run.id)] = run.task_inputs

    def take_inputs(self, task_run_id: object) -> Inputs:
        """Return the inputs of the task run that stands for a subflow, and forget them."""
        return self._inputs.pop(str(task_run_id), {})

    def remember_trace_id(self, flow_run_id: str, trace_id: int) -> None:
        """Keep the trace id of a flow run if it does not follow from the run's own id."""
        if trace_id != derive_trace_id(flow_run_id):
            self._foreign_trace_ids[flow_run_id] = trace_id

    def forget(self, flow_run_id: str) -> None:
        """Drop what only the runs inside a flow run needed, once that has ended."""
        self._subflows.pop(flow_run_id, None)

    def trace_id_of(self, flow_run_id: str) -> int:
        """Return the trace id of a flow run, derived from its id if no other is known."""
        return self._foreign_trace_ids.get(flow_run_id) or derive_trace_id(flow_run_id)

    def url_of_task_run(self, run_id: str) -> str | None:
        """Return the URL of a task run in Prefect's UI; None if there is no UI."""
        return self._url_of_any.replace(str(_ANY_ID), run_id) or None

    @cached_property
    def _url_of_any(self) -> str:
        # Prefect reads several settings for each URL, which is too slow for every task run.
        return url_for("task-run", obj_id=_ANY_ID) or ""
