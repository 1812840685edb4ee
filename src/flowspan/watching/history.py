"""Read what Prefect's API knows about flow runs: their states, and the task runs in them.

The states come from events, since one page of them serves many runs. Where events are missing or
late, which the chain of states shows, they are asked for run by run.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from flowspan import semconv
from flowspan.recording.run import State
from flowspan.watching.api import as_text, batches, nanoseconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from flowspan.watching.api import Api, Object

_RESOURCES: Final = 100
"""Runs whose events are asked for at once."""
_DAY: Final = 86_400_000_000_000
_HEARTBEAT: Final = "prefect.flow-run.heartbeat"
_WAITING: Final = frozenset({"SCHEDULED", "PENDING"})
_ENDED_EARLY: Final = "NotReady"
"""A task run's engine leaves it in this state, which is not final."""
_SUSPENDED: Final = "Suspended"
_AWAITING_RETRY: Final = "AwaitingRetry"


@dataclass(frozen=True)
class Known:
    """A flow or task run in the API.

    Attributes:
        row: What the API says about it.
        states: Those it has entered, the first one first.
        first_name: The name that it had before the user's template for names was applied.
    """

    row: Object
    states: tuple[State, ...]
    first_name: str

    @property
    def id(self) -> str:
        """The id of the run."""
        run_id: str = self.row["id"]
        return run_id

    @property
    def is_flow(self) -> bool:
        """Whether it is a flow run."""
        return "flow_id" in self.row

    @property
    def last(self) -> State:
        """The last state."""
        return self.states[-1]

    @property
    def has_ended(self) -> bool:
        """Whether its engine has left it for good, as far as the states tell."""
        return self.last.is_final or self.last.name == _ENDED_EARLY

    @property
    def is_deferred(self) -> bool:
        """Whether a process other than its caller's takes the task run up, so it may outlive it."""
        return not self.is_flow and self.states[0].type == "SCHEDULED"

    @property
    def stints(self) -> list[Stint]:
        """Its parts, each of which one process has recorded, or should have."""
        return list(_stints(self.states))


@dataclass(frozen=True)
class Stint:
    """A part of a run's life: from when a process takes it up until the process leaves it.

    Attributes:
        run_count: How often the run had been running before.
        states: Those of this part, and those in which it waited for the process.
    """

    run_count: int
    states: tuple[State, ...]

    @property
    def first_running(self) -> int | None:
        """When it first entered a Running state, if it did."""
        times = (state.time for state in self.states if state.type == semconv.RUNNING)
        return next(times, None)


@dataclass(frozen=True)
class Outline:
    """A flow run and the runs in it, without their states.

    Attributes:
        row: The flow run's.
        tasks: Its task runs, apart from those that stand for subflows.
        subflows: The ids of subflows, by the task runs that stand for them.
        failed_below: Whether a subflow of it has failed.
        open_below: The subflows in the same process that have not ended.
    """

    row: Object
    tasks: Sequence[Object]
    subflows: Mapping[str, str]
    failed_below: bool
    open_below: Sequence[Object]

    @property
    def id(self) -> str:
        """The id of the flow run."""
        run_id: str = self.row["id"]
        return run_id


async def outline(api: Api, rows: Sequence[Object]) -> list[Outline]:
    """Read which runs are in flow runs, whose rows the API has returned.

    Raises:
        ApiError: The API does not answer.
    """
    ids = [row["id"] for row in rows]
    tasks: dict[str, list[Object]] = defaultdict(list)
    for task in await api.all_of("/task_runs/filter", "task_runs", "flow_run_id", ids):
        tasks[task["flow_run_id"]].append(task)
    called = await api.all_of("/flow_runs/filter", "flow_runs", "parent_flow_run_id", ids)
    subflows = {row["parent_task_run_id"]: row for row in called}
    return [_outline(row, tasks[row["id"]], subflows) for row in rows]


def _outline(row: Object, tasks: Sequence[Object], subflows: Mapping[str, Object]) -> Outline:
    own = [task for task in tasks if task["id"] not in subflows]
    called = {task["id"]: subflows[task["id"]] for task in tasks if task["id"] in subflows}
    return Outline(
        row,
        own,
        {task_id: subflow["id"] for task_id, subflow in called.items()},
        any(map(_has_failed, called.values())),
        # One with a deployment runs elsewhere, and may go on.
        [one for one in called.values() if not (has_ended(one) or one["deployment_id"])],
    )


async def read_states(api: Api, rows: Sequence[Object]) -> dict[str, Known]:
    """Read the states of flow and task runs, by run id; those that have none are left out.

    Raises:
        ApiError: The API does not answer.
    """
    found: dict[str, Known] = {}
    for batch in batches([row["id"] for row in rows], _RESOURCES):
        of_batch = [row for row in rows if row["id"] in {*batch}]
        events = await _events(api, of_batch)
        for row in of_batch:
            told = _once(events[row["id"]])
            states = _chained(told, row["state_id"])
            if states is None:
                states = await _asked(api, row)
            if states:
                name = told[0]["resource"].get("prefect.resource.name") if told else None
                found[row["id"]] = Known(row, tuple(states), name or row["name"])
    return found


