"""What Prefect's API says about runs and about what they wait for, at one moment.

Moments are nanoseconds since the epoch by the server's clock; ids are as the API writes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal

from flowspan import semconv
from flowspan.units import NANOSECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

LATE_AFTER: Final = 15 * NANOSECONDS
"""How long after its time a run is late; Prefect marks it ``Late`` after that, by default."""

POLLED_WITHIN: Final = 60 * NANOSECONDS
"""How old the last poll of a work queue or deployment may be; Prefect's server uses the same."""

_MISSED_HEARTBEATS: Final = 3
_HEARTBEAT: Final = 30
_SLOT_HOLDING: Final = frozenset({"PENDING", "RUNNING"})
_LEASE_HOLDING: Final = _SLOT_HOLDING | {"CANCELLING"}


@dataclass(frozen=True, slots=True)
class State:
    """A state of a run; `scheduled` is when a run in it is to start, if it says so."""

    type: str
    name: str
    time: int
    message: str = ""
    scheduled: int | None = None
    pause_until: int | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A flow run or task run.

    Attributes:
        id: Its id.
        name: Its own name, such as ``meaty-vicugna``.
        type: Whether it is a run of a flow or of a task.
        of: The name of the flow or of the task.
        state: Its state now.
        tags: Its tags.
        created: When the API got to know it.
        expected: When it was to start at first.
        started: When it first started to run.
        ended: When it ended.
        count: How often it has been started.
        is_scheduled_by_server: Whether a schedule made it.
        retries_in_process: Whether only the process that ran it can retry it.
        deployment_id: Its deployment.
        pool: The name of its work pool.
        queue_id: Its work queue.
        infrastructure: What the worker calls the infrastructure that it made for it.
        key: The key of the task.
        flow_run_id: The flow run that called it, for a task run.
        tracking_id: For a flow run that a flow called, the task run by which its caller tracks it.
        upstream: The task runs that it waits for.
    """

    id: str
    name: str
    type: Literal["flow", "task"]
    of: str
    state: State
    tags: tuple[str, ...] = ()
    created: int = 0
    expected: int | None = None
    started: int | None = None
    ended: int | None = None
    count: int = 0
    is_scheduled_by_server: bool = False
    retries_in_process: bool = False
    deployment_id: str | None = None
    pool: str | None = None
    queue_id: str | None = None
    infrastructure: str | None = None
    key: str = ""
    flow_run_id: str | None = None
    tracking_id: str | None = None
    upstream: tuple[str, ...] = ()

    @property
    def is_over(self) -> bool:
        """Whether its state is final."""
        return self.state.type in semconv.FINAL_STATE_TYPES

    @property
    def holds_slots(self) -> bool:
        """Whether it takes a slot of its work pool and of its queue."""
        return self.state.type in _SLOT_HOLDING

    @property
    def holds_lease(self) -> bool:
        """Whether it takes a slot of its deployment."""
        return self.state.type in _LEASE_HOLDING

    @property
    def due(self) -> int | None:
        """When it is, or was, to start; None if it does not wait to be started."""
        if self.state.type != "SCHEDULED":
            return None
        if self.state.name == "AwaitingConcurrencySlot":  # the state has the time of the next try
            return self.expected
        return self.state.scheduled if self.state.scheduled is not None else self.expected

    def is_late(self, now: int) -> bool:
        """Return whether it should have been started a while ago."""
        due = self.due
        if due is None or self.state.name == "AwaitingRetry":
            return False
        return self.state.name == "Late" or now - due > LATE_AFTER


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit of concurrency with the name that the API has for it, and the slots in use.

    `holders` are the task runs that hold a slot of a tag, if the API says so.
    """

    name: str
    limit: int
    used: int
    is_active: bool = True
    holders: tuple[str, ...] = ()

    @property
    def is_full(self) -> bool:
        """Whether nobody gets a slot now."""
        return self.is_active and self.used >= self.limit


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker of a work pool; `heartbeat` is when it was last heard of."""

    name: str
    heartbeat: int | None
    interval: int | None = None
    status: str = "ONLINE"

    def is_online(self, now: int) -> bool:
        """Return whether it lives.

        The server's own word may be old, for one of its background services says it.
        """
        if self.status != "ONLINE" or self.heartbeat is None:
            return False
        patience = (self.interval or _HEARTBEAT) * _MISSED_HEARTBEATS * NANOSECONDS
        return now - self.heartbeat <= patience


@dataclass(frozen=True, slots=True)
class Queue:
    """A work queue; `polled` is when a worker last asked for runs of it."""

    id: str
    name: str
    pool: str | None
    is_paused: bool = False
    limit: int | None = None
    polled: int | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """A work pool with its workers; `workers` is None if nobody has asked for them."""

    id: str
    name: str
    type: str
    is_paused: bool = False
    limit: int | None = None
    workers: tuple[Worker, ...] | None = None

    @property
    def needs_workers(self) -> bool:
        """Whether its runs wait for workers: those of Prefect Cloud's own pools do not."""
        return not self.type.endswith((":push", ":managed"))


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment.

    Attributes:
        id: Its id.
        name: ``flow/deployment``.
        is_paused: Whether its schedules are paused.
        limit: How many of its runs may be active at once.
        cancels_new: Whether a run that finds no slot is cancelled.
        polled: When a worker or a process that serves it last asked for runs.
        pool: Its work pool; without one, a process serves it.
        queue_id: Its work queue.
        schedules: Its active schedules, as the API writes them.
        next_planned: When its next planned run is to start.
        next_due: When its schedules say that the next run is to start.
    """

    id: str
    name: str
    is_paused: bool = False
    limit: Limit | None = None
    cancels_new: bool = False
    polled: int | None = None
    pool: str | None = None
    queue_id: str | None = None
    schedules: tuple[Mapping[str, object], ...] = ()
    next_planned: int | None = None
    next_due: int | None = None


@dataclass(frozen=True)
class Facts:
    """What the API said at one moment.

    Attributes:
        now: The moment, by the server's clock.
        runs: Runs by id: those asked for, those that take slots, and upstream ones.
        deployments: Deployments by id.
        pools: Work pools by name.
        queues: Work queues by id.
        limits: Global limits by name; those of tags are called ``tag:NAME``.
        task_workers: How many processes serve a background task, by its key.
    """

    now: int
    runs: Mapping[str, Run] = field(default_factory=dict)
    deployments: Mapping[str, Deployment] = field(default_factory=dict)
    pools: Mapping[str, Pool] = field(default_factory=dict)
    queues: Mapping[str, Queue] = field(default_factory=dict)
    limits: Mapping[str, Limit] = field(default_factory=dict)
    task_workers: Mapping[str, int] = field(default_factory=dict)

    def holding(self, *, pool: str | None = None, queue: str | None = None) -> tuple[Run, ...]:
        """Return the runs that take slots of a pool or of a queue, the oldest first."""
        if queue is not None:
            return self._by_queue.get(queue, ())
        return self._by_pool.get(pool, ())

    def active(self, deployment: str) -> tuple[Run, ...]:
        """Return the runs that take slots of a deployment, the oldest first."""
        return self._by_deployment.get(deployment, ())

    def held(self) -> Sequence[Run]:
        """Return the flow runs that are late, the earliest first, then the pending ones."""
        runs = [run for run in self.runs.values() if run.type == "flow"]
        late = [run for run in runs if run.is_late(self.now)]
        pending = [run for run in runs if run.state.type == "PENDING"]
        return sorted(late, key=lambda run: run.due or 0) + _oldest_first(pending)

    @cached_property
    def _by_pool(self) -> Mapping[str | None, tuple[Run, ...]]:
        return _grouped((run.pool, run) for run in self.runs.values() if run.holds_slots)

    @cached_property
    def _by_queue(self) -> Mapping[str | None, tuple[Run, ...]]:
        return _grouped((run.queue_id, run) for run in self.runs.values() if run.holds_slots)

    @cached_property
    def _by_deployment(self) -> Mapping[str | None, tuple[Run, ...]]:
        return _grouped((run.deployment_id, run) for run in self.runs.values() if run.holds_lease)


def _grouped(pairs: Iterable[tuple[str | None, Run]]) -> dict[str | None, tuple[Run, ...]]:
    found: dict[str | None, list[Run]] = {}
    for key, run in pairs:
        found.setdefault(key, []).append(run)
    return {key: tuple(_oldest_first(runs)) for key, runs in found.items()}


def _oldest_first(runs: Iterable[Run]) -> list[Run]:
    return sorted(runs, key=lambda run: run.state.time)
