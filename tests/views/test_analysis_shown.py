"""The results of an analysis in the terminal and in the JSON document."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from span_files import EPOCH, Plan, attempt, run, write
from typer.testing import CliRunner, Result

from flowspan import semconv
from flowspan.analysis.one_trace import Analysis, analyse
from flowspan.cli.main import app
from flowspan.read.trace_files import load
from flowspan.views.headline import headline
from flowspan.views.terminal import tasks

Run = Callable[..., Result]


@pytest.fixture
def flowspan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    return lambda *arguments: CliRunner().invoke(app, arguments)


def etl() -> Plan:
    """Plan ten seconds: load waits for a slot until extract ends, then is retried once."""
    return run(
        "RUN etl",
        0,
        10,
        run("extract", 0, 6, execution=6.0, rows=5),
        run(
            "load",
            6,
            10,
            attempt(1, 6, 7, error="no"),
            attempt(2, 8, 10),
            execution=3.0,
            retry=1.0,
            count=2,
        ),
        run("notify", 0, 1, execution=1.0),
        execution=10.0,
    )


def found(folder: Path, plan: Plan) -> Analysis:
    write(folder / "traces.jsonl", plan)
    return analyse(load(folder).spans)


def document(flowspan: Run, folder: Path, plan: Plan) -> dict[str, Any]:
    write(folder / "traces.jsonl", plan)
    done = flowspan("timeline", "--json", "--file", str(folder))
    assert (done.exit_code, done.stderr) == (0, "")
    shape: dict[str, Any] = json.loads(done.stdout)
    return shape


def test_the_json_document_has_the_analysis(flowspan: Run, tmp_path: Path) -> None:
    """It has the documented shape, with the path in nanoseconds and durations in seconds."""
    shape = document(flowspan, tmp_path, etl())
    ids = {span["name"]: span["span_id"] for span in shape["spans"]}
    assert shape["version"] == 1
    assert shape["source"] == "flowspan"
    assert shape["root"] == {
        "span_id": ids["RUN etl"],
        "start": EPOCH,
        "end": EPOCH + 10_000_000_000,
    }
    assert shape["critical_path"] == [
        {
            "span_id": span,
            "start": EPOCH + start * 10**9,
            "end": EPOCH + end * 10**9,
            "cause": cause,
        }
        for span, start, end, cause in [
            (ids["extract"], 0, 6, "execution"),
            (ids["load"], 6, 7, "execution"),
            (ids["load"], 7, 8, "retry"),
            (ids["load"], 8, 10, "execution"),
        ]
    ]
    assert shape["bottleneck"] == {
        "name": "extract",
        "type": "task",
        "share": 0.6,
        "cause": "execution",
        "saved": 3.0,
    }
    assert shape["causes"] == {"execution": 9.0, "retry": 1.0}
    assert shape["waiting"] == {"retry": 1.0}
    assert shape["retry_cost"] == {"total": 2.0, "on_critical_path": 2.0}
    assert shape["orchestration"] == {"total": 0.0, "share": 0.0}
    assert shape["concurrency"] == {
        "work": 10.0,
        "peak": 2,
        "mean": 1.0,
        "efficiency": 0.5,
    }


def test_each_task_has_its_numbers(flowspan: Run, tmp_path: Path) -> None:
    """The largest share comes first; tasks off the path have slack and save nothing."""
    tasks = document(flowspan, tmp_path, etl())["tasks"]
    assert [task["name"] for task in tasks] == ["extract", "load", "etl", "notify"]
    assert tasks[0] == {
        "name": "extract",
        "type": "task",
        "runs": 1,
        "failed": 0,
        "retries": 0,
        "share": 0.6,
        "cause": "execution",
        "path": 6.0,
        "slack": 0.0,
        "drag": 5.0,  # then notify ends last
        "saved": 3.0,
        "duration": 6.0,
        "execution": 6.0,
        "waits": {},
        "rows": {"input": None, "output": 5},
    }
    load, notify = tasks[1], tasks[3]
    assert (load["retries"], load["share"], load["waits"]) == (1, 0.4, {"retry": 1.0})
    assert (load["drag"], load["saved"]) == (3.0, 1.5)
    assert (notify["share"], notify["cause"], notify["slack"]) == (0.0, None, 5.0)
    assert (notify["drag"], notify["saved"]) == (0.0, 0.0)


def test_the_bottleneck_is_said_in_a_sentence(tmp_path: Path) -> None:
    """The sentence has its cause, and the time that a faster one would save."""
    assert headline(found(tmp_path, etl())) == (
        "extract is the bottleneck: 60 % of the critical path (execution), 2× faster saves 3.00 s"
    )


def test_a_wait_can_be_the_bottleneck(tmp_path: Path) -> None:
    """The sentence then says what faster code saves, because the wait may stay."""
    plan = run("RUN etl", 0, 10, run("load", 0, 10, concurrency=9.0, execution=1.0))
    assert headline(found(tmp_path, plan)) == (
        "load is the bottleneck: 100 % of the critical path (waiting for a concurrency slot), "
        "its code 2× faster saves 500 ms"
    )


def test_a_flow_can_be_the_bottleneck_itself(tmp_path: Path) -> None:
    """This happens if most of the time is in no task."""
    plan = run("RUN etl", 0, 10, run("load", 9, 10, execution=1.0), execution=10.0)
    assert headline(found(tmp_path, plan)).startswith("the code of flow etl itself is the bottle")


def test_the_code_of_a_flow_is_not_blamed_for_the_engine(tmp_path: Path) -> None:
    """If Prefect's own time is the largest, the flow is named, but not its code."""
    plan = run("RUN etl", 0, 10, orchestration=10.0, execution=0.0)
    assert headline(found(tmp_path, plan)) == (
        "Prefect's own work for flow etl is the bottleneck: 100 % of the critical path "
        "(orchestration)"
    )


