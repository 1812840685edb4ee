"""Telemetry matches Prefect's API, wherever the runs of random flows are."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from uuid import UUID

from packaging.version import Version
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter
from prefect.client.schemas.objects import FlowRun

import random_flows
from clusters import dask_cluster
from flowspan import semconv
from processes import FLOWS, PATIENCE, background, environment, eventually
from reconcile import reconcile_files
from support import attributes, embedded_spans

SCRIPT = Path(random_flows.__file__)
IS_NEWEST = Version(version("prefect")) >= Version("3.9")
SCRIPTED = 10 if IS_NEWEST else 5
"""Random flows in each script."""
DEPLOYED = 4 if IS_NEWEST else 2
"""Random flows in each kind of deployment."""


def environment_of(folder: Path) -> dict[str, str]:
    env = environment(folder, PREFECT_LOGGING_LEVEL="INFO")
    env["PYTHONPATH"] += os.pathsep + str(SCRIPT.parent)
    return env


def flow_runs(*names: str) -> list[FlowRun]:
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(
            flow_filter=FlowFilter(name={"any_": list(names)}),  # type: ignore[arg-type]
        )


def run_scripts(kind: str, address: str, folder: Path) -> tuple[list[FlowRun], list[FlowRun]]:
    """Run one script with instrument() below `__main__`, one with it inside the flows."""
    half = SCRIPTED
    commands = {"main": f"0:{half}", "inside": f"{half}:{2 * half}"}
    started = {
        place: subprocess.Popen(
            [sys.executable, str(SCRIPT), kind, address, place, share],
            env=environment_of(folder),
            cwd="/",
            stdout=(folder / f"{place}.log").open("wb"),
            stderr=subprocess.STDOUT,
        )
        for place, share in commands.items()
    }
    for place, process in started.items():
        try:
            assert process.wait(PATIENCE) == 0, (folder / f"{place}.log").read_text()
        finally:
            process.kill()
    found = [flow_runs(f"{kind}-{place}") for place in commands]
    assert [len(runs) for runs in found] == [half, half]
    return found[0], found[1]


def assert_all_told(folder: Path, main: Sequence[FlowRun], inside: Sequence[FlowRun]) -> None:
    # A run that is adopted lacks its first state.
    adopted = min(inside, key=lambda run: str(run.created))
    runs = [run.id for run in (*main, *inside)]
    differences = reconcile_files(folder, runs, apart_from=f"{adopted.name}: states are")
    assert not differences, "\n".join(differences)
    by_process = Counter(
        span.resource.attributes["service.instance.id"] for span in embedded_spans(folder).runs
    )
    assert len(by_process) >= 4  # two scripts and at least two workers
    assert sorted(by_process.values())[-3] > 2


def test_dask(prefect_server: str, tmp_path: Path) -> None:
    """Runs on an external Dask cluster, in whose workers nothing of flowspan is set up."""
    folder = tmp_path / "spans"
    folder.mkdir()
    with dask_cluster(tmp_path) as cluster:
        main, inside = run_scripts("dask", cluster.address, folder)
        assert_all_told(folder, main, inside)


def test_ray(prefect_server: str, tmp_path: Path) -> None:
    """Runs on Ray."""
    assert_all_told(tmp_path, *run_scripts("ray", "local", tmp_path))


def run_deployments(started_by: str, folder: Path) -> list[UUID]:
    """Create a run of each deployment, and wait until all have ended."""
    with get_client(sync_client=True) as client:
        created = [
            client.create_flow_run_from_deployment(
                client.read_deployment_by_name(f"random_{number}/{started_by}").id
            ).id
            for number in range(DEPLOYED)
        ]

        def ended() -> bool:
            states = [client.read_flow_run(run_id).state for run_id in created]
            return all(state is not None and state.is_final() for state in states)

        eventually(ended, "the end of all runs")
    # The runner would end a process that has not left yet.
    ids = {str(run_id) for run_id in created}
    eventually(
        lambda: ids <= {attributes(s).get(semconv.RUN_ID) for s in embedded_spans(folder).all},
        "the end of all processes",
    )
    return created


def assert_deployments_told(folder: Path, created: Sequence[UUID]) -> None:
    differences = reconcile_files(folder, created)
    assert not differences, "\n".join(differences)


def test_served(prefect_server: str, tmp_path: Path) -> None:
    """Runs of served deployments, each in a process of its own."""
    command = (sys.executable, "random_deployed.py", "serve", str(DEPLOYED))
    log = tmp_path / "serve.log"
    with background(*command, env=environment_of(tmp_path), log=log) as process:

        def is_up() -> bool:
            assert process.poll() is None, log.read_text()
            with get_client(sync_client=True) as client:
                names = [deployment.name for deployment in client.read_deployments()]
            return names.count("served") == DEPLOYED

        eventually(is_up, "serving")
        created = run_deployments("served", tmp_path)
    assert_deployments_told(tmp_path, created)


def test_worker(prefect_server: str, tmp_path: Path) -> None:
    """Runs in the processes of a worker."""
    env, prefect = environment_of(tmp_path), (sys.executable, "-m", "prefect")
    deploy = (sys.executable, "random_deployed.py", "deploy", str(DEPLOYED), "random")
    for command in ((*prefect, "work-pool", "create", "random", "--type", "process"), deploy):
        done = subprocess.run(
            command, env=env, cwd=FLOWS, capture_output=True, check=False, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stderr.decode()
    worker = (*prefect, "worker", "start", "--pool", "random", "--limit", "3")
    with background(*worker, env=env, log=tmp_path / "worker.log"):
        created = run_deployments("worked", tmp_path)
    assert_deployments_told(tmp_path, created)
