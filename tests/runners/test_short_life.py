"""Nothing is lost with a process that ends as soon as its caller has the result."""

from pathlib import Path

import pytest

from clusters import dask_cluster
from flowspan import semconv
from processes import environment, run_script
from reconcile import reconcile_files
from support import attributes, embedded_spans


@pytest.mark.parametrize("runner", ["pool", "dask", "ray"])
def test_nothing_dies_with_a_process(prefect_server: str, tmp_path: Path, runner: str) -> None:
    """With one worker that is killed, or with one process a task, all three signals are whole."""
    folder = tmp_path / "telemetry"
    env = environment(folder, PREFECT_LOGGING_LEVEL="INFO")
    if runner == "dask":
        with dask_cluster(tmp_path, workers=1, threads=1) as cluster:
            done = run_script("short_lived.py", runner, cluster.address, env=env)
    else:
        done = run_script("short_lived.py", runner, env=env)
    assert done.returncode == 0, done.stderr
    spans = embedded_spans(folder)
    tasks = 4 if runner == "ray" else 10
    assert len(spans.runs) == 1 + tasks
    run_id = attributes(spans.one("RUN short-lived"))[semconv.RUN_ID]
    assert reconcile_files(folder, [run_id]) == []
    processes = {span.resource.attributes["service.instance.id"] for span in spans.runs}
    assert len(processes) == 1 + (tasks if runner == "ray" else 1)