async def _events(api: Api, rows: Sequence[Object]) -> dict[str, list[Object]]:
    """Return the events about state changes of runs, by run id."""
    resources = [f"prefect.{_kind(row)}-run.{row['id']}" for row in rows]
    first = min(nanoseconds(row["created"]) for row in rows)
    # The clocks of the processes, which set the times of task runs, may be wrong.
    occurred = {"since": as_text(first - _DAY), "until": as_text(api.now + _DAY)}
    names = {"prefix": ["prefect.flow-run.", "prefect.task-run."], "exclude_name": [_HEARTBEAT]}
    by_run: dict[str, list[Object]] = defaultdict(list)
    async for event in api.events(occurred=occurred, event=names, resource={"id": resources}):
        if (event.get("payload") or {}).get("validated_state"):
            by_run[event["resource"]["prefect.resource.id"].rpartition("-run.")[2]].append(event)
    return by_run


def _kind(row: Object) -> str:
    return "flow" if "flow_id" in row else "task"


def _chained(events: Iterable[Object], last: str | None) -> list[State] | None:
    """Return the states that events in their order tell; None if one is missing.

    Each event names the state before it, and the last one must be the run's current state.
    """
    states: list[State] = []
    for event in events:
        before = event["payload"].get("initial_state")
        told = (before["type"], before["name"]) if before else None
        if told != ((states[-1].type, states[-1].name) if states else None):
            return None
        after = event["payload"]["validated_state"]
        states.append(
            State(
                after["type"],
                after["name"] or after["type"],
                event["id"],
                after.get("message") or None,
                nanoseconds(event["occurred"]),
            )
        )
    return states if states and states[-1].id == last else None


def _once(events: Iterable[Object]) -> list[Object]:
    """Return events without doubles, in the order in which they occurred."""
    return sorted({one["id"]: one for one in events}.values(), key=lambda one: one["occurred"])


async def _asked(api: Api, row: Object) -> list[State]:
    kind = _kind(row)
    path = f"/{kind}_run_states/"
    answer = await api.get(path, **{f"{kind}_run_id": row["id"]}) or []
    states = [
        State(
            one["type"],
            one["name"] or one["type"],
            one["id"],
            one["message"] or None,
            nanoseconds(one["timestamp"]),
        )
        for one in answer
    ]
    return sorted(states, key=lambda state: state.time)


def has_ended(row: Object) -> bool:
    """Return whether a run is over, by its last state."""
    return row["state_type"] in semconv.FINAL_STATE_TYPES or row["state_name"] == _ENDED_EARLY


def _has_failed(row: Object) -> bool:
    result = semconv.result_of(row["state_type"] or "", row["state_name"] or "")
    return result in semconv.ERROR_RESULTS


def _stints(states: Iterable[State]) -> Iterator[Stint]:
    """Split the states of a run where a process has left it.

    A process leaves a run in a final state, suspended, or when it must wait to be taken up again.
    Waiting for a retry, and Paused, the process keeps it. Once a run has ended, only a state in
    which it waits or runs again begins another part, so Crashed after Cancelling stays.
    """
    run_count, begun, current = 0, 0, list[State]()
    is_left = has_run = False
    for state in states:
        if current and current[-1].name == _ENDED_EARLY and state.is_final:
            continue  # a service of the server cancels what its engine has left long before
        waits = state.type in _WAITING and state.name not in {_AWAITING_RETRY, _ENDED_EARLY}
        again = waits or state.type == semconv.RUNNING
        if (has_run and waits) or (is_left and again):
            yield Stint(begun, tuple(current))
            begun, current, has_run, is_left = run_count, [], False, False
        current.append(state)
        is_left = state.is_final or state.name == _SUSPENDED
        if state.type == semconv.RUNNING:
            run_count += 1
            has_run = True
    if current:
        yield Stint(begun, tuple(current))


def submitted(run_id: str) -> int | None:
    """Return when a task run was submitted, from its id; None if a server made the id."""
    as_uuid = UUID(run_id)
    # RFC 9562, section 5.7: the first 48 bits are milliseconds since the epoch.
    return (as_uuid.int >> 80) * 1_000_000 if as_uuid.version == 7 else None  # noqa: PLR2004


def task_name(row: Object, first_name: str) -> str:
    """Return a task's name, which the API only has as a part of other names.

    The first name of a run ends with its dynamic key, or the beginning of it. Outside of a flow it
    is the task's. A task's key ends with a digest of the function.
    """
    dynamic: str = row["dynamic_key"]
    for suffix in (f"-{dynamic}", f"-{dynamic[:3]}"):
        if first_name.endswith(suffix):
            return first_name.removesuffix(suffix)
    if row["flow_run_id"] is None:
        return first_name
    name, _, _digest = row["task_key"].rpartition("-")
    return name or str(row["task_key"])
