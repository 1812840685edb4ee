"""Real runs that do not run: each answer names what holds them, and the gauges agree."""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled, Scheduled
from typer.testing import CliRunner, Result

from commands import flowspan
from flowspan import semconv
from flowspan.cli.main import app
from flowspan.watching.api import Api
from flowspan.watching.explanation import Explanation
from flowspan.watching.inquiry import explain_all, explain_one
from flowspan.watching.names import NameCache
from flowspan.watching.pools import PoolGauges
from processes import FLOWS, PREFECT, background, environment, eventually, run_script
from running import Running, free_ports, running
from support import RecordedMetrics, attributes
from watched import WATCH, spans_of, watch_environment

pytestmark = pytest.mark.usefixtures("prefect_server")

AGO = timedelta(minutes=90, seconds=30)


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as found:
        yield found


def pool(client: SyncPrefectClient, name: str, **more: Any) -> str:
    client.create_work_pool(WorkPoolCreate(name=name, type="process", **more))
    return name


def deploy(flow: str, pool: str, name: str | None = None, **more: Any) -> UUID:
    """Deploy a flow to a pool, with the pool's name."""
    source: Any = Flow.from_source(source=str(FLOWS), entrypoint=f"held.py:{flow}")
    found: UUID = source.deploy(name or pool, work_pool_name=pool, print_next_steps=False, **more)
    return found


def overdue(client: SyncPrefectClient, deployment: UUID, by: timedelta = AGO) -> FlowRun:
    """Make a run of a deployment that was to start a while ago."""
    due = datetime.now(timezone.utc) - by
    return client.create_flow_run_from_deployment(deployment, state=Scheduled(scheduled_time=due))


def asked(wanted: object) -> Explanation:
    """Return the answer for one run."""

    async def ask() -> list[Explanation]:
        async with Api() as api:
            return await explain_one(api, str(wanted))

    (found, *_) = asyncio.run(ask())
    return found


def because(wanted: object, code: str) -> Callable[[], Explanation | None]:
    """Return a check that a run does not run for this reason above all."""

    def check() -> Explanation | None:
        found = asked(wanted)
        return found if found.code == code else None

    return check


def evidence(found: Explanation) -> str:
    return " ".join([found.answer, *found.reasons[0].evidence])


def beat(client: SyncPrefectClient, pool: str) -> None:
    """Say that a worker is online, as workers do."""
    client._client.post(f"/work_pools/{pool}/workers/heartbeat", json={"name": "beating"})


def test_no_worker(client: SyncPrefectClient) -> None:
    """Without a worker, the answer names the pool, and how to start one."""
    deployment = deploy("quick", pool(client, "workerless"))
    run = overdue(client, deployment)
    found = asked(run.id)
    assert found.status == "late"
    assert found.code == semconv.NO_WORKER
    assert "no worker of work pool 'workerless' is online" in found.answer
    assert "1 h 30 m late" in found.answer
    assert "No worker has ever been online" in evidence(found)
    assert found.reasons[0].actions[0].command == "prefect worker start --pool workerless"
    beat(client, "workerless")
    assert asked(run.id).reasons == ()


def test_what_is_paused(client: SyncPrefectClient) -> None:
    """A paused pool, queue or deployment is named."""
    deployment = deploy("quick", pool(client, "pausing"), work_queue_name="vip", interval=3600)
    beat(client, "pausing")
    run = overdue(client, deployment)
    client.update_work_pool("pausing", WorkPoolUpdate(is_paused=True))
    assert asked(run.id).code == semconv.PAUSED
    assert "work pool 'pausing' is paused" in asked(run.id).answer
    client.update_work_pool("pausing", WorkPoolUpdate(is_paused=False))
    client._client.patch("/work_pools/pausing/queues/vip", json={"is_paused": True})
    found = asked(run.name)
    assert found.code == semconv.PAUSED
    assert "work queue 'pausing/vip' is paused" in found.answer
    assert found.reasons[0].actions[0].command == "prefect work-queue resume vip --pool pausing"
    client._client.patch("/work_pools/pausing/queues/vip", json={"is_paused": False})
    client._client.post(f"/deployments/{deployment}/pause_deployment")
    assert asked(run.id).code is None, "a paused deployment does not hold a run that exists"
    assert "Deployment 'quick/pausing' is paused" in " ".join(asked(run.id).remarks)
    client.delete_flow_run(run.id)
    paused = asked("quick/pausing")
    assert (paused.status, paused.code) == ("paused", semconv.PAUSED)


