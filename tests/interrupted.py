"""Kill `flowspan watch` at random moments, while flows run."""

import random
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter
from prefect.client.schemas.objects import FlowRun
from prefect.states import Crashed

from processes import FLOWS
from watched import WATCH, watch_environment

MOMENTS = ("starting", "watching", "writing", "noting")
"""When it is killed: as it starts, as it watches, as it writes spans, or its own state."""
_LONGEST = 15.0
"""Seconds to wait for a moment that may not come, if all runs are settled."""
_STEP = 0.002


def kill_watch(folder: Path, moment: str, chosen: random.Random, *, grace: float = 4) -> None:
    """Start `flowspan watch`, and kill it at a moment of a kind."""
    log = folder / "watch.log"
    log.touch()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*WATCH, "--since", "1h"],
            env=watch_environment(folder, grace=grace),
            cwd=FLOWS,
            stdout=output,
            stderr=output,
        )
    try:
        if moment == "starting":
            time.sleep(chosen.uniform(0, 4))
        elif moment == "watching":
            _until_grown([log], time.monotonic() + 60)
            time.sleep(chosen.uniform(0, 5))
        else:
            _until_grown([log], time.monotonic() + 60)
            name = "traces.jsonl" if moment == "writing" else "watch/watch.sqlite-wal"
            _until_grown([folder / name], time.monotonic() + _LONGEST)
            time.sleep(chosen.choice([0, 0, chosen.uniform(0, 0.05)]))
        assert process.poll() is None, log.read_text()
    finally:
        process.kill()
        process.wait(30)


def _until_grown(files: Sequence[Path], deadline: float) -> None:
    """Wait until one of some files has another size."""
    before = [*map(_size, files)]
    while [*map(_size, files)] == before and time.monotonic() < deadline:
        time.sleep(_STEP)


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def runs_of(prefix: str) -> list[FlowRun]:
    """Return all flow runs of flows whose names begin with `prefix`."""
    with get_client(sync_client=True) as client:
        wanted = FlowFilter(name={"like_": prefix})  # type: ignore[arg-type]
        return client.read_flow_runs(flow_filter=wanted, limit=200)


def say_crashed(runs: Sequence[FlowRun]) -> None:
    """Say of open runs that they have crashed, as a worker does of those that it has started."""
    with get_client(sync_client=True) as client:
        for run in runs:
            if run.state is None or not run.state.is_final():
                client.set_flow_run_state(run.id, Crashed(message="killed"), force=True)
