"""Why a run does not run, as a function of what the API says, for what is hard to bring about."""

from dataclasses import replace
from typing import Any

import pytest

from flowspan import semconv
from flowspan.watching.explanation import Explanation, explain, explain_deployment, explain_held
from flowspan.watching.facts import Deployment, Facts, Limit, Pool, Queue, Run, State, Worker

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
NOW = 1_800_000_000 * SECOND

QUEUE = Queue("q", "default", "pool", polled=NOW - 5 * SECOND)
WORKER = Worker("w", NOW - 10 * SECOND, 30)
POOL = Pool("p", "pool", "process", workers=(WORKER,))
DEPLOYMENT = Deployment("d", "etl/nightly", pool="pool", queue_id="q", polled=NOW - 5 * SECOND)


def state(name: str, kind: str = "", ago: int = MINUTE, **more: Any) -> State:
    return State(kind or name.upper(), name, NOW - ago, **more)


LATE = Run(
    id="r",
    name="late-run",
    type="flow",
    of="etl",
    state=state("Late", "SCHEDULED", scheduled=NOW - 5 * MINUTE),
    created=NOW - 60 * MINUTE,
    expected=NOW - 5 * MINUTE,
    deployment_id="d",
    pool="pool",
    queue_id="q",
)
OTHER = replace(LATE, id="o", name="other-run", state=state("Running"))


def facts(*runs: Run, **changed: Any) -> Facts:
    """Return facts in which nothing holds a run, except for what has changed."""
    found: dict[str, Any] = {
        "deployments": {"d": DEPLOYMENT},
        "pools": {"pool": POOL},
        "queues": {"q": QUEUE},
        **changed,
    }
    return Facts(NOW, {run.id: run for run in runs}, **found)


def codes(found: Explanation) -> list[str]:
    return [reason.code for reason in found.reasons]


def test_nothing_that_the_api_shows() -> None:
    """If nothing explains it, the answer says so, what was checked, and where to look next."""
    found = explain(LATE, facts(LATE))
    assert found.status == "late"
    assert codes(found) == []
    assert found.code is None
    assert "5 m 00 s late, and nothing that the API shows holds it" in found.answer
    assert "1 worker online in work pool 'pool'" in found.checked
    assert "work queue 'default' is not paused" in found.checked
    assert "worker's log" in found.actions[0].text


def test_a_worker_that_is_called_online_but_silent() -> None:
    """A worker whose heartbeats have stopped is not online, whatever the server says."""
    silent = replace(WORKER, heartbeat=NOW - 91 * SECOND)
    found = explain(LATE, facts(LATE, pools={"pool": replace(POOL, workers=(silent,))}))
    assert codes(found) == [semconv.NO_WORKER]
    assert "'w', was last heard of 1 m 31 s ago" in found.reasons[0].evidence[0]
    assert found.reasons[0].data is not None
    assert found.reasons[0].data["last_heartbeat"] == NOW - 91 * SECOND
    assert found.reasons[0].actions[0].command == "prefect worker start --pool pool"
    alive = replace(WORKER, heartbeat=NOW - 89 * SECOND)
    assert codes(explain(LATE, facts(LATE, pools={"pool": replace(POOL, workers=(alive,))}))) == []


def test_a_slow_heartbeat_is_patiently_awaited() -> None:
    """A worker may be silent for three of its own intervals."""
    slow = replace(WORKER, heartbeat=NOW - 4 * MINUTE, interval=120)
    assert codes(explain(LATE, facts(LATE, pools={"pool": replace(POOL, workers=(slow,))}))) == []


@pytest.mark.parametrize("polled", [None, NOW - 61 * SECOND])
def test_a_queue_that_no_worker_polls(polled: int | None) -> None:
    """If the workers that are online take other queues only, the reason names the queue."""
    queues = {"q": replace(QUEUE, name="vip", polled=polled), "other": QUEUE}
    found = explain(LATE, facts(LATE, queues=queues))
    assert codes(found) == [semconv.NO_WORKER]
    assert "no worker takes runs of work queue 'pool/vip'" in found.answer
    assert found.reasons[0].actions[0].command.endswith("--pool pool --work-queue vip")


