"""Say why a run that should run does not: a pure function of what Prefect's API says.

Each rule knows one obstacle. It returns a reason if the run meets the obstacle, a sentence about
what is well if it does not, and None if the obstacle cannot concern this run. The rules stand in
the order in which a run meets the obstacles: what must go away first is the most important one.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from flowspan import semconv
from flowspan.text import human, moment
from flowspan.units import NANOSECONDS
from flowspan.watching.facts import POLLED_WITHIN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flowspan.watching.facts import Deployment, Facts, Limit, Pool, Queue, Run, Worker

_NAMED: Final = 3
"""How many runs a sentence names."""

_LATE_CREATION: Final = 10 * NANOSECONDS
_RAISE: Final = "Wait for one of these runs to end, or raise the limit:"


class Action(NamedTuple):
    """What somebody can do: a sentence, and the command that does it, if there is one."""

    text: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason why a run does not run.

    Attributes:
        code: The value of ``prefect.late.reason``.
        text: The reason, as part of a sentence.
        evidence: Sentences that prove it.
        data: The same for programs; moments are nanoseconds since the epoch.
        runs: The runs that are in the way.
        actions: What to do about it.
    """

    code: str
    text: str
    evidence: tuple[str, ...] = ()
    data: Mapping[str, object] | None = None
    runs: tuple[Run, ...] = ()
    actions: tuple[Action, ...] = ()


Finding: TypeAlias = "Reason | str | None"


def find(run: Run, facts: Facts) -> tuple[list[Reason], list[str]]:
    """Return the reasons why a run does not run, and sentences about what does not hold it."""
    found = [rule(run, facts) for rule in _rules_for(run)]
    reasons = [each for each in found if isinstance(each, Reason)]
    return reasons, [each for each in found if isinstance(each, str)]


def _rules_for(run: Run) -> Sequence[Callable[[Run, Facts], Finding]]:
    if run.type == "task":
        return _OF_TASKS
    if run.state.type != "PENDING":
        return _OF_LATE
    # Infrastructure that is there needs no worker any more; a run without it does.
    return _OF_PENDING if run.infrastructure else _OF_TAKEN


# What is paused


def _pool_paused(run: Run, facts: Facts) -> Finding:
    pool = _pool_of(run, facts)
    if pool is None:
        return None
    if not pool.is_paused:
        return f"work pool {pool.name!r} is not paused"
    return Reason(
        semconv.PAUSED,
        f"work pool {pool.name!r} is paused",
        ("Workers get no runs of a paused pool.",),
        {"paused": "work_pool", "work_pool": pool.name},
        actions=(Action("Resume it:", f"prefect work-pool resume {shlex.quote(pool.name)}"),),
    )


def _queue_paused(run: Run, facts: Facts) -> Finding:
    queue = _queue_of(run, facts)
    if queue is None:
        return None
    if not queue.is_paused:
        return f"work queue {queue.name!r} is not paused"
    return Reason(
        semconv.PAUSED,
        f"work queue {_full_name(queue)} is paused",
        ("Workers get no runs of a paused queue.",),
        {"paused": "work_queue", "work_pool": queue.pool, "work_queue": queue.name},
        actions=(
            Action(
                "Resume it:",
                f"prefect work-queue resume {shlex.quote(queue.name)}{_pool_option(queue)}",
            ),
        ),
    )


# Who would take the run


def _no_worker(run: Run, facts: Facts) -> Finding:
    pool = _pool_of(run, facts)
    if pool is None or pool.workers is None or not pool.needs_workers:
        return None
    online = [worker for worker in pool.workers if worker.is_online(facts.now)]
    if online:
        return _not_polled(run, pool, online, facts)
    last = max(pool.workers, key=lambda worker: worker.heartbeat or 0, default=None)
    since = last.heartbeat if last is not None else None
    return Reason(
        semconv.NO_WORKER,
        f"no worker of work pool {pool.name!r} is online",
        (_last_worker(last, pool, facts.now),),
        {
            "work_pool": pool.name,
            "online": 0,
            "last_worker": last and last.name,
            "last_heartbeat": since,
        },
        actions=(Action("Start one:", _worker_command(pool.name)),),
    )


