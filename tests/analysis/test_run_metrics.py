"""The summary of runs from metrics."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from metric_files import Process

from flowspan.analysis import run_metrics
from flowspan.read import metric_files
from flowspan.views.json import metrics


def report(folder: Path) -> run_metrics.Report:
    """Sum up the files of a folder."""
    return run_metrics.summarize(metric_files.load(folder))


def recording(folder: Path) -> "closing[Process]":
    """Record into the file that `report` reads."""
    return closing(Process(folder / "metrics.jsonl"))


def test_the_json_document_has_the_documented_shape(tmp_path: Path) -> None:
    """Durations are seconds, unknown values are null, and the keys are always the same."""
    with recording(tmp_path) as process:
        process.flow("etl", 4.0, pending=0.5)
        process.flow(
            "etl", 2.0, result="failure", state="Failed", error="ValueError", violated=["max_rows"]
        )
        process.task(
            "etl",
            "load",
            1.25,
            state="Completed",
            retried=["OSError"],
            rows={"output": 7},
            waits={"queue": 0.25},
        )
        process.task(None, "adhoc", 0.5, result="timeout", state="TimedOut", error="TimedOut")
        process.metric("share", float("inf"), "1", flow="etl", task="load", table="a")
    nothing: dict[str, Any] = {
        "success_rate": None,
        "duration": None,
        "waits": {},
        "retries": 0,
        "retried_errors": {},
        "rows": {"output": None, "input": None},
        "errors": {},
    }
    document = json.loads(metrics.to_json(report(tmp_path)))
    assert next(iter(document.items())) == ("version", 1)
    del document["version"]
    assert document.pop("start") < document.pop("end")
    assert [metric.pop("time") > 0 for metric in document["metrics"]] == [True] * len(
        document["metrics"]
    )
    assert document == {
        "flows": [
            {
                **nothing,
                "name": "etl",
                "runs": 2,
                "results": {"failure": 1, "success": 1},
                "states": {"Completed": 1, "Failed": 1},
                "success_rate": 0.5,
                "duration": {"count": 2, "total": 6.0, "p50": 2.0, "p95": 4.0, "max": 4.0},
                "waits": {
                    "pending": {"count": 1, "total": 0.5, "p50": 0.5, "p95": 0.5, "max": 0.5}
                },
                "errors": {"ValueError": 1},
                "violations": {"max_rows": 1},
                "tasks": [
                    {
                        **nothing,
                        "name": "load",
                        "runs": 1,
                        "results": {"success": 1},
                        "states": {"Completed": 1},
                        "success_rate": 1.0,
                        "duration": dict.fromkeys(("p50", "p95", "max", "total"), 1.25)
                        | {"count": 1},
                        "waits": {
                            "queue": dict.fromkeys(("p50", "p95", "max", "total"), 0.25)
                            | {"count": 1}
                        },
                        "retries": 1,
                        "retried_errors": {"OSError": 1},
                        "rows": {"output": 7, "input": None},
                    }
                ],
            },
            {
                **nothing,
                "name": None,
                "runs": 0,
                "results": {},
                "states": {},
                "violations": {},
                "tasks": [
                    {
                        **nothing,
                        "name": "adhoc",
                        "runs": 1,
                        "results": {"timeout": 1},
                        "states": {"TimedOut": 1},
                        "success_rate": 0.0,
                        "duration": dict.fromkeys(("p50", "p95", "max", "total"), 0.5)
                        | {"count": 1},
                        "errors": {"TimedOut": 1},
                    }
                ],
            },
        ],
        "metrics": [],
    }


def test_custom_metrics_in_json(tmp_path: Path) -> None:
    """Integers stay integers, and a missing unit is empty."""
    with recording(tmp_path) as process:
        process.metric("count", 3, flow="etl", task="load", table="a")
        process.metric("delay", 0.5, "s")
    document = json.loads(metrics.to_json(report(tmp_path)))
    assert document["flows"] == []
    delay, count = document["metrics"]
    assert delay | {"time": 0} == {
        "name": "delay",
        "flow": None,
        "task": None,
        "attributes": {},
        "value": 0.5,
        "unit": "s",
        "time": 0,
    }
    assert count | {"time": 0} == {
        "name": "count",
        "flow": "etl",
        "task": "load",
        "attributes": {"table": "a"},
        "value": 3,
        "unit": "",
        "time": 0,
    }


def test_runs_that_did_no_work_do_not_make_others_look_fast(tmp_path: Path) -> None:
    """Cached and skipped runs count as runs but have no duration."""
    with recording(tmp_path) as process:
        process.task("etl", "load", 60.0)
        for _ in range(9):
            process.task("etl", "load", 0.001, state="Cached")
            process.task("etl", "load", 0.0, result="skip", state="NotReady")
        process.flow("etl", 0.0, result="skip", state="NotReady")
    (flow,) = report(tmp_path).flows
    load = flow.tasks["load"]
    assert (load.count, load.success_rate, load.duration.count) == (19, 1.0, 1)
    assert load.duration.quantile(0.5) == 60
    assert (flow.count, flow.success_rate, flow.duration.quantile(0.5)) == (1, None, None)


@pytest.mark.parametrize(
    ("results", "rate"),
    [
        (["success"], 1.0),
        (["success", "failure", "timeout", "error"], 0.25),
        (["success", "cancellation", "skip", "skip"], 1.0),
        (["cancellation", "skip"], None),
        ([], None),
    ],
)
def test_the_success_rate_leaves_out_cancelled_and_skipped_runs(
    tmp_path: Path, results: list[str], rate: float | None
) -> None:
    """Cancelling or skipping says nothing about the run itself."""
    with recording(tmp_path) as process:
        process.task("etl", "other", 1.0)
        for result in results:
            process.flow("etl", 1.0, result=result)
    (flow,) = report(tmp_path).flows
    assert (flow.count, flow.success_rate) == (len(results), rate)


def test_runs_add_up_over_states_and_deployments(tmp_path: Path) -> None:
    """A flow has one line, whatever its other attributes are."""
    with recording(tmp_path) as process:
        for deployment in ("a", "b", ""):
            names = {"prefect.flow.name": "etl", "prefect.deployment.name": deployment}
            process.flow_runs.add(1, names | {"cicd.pipeline.result": "success"})
            process.flow_seconds.record(
                1.0, {"cicd.pipeline.name": "etl", "cicd.pipeline.run.state": "executing"} | names
            )
    (flow,) = report(tmp_path).flows
    assert (flow.count, flow.duration.count, flow.states) == (3, 3, {"unknown": 3})


def test_one_flow_can_be_chosen(tmp_path: Path) -> None:
    """The report keeps its tasks and custom metrics, even if it has only custom metrics."""
    with recording(tmp_path) as process:
        process.flow("b", 1.0)
        process.task("a", "load", 1.0)
        process.task(None, "adhoc", 1.0)
        process.metric("n", 1, flow="a")
        process.metric("n", 2, flow="c")
    everything = report(tmp_path)
    assert everything.flow_names == ["a", "b", "c"]
    chosen = run_metrics.only(everything, "a")
    assert [flow.name for flow in chosen.flows] == ["a"]
    assert [metric.value for metric in chosen.metrics] == [1]
    assert run_metrics.only(everything, "d").is_empty