def test_a_server_that_notes_no_polls() -> None:
    """If no queue of the pool was ever polled, the server does not note it: that proves nothing."""
    queues = {"q": replace(QUEUE, polled=None)}
    assert codes(explain(LATE, facts(LATE, queues=queues))) == []


@pytest.mark.parametrize("kind", ["prefect:managed", "ecs:push"])
def test_pools_of_prefect_cloud_need_no_workers(kind: str) -> None:
    """Nobody waits for workers in a pool that starts runs by itself."""
    pool = Pool("p", "pool", kind)
    assert codes(explain(LATE, facts(LATE, pools={"pool": pool}))) == []


def test_the_first_obstacle_is_the_first_reason() -> None:
    """A run meets a pause before the absence of workers, and slots after both."""
    pool = replace(POOL, is_paused=True, workers=(), limit=1)
    queue = replace(QUEUE, limit=1, is_paused=True)
    limit = Limit("deployment:d", 1, 1)
    found = explain(
        LATE,
        facts(
            LATE,
            OTHER,
            pools={"pool": pool},
            queues={"q": queue},
            deployments={"d": replace(DEPLOYMENT, limit=limit)},
        ),
    )
    assert codes(found) == [
        semconv.PAUSED,
        semconv.PAUSED,
        semconv.NO_WORKER,
        semconv.POOL_FULL,
        semconv.QUEUE_FULL,
        semconv.DEPLOYMENT_LIMIT,
    ]
    assert found.code == semconv.PAUSED
    for reason in found.reasons[3:]:
        assert [run.name for run in reason.runs] == ["other-run"]
        assert "'other-run' (etl) has been Running for 1 m 00 s." in reason.evidence


def test_many_runs_in_the_way() -> None:
    """Sentences name a few runs, the oldest first; the data has all."""
    others = [
        replace(OTHER, id=f"o{n}", name=f"o{n}", state=state("Running", ago=n * MINUTE))
        for n in range(1, 6)
    ]
    found = explain(LATE, facts(LATE, *others, pools={"pool": replace(POOL, limit=5)}))
    (reason,) = found.reasons
    assert [run.name for run in reason.runs] == ["o5", "o4", "o3", "o2", "o1"]
    assert reason.evidence[-1] == "There are 2 more."
    assert reason.data == {"work_pool": "pool", "limit": 5, "used": 5}


def test_a_limit_of_zero() -> None:
    """A limit of 0 is said to be one."""
    found = explain(LATE, facts(LATE, pools={"pool": replace(POOL, limit=0)}))
    assert "work pool 'pool' has limit 0" in found.answer


def test_slots_of_runs_that_are_gone() -> None:
    """A slot that no run accounts for is a lease that has not expired yet."""
    limited = replace(DEPLOYMENT, limit=Limit("deployment:d", 2, 2))
    found = explain(LATE, facts(LATE, OTHER, deployments={"d": limited}))
    assert codes(found) == [semconv.DEPLOYMENT_LIMIT]
    assert "1 slot taken by runs that are over or were killed" in " ".join(
        found.reasons[0].evidence
    )


def test_a_run_that_was_sent_back_for_a_slot() -> None:
    """A run that awaits a slot is late since its own time, and the next try is told."""
    waits = replace(
        LATE, state=state("AwaitingConcurrencySlot", "SCHEDULED", scheduled=NOW + 20 * SECOND)
    )
    limited = replace(DEPLOYMENT, limit=Limit("deployment:d", 1, 1))
    found = explain(waits, facts(waits, OTHER, deployments={"d": limited}))
    assert found.status == "late"
    assert found.code == semconv.DEPLOYMENT_LIMIT
    assert "It is tried again in 20.0 s." in found.reasons[0].evidence
    freed = replace(DEPLOYMENT, limit=Limit("deployment:d", 1, 0))
    found = explain(waits, facts(waits, deployments={"d": freed}))
    assert "had no slot when it was tried last" in found.answer