def _not_polled(run: Run, pool: Pool, online: Sequence[Worker], facts: Facts) -> Finding:
    """Check that one of the workers that are online asks for runs of the run's queue."""
    fine = f"{_count(len(online), 'worker')} online in work pool {pool.name!r}"
    queue = _queue_of(run, facts)
    if queue is None or pool.is_paused or queue.is_paused or not _is_abandoned(queue, facts):
        return fine
    said = f"no worker takes runs of work queue {_full_name(queue)}"
    names = ", ".join(repr(worker.name) for worker in online[:_NAMED])
    polled = (
        f"The queue was last polled {_ago(queue.polled, facts.now)}."
        if queue.polled is not None
        else "The queue has never been polled."
    )
    return Reason(
        semconv.NO_WORKER,
        said,
        (polled, f"Online in the pool: {names}. Each may be limited to other queues."),
        {
            "work_pool": pool.name,
            "work_queue": queue.name,
            "online": len(online),
            "last_polled": queue.polled,
        },
        actions=(Action("Start one for this queue:", _worker_command(pool.name, queue.name)),),
    )


def _is_abandoned(queue: Queue, facts: Facts) -> bool:
    """Return whether nobody polls a queue, as far as the server notes who polls."""
    if queue.polled is None:
        others = (other for other in facts.queues.values() if other.pool == queue.pool)
        return any(_is_recent(other.polled, facts.now) for other in others)
    return not _is_recent(queue.polled, facts.now)


def _not_served(run: Run, facts: Facts) -> Finding:
    """Check that a process serves a deployment that has no work pool."""
    deployment = _deployment_of(run, facts)
    if deployment is None or run.pool is not None:
        return None
    if deployment.pool is None and _is_recent(deployment.polled, facts.now):
        return f"a process serves {deployment.name!r}"
    polled = (
        f"It was last asked for runs {_ago(deployment.polled, facts.now)}."
        if deployment.polled is not None
        else "Nobody has ever asked for its runs."
    )
    return Reason(
        semconv.NO_WORKER,
        f"no process serves deployment {deployment.name!r}",
        ("The run has no work pool, so a process must serve it.", polled),
        {"deployment": deployment.name, "online": 0, "last_polled": deployment.polled},
        actions=(Action("Start the script that calls serve(), or deploy it to a work pool."),),
    )


def _no_task_worker(run: Run, facts: Facts) -> Finding:
    """Check that a process serves a background task."""
    if run.flow_run_id is not None or run.state.type != "SCHEDULED":
        return None
    serving = facts.task_workers.get(run.key)
    if serving is None:
        return None
    if serving:
        return f"{_count(serving, 'process')} of the background task online"
    return Reason(
        semconv.NO_WORKER,
        f"no process serves the background task {run.of!r}",
        (),
        {"task_key": run.key, "online": 0},
        actions=(Action("Start the script that calls serve() with this task."),),
    )


# Slots


class _Slots(NamedTuple):
    """The slots of a pool or queue, the runs that take them, and the command to have one more."""

    what: str
    limit: int
    holding: tuple[Run, ...]
    data: dict[str, object]
    command: str


def _pool_full(run: Run, facts: Facts) -> Finding:
    pool = _pool_of(run, facts)
    if pool is None or pool.limit is None:
        return None
    slots = _Slots(
        f"work pool {pool.name!r}",
        pool.limit,
        facts.holding(pool=pool.name),
        {"work_pool": pool.name},
        f"prefect work-pool set-concurrency-limit {shlex.quote(pool.name)} {pool.limit + 1}",
    )
    return _check_slots(semconv.POOL_FULL, slots, facts.now)


def _queue_full(run: Run, facts: Facts) -> Finding:
    queue = _queue_of(run, facts)
    if queue is None or queue.limit is None:
        return None
    command = f"prefect work-queue set-concurrency-limit {shlex.quote(queue.name)}"
    slots = _Slots(
        f"work queue {_full_name(queue)}",
        queue.limit,
        facts.holding(queue=queue.id),
        {"work_pool": queue.pool, "work_queue": queue.name},
        f"{command} {queue.limit + 1}{_pool_option(queue)}",
    )
    return _check_slots(semconv.QUEUE_FULL, slots, facts.now)


