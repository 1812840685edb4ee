"""Find the trace of a flow run in Prefect's API, and the run that called it.

A process that flowspan instruments leaves the ids of the run's span in a label, and so does
Prefect's ``run_deployment`` with those of the caller. All other ids are derived.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.trace import SpanContext, TraceFlags
from prefect.telemetry.run_telemetry import LABELS_TRACEPARENT_KEY

from flowspan._prefect.origin import (
    PARENT_LABEL,
    REPORTS_LABEL,
    parse_traceparent,
    remote_context,
)
from flowspan.identity import derive_span_id, derive_trace_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flowspan.watching.api import Api, Object

_REMEMBERED: Final = 10_000
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
# What is remembered of runs, which have parameters that may be large
_OF_FLOW_RUN: Final = ("id", "labels", "run_count", "parent_task_run_id", "deployment_id")
_OF_TASK_RUN: Final = ("id", "flow_run_id", "task_inputs")


@dataclass(frozen=True)
class Lineage:
    """Where a flow run belongs.

    Attributes:
        trace_id: The id of its trace.
        flags: Whether the trace is sampled; None if nobody has decided.
        parent: The span above the flow run's, if there is one.
        is_instrumented: Whether flowspan has taken the run up in its process.
        reports: Whether that process says which spans it has exported.
        inputs: The ids of upstream runs of a subflow, by the name of the input.
    """

    trace_id: int
    flags: TraceFlags | None = None
    parent: SpanContext | None = None
    is_instrumented: bool = False
    reports: bool = False
    inputs: Object | None = None


class Lineages:
    """Finds lineages, and remembers the latest flow runs and the task runs that stand for them."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._flow_runs = OrderedDict[str, "Object"]()
        self._task_runs = OrderedDict[str, "Object"]()

    async def of(self, rows: Sequence[Object]) -> dict[str, Lineage]:
        """Return the lineages of flow runs, by their ids.

        Raises:
            ApiError: The API does not answer.
        """
        await self._learn_callers(rows)
        found = {row["id"]: self._of(row) for row in rows}
        await self._name_subflows([one.inputs for one in found.values() if one.inputs])
        _forget(self._flow_runs)
        _forget(self._task_runs)
        return found

    async def _learn_callers(self, rows: Iterable[Object]) -> None:
        """Read the flow runs that called these, directly or through others."""
        learnt = list(rows)
        while learnt:
            self._flow_runs.update((row["id"], _part(row, _OF_FLOW_RUN)) for row in learnt)
            callers = {row["parent_task_run_id"] for row in learnt} - {None, *self._task_runs}
            tasks = await self._api.all_of("/task_runs/filter", "task_runs", "id", callers)
            self._task_runs.update((task["id"], _part(task, _OF_TASK_RUN)) for task in tasks)
            above = {task["flow_run_id"] for task in tasks} - {None, *self._flow_runs}
            learnt = await self._api.all_of("/flow_runs/filter", "flow_runs", "id", above)

    async def _name_subflows(self, inputs: Iterable[Object]) -> None:
        """Put subflows among inputs in the place of the task runs that stand for them."""
        given = [one for by_name in inputs for name in by_name for one in by_name[name]]
        ids = {*ids_in(given)}
        found = await self._api.all_of("/flow_runs/filter", "flow_runs", "parent_task_run_id", ids)
        subflows = {row["parent_task_run_id"]: row["id"] for row in found}
        for one in given:
            if one.get("id") in subflows:
                one["id"] = subflows[one["id"]]

    def _of(self, row: Object) -> Lineage:
        labels = row.get("labels") or {}
        label = parse_traceparent(labels.get(LABELS_TRACEPARENT_KEY))
        is_own = label is not None and label.span_id in _own_span_ids(row)
        task = self._task_runs.get(row["parent_task_run_id"])
        inputs = task["task_inputs"] if task is not None else None
        if label is None:
            above = self._above(row)
            trace_id = above.trace_id if above is not None else derive_trace_id(row["id"])
            flags = above.flags if above is not None else None
        else:
            trace_id, flags = label.trace_id, label.trace_flags
        # A subflow inherits the label of what called the outermost flow from elsewhere.
        is_elsewhere = row["deployment_id"] or task is None
        parent = None
        if is_elsewhere:
            parent = parse_traceparent(labels.get(PARENT_LABEL)) if is_own else label
        if parent is None and task is not None:
            parent = self._caller(task, trace_id, flags)
        reports = is_own and REPORTS_LABEL in labels
        return Lineage(trace_id, flags, parent, is_own, reports, inputs)

    def _above(self, row: Object) -> Lineage | None:
        """Return the lineage of the flow run that called this one, if that is known."""
        task = self._task_runs.get(row["parent_task_run_id"])
        caller = self._flow_runs.get(task["flow_run_id"]) if task is not None else None
        return self._of(caller) if caller is not None else None

    def _caller(self, task: Object, trace_id: int, flags: TraceFlags | None) -> SpanContext | None:
        """Return the span of the run that called the subflow which a task run stands for."""
        if (caller_id := caller_of_task(task)) is None:
            return None
        span_id = derive_span_id(caller_id)
        caller = self._flow_runs.get(caller_id)
        if caller is not None:
            label = parse_traceparent((caller.get("labels") or {}).get(LABELS_TRACEPARENT_KEY))
            if label is not None and label.span_id in _own_span_ids(caller):
                span_id = label.span_id  # a later process may have taken the caller up
        return remote_context(trace_id, span_id, _SAMPLED if flags is None else flags)


def caller_of_task(row: Object) -> str | None:
    """Return the id of the run that called a task run, a task run or the flow run."""
    inputs: dict[str, list[Any]] = row.get("task_inputs") or {}
    upstream = {one for name in inputs if name != "__parents__" for one in ids_in(inputs[name])}
    # Prefect also lists an upstream run that is still running as a parent.
    parents = [one for one in ids_in(inputs.get("__parents__", [])) if one not in upstream]
    flow_run_id: str | None = row.get("flow_run_id")
    return parents[0] if parents else flow_run_id


def ids_in(inputs: Iterable[Object]) -> list[str]:
    """Return the ids of the runs among a task run's inputs of one name."""
    return [one["id"] for one in inputs if one.get("id")]


def _part(row: Object, keys: Iterable[str]) -> Object:
    return {key: row[key] for key in keys}


def _own_span_ids(row: Object) -> set[int]:
    return {derive_span_id(row["id"], count) for count in range(row["run_count"] + 1)}


def _forget(remembered: OrderedDict[str, Object]) -> None:
    while len(remembered) > _REMEMBERED:
        remembered.popitem(last=False)