def test_limits_that_are_switched_off() -> None:
    """A limit that is not active holds nobody."""
    off = replace(DEPLOYMENT, limit=Limit("deployment:d", 1, 1, is_active=False))
    assert codes(explain(LATE, facts(LATE, deployments={"d": off}))) == []


def test_a_run_that_the_scheduler_made_late() -> None:
    """A scheduled run that was made after its time says so."""
    made = replace(LATE, is_scheduled_by_server=True, created=NOW - 3 * MINUTE)
    found = explain(made, facts(made))
    assert codes(found) == [semconv.SCHEDULER_BEHIND]
    assert "made the run 2 m 00 s after its time" in found.answer


def test_pending_and_no_worker_is_left() -> None:
    """A worker that is gone is the first reason, unless it has made the infrastructure."""
    pending = replace(LATE, state=state("Pending"))
    gone = {"pool": replace(POOL, workers=())}
    found = explain(pending, facts(pending, pools=gone))
    assert codes(found) == [semconv.NO_WORKER, semconv.INFRASTRUCTURE]
    made = replace(pending, infrastructure="ns:job")
    found = explain(made, facts(made, pools=gone))
    assert codes(found) == [semconv.INFRASTRUCTURE, semconv.NO_WORKER]
    assert "The worker made 'ns:job' for it." in found.reasons[0].evidence


def test_a_served_deployment() -> None:
    """Without a work pool, a process must serve the deployment."""
    run = replace(LATE, pool=None, queue_id=None)
    served = replace(DEPLOYMENT, pool=None, queue_id=None)
    assert codes(explain(run, facts(run, deployments={"d": served}))) == []
    left = replace(served, polled=NOW - 10 * MINUTE)
    found = explain(run, facts(run, deployments={"d": left}))
    assert codes(found) == [semconv.NO_WORKER]
    assert "last asked for runs 10 m 00 s ago" in " ".join(found.reasons[0].evidence)


def test_a_run_without_a_deployment() -> None:
    """Only the process that made such a run can start it."""
    run = replace(LATE, deployment_id=None, pool=None, queue_id=None)
    found = explain(run, facts(run))
    assert codes(found) == []
    assert "only the process that made it" in found.actions[0].text


def test_a_server_without_services() -> None:
    """A run that is long overdue and not marked Late shows that the services do not run."""
    run = replace(LATE, state=state("Scheduled", "SCHEDULED", scheduled=NOW - 5 * MINUTE))
    assert "background services" in " ".join(explain(run, facts(run)).remarks)
    assert explain(LATE, facts(LATE)).remarks == ()


def test_a_run_that_is_not_due() -> None:
    """A run of the future says when, and what would hold it as things are."""
    run = replace(LATE, state=state("Scheduled", "SCHEDULED", scheduled=NOW + 2 * MINUTE))
    found = explain(run, facts(run))
    assert found.status == "scheduled"
    assert "is to start in 2 m 00 s" in found.answer
    held = explain(run, facts(run, pools={"pool": replace(POOL, is_paused=True)}))
    assert "as things are, work pool 'pool' is paused" in held.answer
    assert codes(held) == [semconv.PAUSED]
    assert held.code is None


def test_a_run_that_became_due_just_now() -> None:
    """Right after its time, a run is not late yet."""
    run = replace(LATE, state=state("Scheduled", "SCHEDULED", scheduled=NOW - 3 * SECOND))
    found = explain(run, facts(run))
    assert found.status == "due"
    assert "3.00 s past its time" in found.answer
    assert "wait a moment" in found.actions[0].text