def _check_slots(code: str, slots: _Slots, now: int) -> Finding:
    used, limit = len(slots.holding), slots.limit
    if used < limit:
        return f"{used:,} of {_count(limit, 'slot')} of {slots.what} used"
    return Reason(
        code,
        _no_slot(slots.what, used, limit),
        _holders(slots.holding, now),
        {**slots.data, "limit": limit, "used": used},
        slots.holding,
        (Action(_RAISE, slots.command),),
    )


def _no_slot(what: str, used: int, limit: int) -> str:
    return (
        f"all slots of {what} are taken ({used:,} of {limit:,})" if limit else f"{what} has limit 0"
    )


def _deployment_limit(run: Run, facts: Facts) -> Finding:
    deployment = _deployment_of(run, facts)
    if deployment is None:
        return None
    limit, waits = deployment.limit, run.state.name == "AwaitingConcurrencySlot"
    if limit is None:
        return f"deployment {deployment.name!r} has no limit"
    if not waits and not limit.is_full:
        of = _count(limit.limit, "slot")
        return f"{limit.used:,} of {of} of deployment {deployment.name!r} used"
    holding = facts.active(deployment.id)
    return Reason(
        semconv.DEPLOYMENT_LIMIT,
        _no_slot(f"deployment {deployment.name!r}", limit.used, limit.limit)
        if limit.is_full
        else f"deployment {deployment.name!r} had no slot when it was tried last",
        (*_holders(holding, facts.now), *_leases(limit, holding), *_next_try(run, facts.now)),
        {
            "deployment": deployment.name,
            "limit": limit.limit,
            "used": limit.used,
            "next_try": run.state.scheduled if waits else None,
        },
        holding,
        (_raise(limit),),
    )


def _raise(limit: Limit) -> Action:
    return Action(_RAISE, f"prefect gcl update {shlex.quote(limit.name)} --limit {limit.limit + 1}")


def _leases(limit: Limit, holding: Sequence[Run]) -> tuple[str, ...]:
    gone = min(limit.used, limit.limit) - len(holding)
    if gone <= 0:
        return ()
    said = (
        f"{_count(gone, 'slot')} taken by runs that are over or were killed: the server frees such "
        "slots when their leases expire, after five minutes by default."
    )
    return (said,)


def _next_try(run: Run, now: int) -> tuple[str, ...]:
    if run.state.name != "AwaitingConcurrencySlot" or run.state.scheduled is None:
        return ()
    if run.state.scheduled <= now:
        return ("A worker may try again now.",)
    return (f"It is tried again in {human(run.state.scheduled - now)}.",)


def _tag_limit(run: Run, facts: Facts) -> Finding:
    names = [f"tag:{tag}" for tag in run.tags]
    limits = [facts.limits[name] for name in names if name in facts.limits]
    if not limits:
        return "none of its tags has a limit" if run.tags else None
    full = [limit for limit in limits if limit.is_full and run.id not in limit.holders]
    if not full:
        used = ", ".join(f"{_tag(each)!r} {each.used:,} of {each.limit:,}" for each in limits)
        return f"slots of its tags used: {used} (who waits for one asks every 30 seconds)"
    limit = full[0]
    holding = [facts.runs[holder] for holder in limit.holders if holder in facts.runs]
    return Reason(
        semconv.TAG_LIMIT,
        _no_slot(f"tag {_tag(limit)!r}", limit.used, limit.limit),
        _holders(holding, facts.now),
        {"tag": _tag(limit), "limit": limit.limit, "used": limit.used},
        tuple(holding),
        (_raise(limit),),
    )


def _tag(limit: Limit) -> str:
    return limit.name.removeprefix("tag:")


# Infrastructure, upstream runs, the server itself


def _infrastructure(run: Run, facts: Facts) -> Finding:
    if run.deployment_id is None:
        return None
    made = (
        f"The worker made {run.infrastructure!r} for it."
        if run.infrastructure
        else "The worker has not said yet what it made for it."
    )
    return Reason(
        semconv.INFRASTRUCTURE,
        f"its infrastructure has been in the making for {human(facts.now - run.state.time)}",
        (f"The run was taken up at {moment(run.state.time)} and is {run.state.name}.", made),
        {
            "since": run.state.time,
            "seconds": _seconds(facts.now - run.state.time),
            "infrastructure": run.infrastructure,
            "work_pool": run.pool,
        },
        actions=(Action("If it takes longer than usual, read the worker's log."),),
    )


