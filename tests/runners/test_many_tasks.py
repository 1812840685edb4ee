"""Many tasks over a Dask cluster of two workers."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from clusters import dask_cluster
from processes import environment, run_script
from support import embedded_spans

LEEWAY = 50 * 1024
"""KiB by which flowspan may make the scheduler and the client grow."""
_LONGEST = 3000
"""Seconds; on a quiet machine, 5,000 tasks take some five minutes."""


class Peaks(NamedTuple):
    """The most memory that each has had, in KiB."""

    scheduler: int
    client: int


def run(folder: Path, tasks: int, kind: str) -> Peaks:
    folder.mkdir()
    with dask_cluster(folder, threads=4) as cluster:
        arguments = ("many.py", cluster.address, str(tasks), kind)
        done = run_script(*arguments, env=environment(folder), timeout=_LONGEST)
        assert done.returncode == 0, done.stderr
        status = Path(f"/proc/{cluster.scheduler}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    peaks = Peaks(int(found[1]), int(done.stdout))
    print(f"{tasks} tasks, {kind}: most memory in KiB: {peaks}", flush=True)
    return peaks


@pytest.mark.timeout(2 * _LONGEST + 300)
@pytest.mark.parametrize("tasks", [100, pytest.param(5000, marks=pytest.mark.exhaustive)])
def test_many_tasks(prefect_server: str, tmp_path: Path, tasks: int) -> None:
    """All spans arrive, and neither the scheduler nor the client grows much because of flowspan."""
    bare = run(tmp_path / "bare", tasks, "bare")
    recorded = run(tmp_path / "recorded", tasks, "recorded")
    spans = embedded_spans(tmp_path / "recorded").runs
    assert len(spans) == 1 + tasks
    assert len({span.resource.attributes["service.instance.id"] for span in spans}) == 3
    assert recorded.scheduler - bare.scheduler < LEEWAY
    assert recorded.client - bare.client < LEEWAY