def test_full_slots(client: SyncPrefectClient, tmp_path: Path) -> None:
    """Runs of a real worker take the slots of a deployment, a queue and a pool, one by one."""
    deployment = deploy("lasting", pool(client, "narrow"), concurrency_limit=1)
    with ExitStack() as stack:
        stack.enter_context(
            background(
                *(*PREFECT, "worker", "start", "--pool", "narrow"),
                env=environment(tmp_path),
                log=tmp_path / "worker.log",
            )
        )
        first = client.create_flow_run_from_deployment(deployment)
        eventually(lambda: asked(first.id).status == "running", "the first run")
        assert asked("lasting/narrow").status == "running"
        second = overdue(client, deployment)
        found = eventually(because(second.id, semconv.DEPLOYMENT_LIMIT), "the deployment's limit")
        assert first.name in evidence(found)
        assert [run.id for run in found.reasons[0].runs] == [str(first.id)]
        eventually(lambda: _state(client, second) == "AwaitingConcurrencySlot", "the rejection")
        found = asked(second.id)
        assert (found.status, found.code) == ("late", semconv.DEPLOYMENT_LIMIT)
        client._client.patch("/work_pools/narrow/queues/default", json={"concurrency_limit": 1})
        third = overdue(client, deploy("quick", "narrow", "queued"))
        found = asked(third.id)
        assert found.code == semconv.QUEUE_FULL
        assert f"'{first.name}' (lasting) has been Running" in evidence(found)
        client.update_work_pool("narrow", WorkPoolUpdate(concurrency_limit=1))
        found = asked(third.id)
        assert [reason.code for reason in found.reasons] == [semconv.POOL_FULL, semconv.QUEUE_FULL]
        assert found.reasons[0].data == {"work_pool": "narrow", "limit": 1, "used": 1}
        asyncio.run(_compare_gauges(client, "narrow"))


def _state(client: SyncPrefectClient, run: FlowRun) -> str | None:
    state = client.read_flow_run(run.id).state
    return None if state is None else state.name


async def _compare_gauges(client: SyncPrefectClient, pool: str) -> None:
    """Assert that the gauges show what the API does, and 0 for what is gone."""
    recorded = RecordedMetrics()
    async with Api() as api:
        gauges = PoolGauges(api, NameCache(api), recorded.provider)
        assert recorded.all == {}, "there is nothing to show yet"
        await gauges.observe()
        _assert_shown(client, pool, gauges, recorded)
        await gauges.observe()
    late = values(recorded, semconv.METRIC_LATE, {semconv.WORK_POOL_NAME: pool})
    assert {*late.values()} == {0}


def _assert_shown(
    client: SyncPrefectClient, pool: str, gauges: PoolGauges, recorded: RecordedMetrics
) -> None:
    """Compare with the API, and delete the runs that are late."""
    body = {"work_pools": {"name": {"any_": [pool]}}}
    late = {"state": {"type": {"any_": ["SCHEDULED"]}}}
    runs = client._client.post("/flow_runs/filter", json={**body, "flow_runs": late}).json()
    assert len(runs) == 2
    of_pool = {semconv.WORK_POOL_NAME: pool}
    shown = values(recorded, semconv.METRIC_LATE, of_pool)
    assert sum(shown.values()) == len(runs)
    reasons = {dict(key)[semconv.LATE_REASON] for key in shown}
    assert reasons == {semconv.POOL_FULL}
    assert gauges.reason_of(runs[0]["id"]) == semconv.POOL_FULL
    assert [*values(recorded, semconv.METRIC_WORKERS, of_pool).values()] == [1]
    for kind, name in (
        ("work_pool", pool),
        ("work_queue", f"{pool}/default"),
        ("deployment", "lasting/narrow"),
    ):
        about = {semconv.LIMIT_TYPE: kind, semconv.LIMIT_NAME: name}
        slots = values(recorded, semconv.METRIC_SLOTS, about)
        assert {dict(key)[semconv.SLOT_STATE]: value for key, value in slots.items()} == {
            semconv.SLOTS_USED: 1,
            semconv.SLOTS_LIMIT: 1,
        }
    (age,) = values(recorded, semconv.METRIC_AGE, {semconv.FLOW_NAME: "lasting"}).values()
    assert 0 < age < 3600
    for run in runs:
        client.delete_flow_run(UUID(run["id"]))


