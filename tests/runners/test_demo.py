"""``flowspan demo --runner`` runs the same pipeline elsewhere, and shows where."""

import json
import re
from pathlib import Path

import pytest

from commands import flowspan

OTHERS = (pytest.param(runner, marks=pytest.mark.exhaustive) for runner in ("process", "ray"))


@pytest.mark.parametrize("runner", ["dask", *OTHERS])
def test_runner(runner: str, tmp_path: Path) -> None:
    """The answer is the same; the timeline has three processes, and says which ran what."""
    done = flowspan("demo", "--runner", runner, cwd=tmp_path, COLUMNS="120")
    assert done.returncode == 0, done.stderr
    assert "Loaded 327,361 rows" in done.stdout
    assert done.stdout.index("Frontier") < done.stdout.index("AirTran")
    assert re.search(r"^span +result +duration +path +rows +on ", done.stdout, re.MULTILINE)
    lanes = re.findall(r"^([123]) \S+:\d+ +\d+ .*█", done.stdout, re.MULTILINE)
    assert lanes == ["1", "2", "3"]
    trace = json.loads(flowspan("timeline", "--json", cwd=tmp_path).stdout)
    runs = [span for span in trace["spans"] if "prefect.run.id" in span["attributes"]]
    assert len(runs) == 29
    rows = {run["name"]: run["attributes"].get("prefect.rows.output") for run in runs}
    assert (rows["RUN enrich"], rows["RUN nyc-flights"]) == (327_345, None)
    ran: dict[str, set[str]] = {}
    for run in runs:
        ran.setdefault(run["name"], set()).add(run["worker"])
    home, *others = (worker["name"] for worker in trace["workers"])
    assert ran["RUN nyc-flights"] == ran["RUN enrich"] == ran["validate"] == {home}
    assert ran["summarize"] <= {*others}
    assert len(others) == 2
    counted = json.loads(flowspan("metrics", "--json", cwd=tmp_path).stdout)
    tasks = {task["name"]: task["runs"] for flow in counted["flows"] for task in flow["tasks"]}
    assert tasks["summarize"] == 16
    assert tasks["load"] == 2
