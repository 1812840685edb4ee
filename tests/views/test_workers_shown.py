"""Which process ran what, when a trace has several, on the terminal, on the page and as JSON."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from rendered import rendered
from run_spans import make_span
from span_files import Plan, run, write

from flowspan import semconv
from flowspan.analysis.findings import Findings
from flowspan.analysis.one_trace import analyse
from flowspan.read import trace_files
from flowspan.text import SECOND
from flowspan.views.html import timeline as page
from flowspan.views.json import timeline as document
from flowspan.views.terminal import timeline as terminal


def on(host: str, process_id: int, plan: Plan, thread: str = "MainThread") -> Plan:
    """Say where a run ran, as each run's span does."""
    plan.attributes[semconv.HOST_NAME] = host
    plan.attributes[semconv.PROCESS_ID] = process_id
    plan.attributes |= {semconv.THREAD_ID: 1, semconv.THREAD_NAME: thread}
    return plan


@pytest.fixture
def found(tmp_path: Path) -> Findings:
    """A flow on one host, with tasks there and in two processes of another."""
    tasks = [
        on("head", 7, run("check", 0, 2, execution=2.0)),
        on("node", 7, run("load", 2, 4, execution=2.0)),
        on("node", 7, run("load", 3, 5, execution=2.0)),
        on("node", 8, run("load", 6, 8, execution=2.0)),
    ]
    write(tmp_path / "traces.jsonl", on("head", 7, run("RUN etl", 0, 8, *tasks)))
    return Findings(trace_files.load(tmp_path))


def lines(
    found: Findings, *, width: int = 80, everything: bool = False, unicode: bool = True
) -> list[str]:
    drawn = terminal.draw(
        found.tree, width=width, unicode=unicode, everything=everything, analysis=found.analysis
    )
    return [line.plain for line in drawn]


def test_terminal(found: Findings) -> None:
    """Each run has the number of its process; each process has its runs and its busy time."""
    drawn = lines(found)
    heading = next(line for line in drawn if line.startswith("span "))
    column = heading.index(" on ") + 1
    numbers = [line[column : column + 2].strip() for line in drawn if re.match("RUN|[├└]─", line)]
    assert numbers == ["1", "1", "2", "2", "3"]
    place = drawn.index(next(line for line in drawn if line.startswith("worker")))
    lanes = drawn[place + 1 : place + 4]
    assert [line.split("█")[0].split() for line in lanes] == [
        ["1", "head:7", "2", "2.00", "s"],
        ["2", "node:7", "2", "3.00", "s"],
        ["3", "node:8", "1", "2.00", "s"],
    ]
    start = heading.index("0 ", column + 2)
    bars = [(line.index("█") - start, line.rindex("█") + 1 - start) for line in lanes]
    width = 80 - start
    seconds = [(8 * first / width, 8 * last / width) for first, last in bars]
    for (first, last), expected in zip(seconds, [(0, 2), (2, 5), (6, 8)], strict=True):
        assert (first, last) == pytest.approx(expected, abs=8 / width)
    assert all(len(line) <= 80 for line in drawn)
    narrow = lines(found, width=55)
    assert all(len(line) == 55 for line in narrow if "█" in line and "execution" not in line)
    assert not any(" on " in line for line in narrow)
    assert any("node:8" in line for line in narrow)
    assert not any("█" in line for line in lines(found, unicode=False))


def test_page(found: Findings) -> None:
    """Lanes and the details of a run have the process before the thread."""
    html = rendered(page.render, found.trace).decode()
    data = json.loads(
        re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', html, re.DOTALL)[0]
    )
    assert [data["texts"][place] for place in data["rows"]["lane"]] == [
        "head:7 · MainThread",
        "head:7 · MainThread",
        *["node:7 · MainThread"] * 2,
        "node:8 · MainThread",
    ]


def test_json(found: Findings) -> None:
    """The document has the processes, and each span the name of its process."""
    printed: dict[str, Any] = json.loads(rendered(document.render, found.trace))
    assert printed["workers"] == [
        {"name": "head:7", "runs": 2, "busy": 2.0},
        {"name": "node:7", "runs": 2, "busy": 3.0},
        {"name": "node:8", "runs": 1, "busy": 2.0},
    ]
    assert [span["worker"] for span in printed["spans"]] == [
        *("head:7", "head:7", "node:7", "node:7", "node:8")
    ]


def test_one_process_is_not_told(tmp_path: Path) -> None:
    """A trace of one process has neither the column nor the lanes."""
    write(
        tmp_path / "traces.jsonl",
        on("head", 7, run("RUN etl", 0, 8, on("head", 7, run("a", 1, 2)))),
    )
    drawn = lines(Findings(trace_files.load(tmp_path)))
    assert not any(re.search(r"\bon\b|worker|head", line) for line in drawn)


def test_many_workers_and_many_runs(tmp_path: Path) -> None:
    """Twenty workers are drawn unless all are wanted; a row for many runs names two of theirs."""
    tasks = [on("node", number, run("load", number, number + 1)) for number in range(30)]
    write(tmp_path / "traces.jsonl", on("head", 1, run("RUN etl", 0, 31, *tasks)))
    found = Findings(trace_files.load(tmp_path))
    drawn = lines(found)
    assert "… 11 more" in drawn
    (rest,) = (line for line in drawn if "20 more load" in line)
    assert re.search(r" \d+,\d+,…  ", rest)
    everything = lines(found, everything=True)
    assert sum("node:" in line for line in everything) == 30


def test_processes_with_the_same_name(tmp_path: Path) -> None:
    """Processes that cannot be told apart by host and process id, as in containers, get numbers."""
    places: list[dict[str, Any]] = [
        {},
        {"process.pid": 1},
        {"process.pid": 1},
        {"process.pid": 1, "host.name": "pod"},
    ]
    spans = [
        make_span(
            str(number),
            "0" if number else None,
            number * SECOND,
            5 * SECOND,
            resource={"service.name": "etl", "service.instance.id": f"instance {number}", **place},
        )
        for number, place in enumerate(places)
    ]
    names = [worker.name for worker in analyse(spans).workers]
    assert names == ["etl", "etl:1 1", "etl:1 2", "pod:1"]