@pytest.mark.parametrize(
    ("given", "status", "said"),
    [
        (state("Running"), "running", "is running: it has been Running for 1 m 00 s"),
        (state("Completed"), "over", "is over: Completed, 1 m 00 s ago"),
        (state("Crashed", message="killed"), "over", "is over: Crashed"),
        (state("Paused"), "paused", "has been Paused for 1 m 00 s, until it is resumed"),
        (state("Suspended", "PAUSED"), "paused", "has been Suspended for 1 m 00 s"),
        (state("Cancelling"), "cancelling", "is being cancelled"),
        (
            state("AwaitingRetry", "SCHEDULED", scheduled=NOW + MINUTE),
            "retry",
            "waits for its next attempt, in 1 m 00 s; it has run 1 time",
        ),
        (
            state("AwaitingRetry", "SCHEDULED", scheduled=NOW - MINUTE),
            "retry",
            "should have been retried 1 m 00 s ago",
        ),
    ],
)
def test_what_it_does_instead(given: State, status: str, said: str) -> None:
    """A run that is not held gets a true answer, and no reason."""
    run = replace(LATE, state=given, count=1)
    found = explain(run, facts(run))
    assert found.status == status
    assert said in found.answer
    assert found.code is None
    assert bool(given.message) == any("Prefect says: killed" in each for each in found.remarks)


def test_a_pause_that_ends() -> None:
    """A pause says how to resume the run, and when it fails otherwise."""
    run = replace(LATE, state=state("Paused", pause_until=NOW + MINUTE))
    found = explain(run, facts(run))
    assert found.actions[0].command == "prefect flow-run resume r"
    assert "within 1 m 00 s" in " ".join(found.remarks)


TASK = Run(
    id="t",
    name="load-1",
    type="task",
    of="load",
    state=state("Pending"),
    tags=("db",),
    flow_run_id="o",
    key="load-12345678",
)


def test_a_task_run_that_has_its_slot() -> None:
    """Who holds a slot of a full tag does not wait for one."""
    limit = Limit("tag:db", 1, 1, holders=("t",))
    found = explain(TASK, facts(TASK, OTHER, limits={"tag:db": limit}))
    assert codes(found) == []
    assert "'db' 1 of 1" in " ".join(found.checked)


def test_a_task_run_whose_flow_run_is_over() -> None:
    """Nobody runs a task run any more whose flow run is over."""
    over = replace(OTHER, state=state("Crashed"))
    found = explain(TASK, facts(TASK, over))
    assert found.status == "over"
    assert "will never run: its flow run 'other-run' is over" in found.answer


def test_a_background_task() -> None:
    """A background task waits for a process that serves it."""
    run = replace(TASK, flow_run_id=None, state=state("Scheduled", "SCHEDULED"))
    run = replace(run, expected=NOW - MINUTE)
    assert codes(explain(run, facts(run, task_workers={run.key: 1}))) == []
    found = explain(run, facts(run, task_workers={run.key: 0}))
    assert codes(found) == [semconv.NO_WORKER]


def test_a_deployment_whose_next_run_is_not_planned() -> None:
    """A schedule without a planned run shows that the scheduler is behind, unless it is far off."""
    hourly = replace(DEPLOYMENT, schedules=({"interval": 3600},), next_due=NOW + 30 * MINUTE)
    found = explain_deployment(hourly, facts())
    assert (found.status, found.code) == ("late", semconv.SCHEDULER_BEHIND)
    planned = replace(hourly, next_planned=NOW + 30 * MINUTE)
    assert explain_deployment(planned, facts()).code is None
    yearly = replace(hourly, next_due=NOW + 8 * 24 * 60 * MINUTE)
    assert explain_deployment(yearly, facts()).code is None
    paused = replace(hourly, is_paused=True)
    assert explain_deployment(paused, facts()).code == semconv.PAUSED
    manual = replace(DEPLOYMENT, is_paused=True)
    held = explain_held(facts(deployments={"h": hourly, "p": planned, "x": paused, "m": manual}))
    assert [(each.status, each.code) for each in held] == [
        ("late", semconv.SCHEDULER_BEHIND),
        ("paused", semconv.PAUSED),
    ]


def test_the_server_clock_alone_counts() -> None:
    """All times are measured against the moment of the facts, not against our clock."""
    found = explain(LATE, replace(facts(LATE), now=NOW + 60 * MINUTE))
    assert "1 h 05 m late: no worker" in found.answer
