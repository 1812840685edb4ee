"""Ask the API, and the sender, about a run from before the engine took it up."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.objects import State as PrefectState
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound

from flowspan._parcel import Note, note_about
from flowspan._prefect.observer import contained
from flowspan._prefect.states import last_end
from flowspan._prefect.upstream import found_in, names_by_run_id

if TYPE_CHECKING:
    from collections.abc import Generator

    from prefect.client.orchestration import PrefectClient, SyncPrefectClient
    from prefect.client.schemas.objects import Flow, TaskRun
    from prefect.client.schemas.responses import DeploymentResponse


@dataclass(slots=True)
class Past:
    """What the API, and the sender, know about a run from before the engine took it up.

    `flow_run` and `flow`, or `task_run`, are what sent a background task, if Prefect has not stored
    the context of the call.
    """

    states: list[PrefectState] = field(default_factory=list)
    deployment: DeploymentResponse | None = None
    flow_run: FlowRun | None = None
    flow: Flow | None = None
    task_run: TaskRun | None = None
    note: Note = Note()  # noqa: RUF009 - it is immutable

    def read(
        self, run: FlowRun | TaskRun, client: SyncPrefectClient | PrefectClient
    ) -> Generator[Any, Any, None]:
        """Ask the API; yield what calls of `client` return, and receive the answers."""
        if isinstance(run, FlowRun):
            self.states = yield client.read_flow_run_states(run.id)
            if run.deployment_id is not None:
                self.deployment = yield client.read_deployment(run.deployment_id)
            return
        self.states = yield client.read_task_run_states(run.id)
        if FlowRunContext.get() is not None:
            return
        parents = names_by_run_id({"parents": run.task_inputs.get("__parents__", ())}, {})
        if run.flow_run_id is not None:
            self.flow_run = yield client.read_flow_run(run.flow_run_id)
            self.flow = yield client.read_flow(self.flow_run.flow_id)
        elif parents:
            with contextlib.suppress(ObjectNotFound):  # the API gets it as an event, perhaps later
                self.task_run = yield client.read_task_run(UUID(next(iter(parents))))


def past_of_running(run: FlowRun, client: SyncPrefectClient) -> Past:
    """Ask the API for the states before the Running state of a scheduled run."""
    past = Past()
    with contained:
        states = sorted(client.read_flow_run_states(run.id), key=lambda state: state.timestamp)
        while states and not states.pop().is_running():
            pass
        if any(state.is_scheduled() for state in states):
            past.states = states
        if run.deployment_id is not None:
            past.deployment = client.read_deployment(run.deployment_id)
    return past


def note_that_came(run: TaskRun, engine: Any) -> Note:
    """Return what the sender of a task run knows, and when the upstream runs in it ended."""
    tags = (engine.context or {}).get("tags_context") or {}
    note = note_about(str(run.id), tags.get("flowspan"))
    if not note.is_there:
        return note
    states = found_in((engine.parameters, engine.wait_for), PrefectState)
    return note._replace(ended=max(note.ended, last_end(states)))