async def _observe() -> RecordedMetrics:
    recorded = RecordedMetrics()
    async with Api() as api:
        await PoolGauges(api, NameCache(api), recorded.provider).observe()
    return recorded


def values(recorded: RecordedMetrics, metric: str, wanted: dict[str, str]) -> dict[Any, float]:
    """Return the values of the series with these attributes."""
    return {
        frozenset(point.attributes.items()): point.value
        for point in recorded.points(metric)
        if wanted.items() <= point.attributes.items()
    }


def test_infrastructure_in_the_making(client: SyncPrefectClient, tmp_path: Path) -> None:
    """A run whose process takes long to start says since when it is made, and as what."""
    slow = {"command": f"{sys.executable} -c 'import time; time.sleep(600)'"}
    deployment = deploy("quick", pool(client, "slow-start"), job_variables=slow)
    env = environment(tmp_path)
    command = (*PREFECT, "worker", "start", "--pool", "slow-start")
    with background(*command, env=env, log=tmp_path / "worker.log"):
        run = client.create_flow_run_from_deployment(deployment)
        found = eventually(because(run.id, semconv.INFRASTRUCTURE), "the pending state")
        assert found.status == "pending"
        assert found.reasons[0].data is not None
        assert found.reasons[0].data["since"] > 0
        recorded = asyncio.run(_observe())
        of_pool = {semconv.WORK_POOL_NAME: "slow-start"}
        ((attributes, count),) = values(recorded, semconv.METRIC_PENDING, of_pool).items()
        assert count == 1
        assert dict(attributes)[semconv.LATE_REASON] == semconv.INFRASTRUCTURE


def test_tasks_and_flows_that_wait_for_others(client: SyncPrefectClient, tmp_path: Path) -> None:
    """A full tag and an unfinished upstream run are named, with the runs in the way."""
    client.create_concurrency_limit(tag="scarce", concurrency_limit=1)
    command = (sys.executable, "held.py", "scarce")
    with background(*command, env=environment(tmp_path), log=tmp_path / "flow.log"):
        held = eventually(lambda: _held_tasks(client), "two tasks that wait")
        limit = eventually(because(held["tagged"], semconv.TAG_LIMIT), "the limit of the tag")
        assert "all slots of tag 'scarce' are taken (1 of 1)" in limit.answer
        (holder,) = limit.reasons[0].runs
        assert (holder.name[:6], holder.state.name) == ("tagged", "Running")
        waits = asked(held["after"])
        assert waits.code == semconv.UPSTREAM
        assert "'slow-" in evidence(waits)
        assert [run.of for run in waits.reasons[0].runs] == ["slow"]
        below = eventually(lambda: _run_of(client, "held-below"), "the flow that is called")
        assert eventually(because(below, semconv.UPSTREAM), "its wait").status == "pending"
        assert any(run and run.of == "held-below" for run in _all_runs()), "the list has it, too"


def _held_tasks(client: SyncPrefectClient) -> dict[str, str] | None:
    pending = {"state": {"type": {"any_": ["PENDING"]}}}
    rows = client._client.post("/task_runs/filter", json={"task_runs": pending}).json()
    found = {row["name"].rpartition("-")[0]: row["id"] for row in rows}
    return found if {"tagged", "after"} <= {*found} else None


def _run_of(client: SyncPrefectClient, flow: str) -> str | None:
    body = {"flows": {"name": {"any_": [flow]}}}
    rows = client._client.post("/flow_runs/filter", json=body).json()
    return rows[0]["id"] if rows else None


def _all_runs() -> list[Any]:
    async def ask() -> list[Explanation]:
        async with Api() as api:
            return await explain_all(api)

    return [found.run for found in asyncio.run(ask())]


def why(*arguments: str) -> Result:
    """Run the command in this process, on a terminal of 80 columns."""
    return CliRunner().invoke(app, ["why", *arguments], env={"COLUMNS": "80"})


def test_the_command(client: SyncPrefectClient) -> None:
    """The answer comes first, then the evidence, then what to do; it fits 80 columns."""
    run = overdue(client, deploy("quick", pool(client, "commanded")))
    done = why(str(run.id)[:8])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"Flow run '{run.name}' of 'quick' is 1 h 30 m late: no worker")
    assert lines.index("      prefect worker start --pool commanded") > 2
    assert max(map(len, lines)) <= 80
    assert f"id: {run.id}; reason: no_worker" in lines
    assert "requests to http://127.0.0.1" in lines[-1]
    done = why()
    assert any(" no worker of work pool 'commanded'" in line for line in done.stdout.splitlines())
    assert max(map(len, done.stdout.splitlines())) <= 80
    done = why(run.name[:-1])
    assert done.exit_code == 1
    assert f"no run has the name or the id '{run.name[:-1]}'" in done.stderr
    assert run.name in done.stderr
    done = why("quick/commande")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "there is no deployment 'quick/commande'; there is 'quick/commanded'" in done.stderr


