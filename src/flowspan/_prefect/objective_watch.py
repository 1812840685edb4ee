"""Read a flow's history from Prefect, and report violations to the run's log and as an event."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Final

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events import emit_event
from prefect.logging.loggers import flow_run_logger

from flowspan import semconv
from flowspan.objectives.promises import objectives_for
from flowspan.objectives.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Collection
    from uuid import UUID

    from prefect import Flow

    from flowspan.objectives.promises import SuccessRate, Violation
    from flowspan.settings import Settings

_FINISHED: Final = (StateType.COMPLETED, StateType.FAILED, StateType.CRASHED)
_PAGE: Final = 200  # the most that Prefect's API returns at once


def watch_for(run: FlowRun, flow: Flow[Any, Any], settings: Settings) -> Watch | None:
    """Return the watch over a flow run's objectives; None if it has none."""
    objectives = objectives_for(settings.slo, flow.name, run.tags)
    if objectives is None:
        return None
    return Watch(
        objectives,
        flow.name,
        report=lambda violation: _report(run, flow, violation),
        history=lambda success_rate: _read_history(run, success_rate),
        patience=settings.flush_timeout,
    )


def _report(run: FlowRun, flow: Flow[Any, Any], violation: Violation) -> None:
    flow_run_logger(run, flow).warning("Objective violated: %s", violation.detail)
    related = [_related("flow", run.flow_id, flow.name)]
    if run.deployment_id is not None:
        related.append(_related("deployment", run.deployment_id))
    related += [
        {"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"}
        for tag in sorted(run.tags)
    ]
    emit_event(
        semconv.SLO_EVENT,
        resource={
            "prefect.resource.id": f"prefect.flow-run.{run.id}",
            "prefect.resource.name": run.name,
            semconv.SLO_OBJECTIVE: violation.objective,  # an automation can match it
        },
        related=related,
        payload={
            "objective": violation.objective,
            "expected": violation.expected,
            "actual": violation.actual,
            "detail": violation.detail,
        },
    )


def _related(kind: str, identity: UUID, name: str | None = None) -> dict[str, str]:
    resource = {
        "prefect.resource.id": f"prefect.{kind}.{identity}",
        "prefect.resource.role": kind,
    }
    return resource if name is None else {**resource, "prefect.resource.name": name}


def _read_history(run: FlowRun, success_rate: SuccessRate) -> tuple[int, int]:
    """Ask the API for the numbers of succeeded and of all finished runs of a flow.

    `run` itself is not counted, although `success_rate` includes it.
    """
    flow = FlowFilter.model_validate({"id": {"any_": [run.flow_id]}})
    others: dict[str, Any] = {"id": {"not_any_": [run.id]}}
    # This is not the engine's thread, so it needs its own client: one with settings is not shared.
    with get_client(httpx_settings={}, sync_client=True) as client:
        if success_rate.days is not None:
            since = datetime.now(timezone.utc) - timedelta(days=success_rate.days)
            others["end_time"] = {"after_": since}
            succeeded, finished = (
                client.count_flow_runs(flow_filter=flow, flow_run_filter=_in_states(states, others))
                for states in ([StateType.COMPLETED], _FINISHED)
            )
            return succeeded, finished
        wanted = (success_rate.runs or 1) - 1
        found: list[FlowRun] = []
        while len(found) < wanted:
            page = client.read_flow_runs(
                flow_filter=flow,
                flow_run_filter=_in_states(_FINISHED, others),
                sort=FlowRunSort.END_TIME_DESC,
                limit=min(_PAGE, wanted - len(found)),
                offset=len(found),
            )
            if not page:
                break
            found += page
        return sum(one.state_type == StateType.COMPLETED for one in found), len(found)


def _in_states(states: Collection[StateType], others: dict[str, Any]) -> FlowRunFilter:
    return FlowRunFilter.model_validate({"state": {"type": {"any_": list(states)}}, **others})