def test_narrow_terminals_lose_no_words(
    flowspan: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sentences that do not fit continue on the next line."""
    write(tmp_path / "traces.jsonl", etl())
    monkeypatch.setenv("COLUMNS", "50")
    lines = flowspan("timeline", "--file", str(tmp_path)).stdout.splitlines()
    assert max(map(len, lines)) <= 50
    out = " ".join(lines)
    assert "60 % of the critical path (execution), 2× faster saves 3.00 s" in out
    assert "10.0 s of work, 2 at once at most, 1.0 on average" in out


def test_outputs_without_unicode_explain_every_column(tmp_path: Path) -> None:
    """The multiplication sign is an x there, in the legend too."""
    lines = [line.plain for line in tasks.draw(found(tmp_path, etl()), width=140, unicode=False)]
    assert any("2x faster: time saved if it ran twice as fast" in line for line in lines)
    assert all(map(str.isascii, lines))


def test_the_timeline_shows_the_path(flowspan: Run, tmp_path: Path) -> None:
    """The path is in the head, on its own line to scale, as each row's share and as a table."""
    write(tmp_path / "traces.jsonl", etl())
    done = flowspan("timeline", "--file", str(tmp_path))
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[3].startswith("extract is the bottleneck: 60 %")
    assert lines[6].split()[:3] == ["critical", "path", "10.0"]
    bar = lines[6].split()[-1]
    assert set(bar) == {"█", "╌"}
    assert 0.05 < bar.count("╌") / len(bar) < 0.15
    assert any(line.startswith("├─ extract") and " 60 % " in line for line in lines)
    assert any(line.startswith("└─ load") and " 40 % " in line for line in lines)
    table = lines[lines.index(next(line for line in lines if line.startswith("task  "))) :]
    assert table[1].split() == ["extract", "1", "60", "%", "6.00", "s", "5.00", "s", "-3.00", "s"]
    assert "critical path: execution 90 %, retry 10 %" in lines
    assert "retries cost 2.00 s, 2.00 s of it on the critical path" in lines
    assert ("parallel efficiency 50 %: 10.0 s of work, 2 at once at most, 1.0 on average") in lines


def test_top_says_how_many_tasks_are_listed(flowspan: Run, tmp_path: Path) -> None:
    """It also says how many are not."""
    write(tmp_path / "traces.jsonl", etl())
    lines = flowspan("timeline", "--file", str(tmp_path), "--top", "1").stdout.splitlines()
    place = lines.index(next(line for line in lines if line.startswith("task  ")))
    assert lines[place + 1].startswith("extract ")
    assert lines[place + 2] == "… 3 more: --top"


def test_fewer_answers_are_said_to_be_fewer(flowspan: Run, tmp_path: Path) -> None:
    """A trace from another program has times and parents, but no causes."""
    write(tmp_path / "traces.jsonl", Plan("GET /", 0, 3, (Plan("SELECT", 1, 3),)))
    out = flowspan("timeline", "--file", str(tmp_path)).stdout
    assert "span SELECT is the bottleneck: 67 % of the critical path (execution)" in out
    assert "no spans of runs: only times and parents count, as in Jaeger." in out
    shape = json.loads(flowspan("timeline", "--json", "--file", str(tmp_path)).stdout)
    assert (shape["source"], shape["bottleneck"]["name"]) == ("plain", "SELECT")


def test_dropped_links_are_told(flowspan: Run, tmp_path: Path) -> None:
    """If a provider has dropped links to upstream runs, the path may be wrong."""
    plan = etl()
    assert document(flowspan, tmp_path, plan)["remarks"] == []
    (tmp_path / "traces.jsonl").unlink()
    for child, dropped in zip(plan.children, (172, 1000), strict=False):
        child.attributes[semconv.LINKS_DROPPED] = dropped
    (said,) = document(flowspan, tmp_path, plan)["remarks"]
    assert said.startswith("1,172 links to upstream runs are missing, so the critical path may")
    page = tmp_path / "page.html"
    out = flowspan("timeline", "--file", str(tmp_path), "--html", str(page)).stdout
    assert said in " ".join(out.split())
    assert said in page.read_text("utf-8")


def test_a_trace_without_length_has_no_bottleneck(flowspan: Run, tmp_path: Path) -> None:
    """It has no critical path either."""
    shape = document(flowspan, tmp_path, run("RUN etl", 1, 1))
    assert (shape["critical_path"], shape["bottleneck"], shape["headline"]) == ([], None, "")
    assert flowspan("timeline", "--file", str(tmp_path)).exit_code == 0


def test_a_trace_too_large_to_ask_questions_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It still has its path and shares; omitted answers are null."""
    monkeypatch.setattr("flowspan.analysis.one_trace.LARGEST_NETWORK", 3)
    extract, load, *_ = found(tmp_path, etl()).tasks
    assert (extract.share, extract.slack, extract.drag, extract.saved) == (0.6, 0, None, None)
    assert load.share == pytest.approx(0.4)
    monkeypatch.setattr("flowspan.analysis.one_trace.LARGEST_NETWORK", 10)
    monkeypatch.setattr("flowspan.analysis.one_trace.WHAT_IF_BUDGET", 0)
    assert [task.drag for task in analyse(load_all(tmp_path)).tasks] == [None, None, 0, 0]


def load_all(folder: Path) -> Any:
    return load(folder).spans