def test_the_latest(client: SyncPrefectClient) -> None:
    """`latest` is the run that became late last; its document is JSON."""
    deployment = deploy("quick", pool(client, "newest"))
    overdue(client, deployment)
    latest = overdue(client, deployment, timedelta(seconds=20))
    (found,) = json.loads(why("latest", "--json").stdout)["runs"]
    assert found["run"]["id"] == str(latest.id)
    assert found["reason"] == "no_worker"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "set PREFECT_API_URL"),
        ("http://127.0.0.1:1/api", "does not answer"),
    ],
)
def test_no_api(tmp_path: Path, url: str, said: str) -> None:
    """Without an API, the command says what to do."""
    done = flowspan("why", cwd=tmp_path, PREFECT_API_URL=url, PREFECT_HOME=str(tmp_path))
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_watch_tells_why_a_run_was_late(client: SyncPrefectClient, tmp_path: Path) -> None:
    """It exports the gauges, and the span of a run that never started has the reason."""
    run = overdue(client, deploy("quick", pool(client, "watched")))
    env = watch_environment(tmp_path, OTEL_METRIC_EXPORT_INTERVAL="500")
    with background(*WATCH, env=env, log=tmp_path / "watch.log"):
        eventually(lambda: _exported(tmp_path, "watched"), "the gauge")
        client.set_flow_run_state(run.id, Cancelled(message="not needed"))
        (span,) = eventually(lambda: spans_of(tmp_path, run.id), "the span")
    assert attributes(span)[semconv.LATE_REASON] == semconv.NO_WORKER
    assert attributes(span)[semconv.WAIT_LATE] > AGO.total_seconds()


def _exported(folder: Path, pool: str) -> list[Any]:
    """Return the points of the gauge of late runs of a pool, in the embedded files."""
    lines = [line for path in folder.glob("metrics*.jsonl") for line in path.open()]
    points = [
        point
        for line in lines
        for resource in json.loads(line)["resourceMetrics"]
        for scope in resource["scopeMetrics"]
        for metric in scope["metrics"]
        if metric["name"] == semconv.METRIC_LATE
        for point in metric["gauge"]["dataPoints"]
    ]
    return [point for point in points if pool in json.dumps(point["attributes"])]


AUTH = "admin:secret"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Start a server that plans no runs, marks none Late and wants a password; return variables."""
    home, (port,) = tmp_path_factory.mktemp("guarded"), free_ports(1)
    url = f"http://127.0.0.1:{port}/api"
    variables = {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_API_AUTH_STRING": AUTH,
        "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
    }
    command = [*PREFECT, "server", "start", "--port", str(port)]
    server = Running(command, home / "server.log", f"{url}/health", variables)
    with running(server):
        yield {"PREFECT_API_URL": url, "PREFECT_HOME": str(home)}


def test_a_server_without_scheduler(guarded: dict[str, str], tmp_path: Path) -> None:
    """A schedule without planned runs shows that the scheduler is behind; a password is needed."""
    refused = flowspan("why", cwd=tmp_path, **guarded)
    assert refused.returncode == 1
    assert "refuses the credentials (HTTP 401): set PREFECT_API_KEY" in refused.stderr
    variables = {**guarded, "PREFECT_API_AUTH_STRING": AUTH}
    made = run_script("scheduled.py", env=environment(tmp_path, **variables))
    assert made.returncode == 0, made.stderr
    done = flowspan("why", "quick/hourly", "--json", cwd=tmp_path, **variables)
    run, found = json.loads(done.stdout)["runs"]
    assert run["reason"] == semconv.NO_WORKER
    assert found["reason"] == semconv.SCHEDULER_BEHIND
    assert 0 < found["reasons"][0]["data"]["next_due"] / 1e9 - time.time() < 3700
    done = flowspan("why", "--json", cwd=tmp_path, **variables)
    listed = json.loads(done.stdout)["runs"]
    assert [each["reason"] for each in listed] == [semconv.NO_WORKER, semconv.SCHEDULER_BEHIND]
    assert "background services" in " ".join(listed[0]["remarks"])