def _upstream(run: Run, facts: Facts) -> Finding:
    if not run.upstream:
        return None
    known = [facts.runs[each] for each in run.upstream if each in facts.runs]
    waiting = [each for each in known if not each.is_over]
    if not waiting:
        return f"{_count(len(known), 'upstream run')} over"
    first = waiting[0]
    return Reason(
        semconv.UPSTREAM,
        f"it waits for {_count(len(waiting), 'upstream run')}"
        + ("" if len(waiting) > 1 else f", {first.name!r}"),
        _holders(waiting, facts.now),
        {"unfinished": len(waiting), "upstream": len(run.upstream)},
        tuple(waiting),
        (Action("Ask why that run is not over:", f"flowspan why {first.id}"),),
    )


def _made_late(run: Run, _: Facts) -> Finding:
    """Check that the scheduler made the run before its time."""
    if not run.is_scheduled_by_server or run.expected is None:
        return None
    delay = run.created - run.expected
    if delay < _LATE_CREATION:
        return "the scheduler made the run before its time"
    return Reason(
        semconv.SCHEDULER_BEHIND,
        f"the scheduler made the run {human(delay)} after its time",
        (f"It was to start at {moment(run.expected)}, and was made at {moment(run.created)}.",),
        {"expected": run.expected, "created": run.created, "seconds": _seconds(delay)},
        actions=(Action("Check that the background services of Prefect's server keep up."),),
    )


_OF_LATE: Final = (
    _pool_paused,
    _queue_paused,
    _no_worker,
    _not_served,
    _pool_full,
    _queue_full,
    _deployment_limit,
    _made_late,
)
_OF_PENDING: Final = (_upstream, _infrastructure, _no_worker)
_OF_TAKEN: Final = (_upstream, _no_worker, _infrastructure)
_OF_TASKS: Final = (_no_task_worker, _upstream, _tag_limit)


# Words


def _pool_of(run: Run, facts: Facts) -> Pool | None:
    return facts.pools.get(run.pool) if run.pool is not None else None


def _queue_of(run: Run, facts: Facts) -> Queue | None:
    return facts.queues.get(run.queue_id) if run.queue_id is not None else None


def _deployment_of(run: Run, facts: Facts) -> Deployment | None:
    return facts.deployments.get(run.deployment_id) if run.deployment_id is not None else None


def _full_name(queue: Queue) -> str:
    return repr(f"{queue.pool}/{queue.name}" if queue.pool else queue.name)


def _pool_option(queue: Queue) -> str:
    return f" --pool {shlex.quote(queue.pool)}" if queue.pool else ""


def _worker_command(pool: str, queue: str | None = None) -> str:
    only = f" --work-queue {shlex.quote(queue)}" if queue is not None else ""
    return f"prefect worker start --pool {shlex.quote(pool)}{only}"


def _last_worker(last: Worker | None, pool: Pool, now: int) -> str:
    if last is None:
        return f"No worker has ever been online in it (it has type {pool.type!r})."
    if last.heartbeat is None:
        return f"Its last worker, {last.name!r}, has never sent a heartbeat."
    return f"The last one, {last.name!r}, was last heard of {_ago(last.heartbeat, now)}."


def _holders(runs: Sequence[Run], now: int) -> tuple[str, ...]:
    """Name the first few runs, with their states and since when they have them."""
    said = [
        f"{run.name!r} ({run.of}) has been {run.state.name} for {human(now - run.state.time)}."
        for run in runs[:_NAMED]
    ]
    if len(runs) > _NAMED:
        said.append(f"There are {len(runs) - _NAMED:,} more.")
    return tuple(said)


def _is_recent(polled: int | None, now: int) -> bool:
    return polled is not None and now - polled <= POLLED_WITHIN


def _ago(time: int | None, now: int) -> str:
    return "never" if time is None else f"{human(now - time)} ago, at {moment(time)}"


def _count(number: int, what: str) -> str:
    """Write a count: ``1 worker``, ``2 processes``."""
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{number:,} {what if number == 1 else plural}"


def _seconds(nanoseconds: int) -> float:
    return round(nanoseconds / NANOSECONDS, 3)
