"""The graph for Graphviz."""

import json
import shutil
import subprocess
from typing import Any

import pytest
from made_spans import run, span, trace
from rendered import rendered

from flowspan.read.span import Trace
from flowspan.views.dot import RUNS_SHOWN, render

MS = 1_000_000

needs_graphviz = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not here")


def export(made: Trace) -> list[str]:
    """Return the lines of nodes and edges."""
    lines = rendered(render, made).decode().splitlines()
    assert (lines[0], lines[-1]) == ("digraph flowspan {", "}")
    return [line.strip() for line in lines[4:-1]]


def labels(lines: list[str]) -> dict[str, str]:
    """Return the first line of each node's label by the node's id."""
    nodes = (line.partition(" [") for line in lines if "->" not in line)
    return {
        name: rest.partition('label="')[2].partition('"')[0].partition("\\n")[0]
        for name, _, rest in nodes
    }


def edges(lines: list[str]) -> set[tuple[str, str, str]]:
    """Return the edges between labels, each with its style."""
    names = labels(lines)
    found = set()
    for line in lines:
        if "->" in line:
            ends, _, look = line.rstrip(";").partition(" [")
            source, _, target = ends.partition(" -> ")
            kind = "call" if "dashed" in look else "use"
            bold = " bold" if "penwidth" in look else ""
            found.add((names[source], names[target], kind + bold))
    return found


def test_runs_are_nodes_with_calls_and_dependencies() -> None:
    """Other spans are left out; the runs that they call are connected to the enclosing run."""
    lines = export(
        trace(
            run(1, 0, 10 * MS, type_="flow", name="RUN etl"),
            run(2, MS, 2 * MS, name="extract", parent=1),
            span(3, 3 * MS, 9 * MS, name="GET", parent=1),
            run(4, 4 * MS, 8 * MS, name="load", parent=3, upstream=[2]),
        )
    )
    assert set(labels(lines).values()) == {"RUN etl", "extract", "load"}
    assert {(a, b, kind.split()[0]) for a, b, kind in edges(lines)} == {
        ("RUN etl", "extract", "call"),
        ("RUN etl", "load", "call"),
        ("extract", "load", "use"),
    }


def test_the_critical_path_is_bold_and_tells_its_shares() -> None:
    """Runs off the path are thin."""
    lines = export(
        trace(
            run(1, 0, 10 * MS, type_="flow", name="RUN etl"),
            run(2, 0, 10 * MS, name="slow", parent=1),
            run(3, 0, 2 * MS, name="quick", parent=1),
        )
    )
    slow = next(line for line in lines if "slow" in line)
    quick = next(line for line in lines if "quick" in line)
    assert "penwidth" in slow
    assert "100 % of the path" in slow
    assert "10 ms" in slow
    assert "penwidth" not in quick
    assert "of the path" not in quick


def test_mapped_runs_are_merged() -> None:
    """Runs of merged callers are merged too, and failures are counted."""
    spans = [run(1, 0, 100 * MS, type_="flow", name="RUN etl")]
    for number in range(RUNS_SHOWN + 1):
        part = 10 + 2 * number
        spans.append(run(part, number * MS, 90 * MS, type_="flow", name="RUN part", parent=1))
        failed = number == 0
        spans.append(run(part + 1, number * MS, 80 * MS, name="step", parent=part, failed=failed))
    spans += [run(n, 0, MS, name="once", parent=1) for n in range(100, 100 + RUNS_SHOWN)]
    lines = export(trace(*spans))
    names = sorted(labels(lines).values())
    times = "\u00d7"
    assert names == ["RUN etl", f"RUN part {times}6", *["once"] * RUNS_SHOWN, f"step {times}6"]
    assert any("step" in line and "1 failed" in line for line in lines)
    assert ("RUN part \u00d76", "step \u00d76", "call") in {
        (a, b, kind.split()[0]) for a, b, kind in edges(lines)
    }


def test_a_run_that_went_on_in_another_process_is_one_node() -> None:
    """Its time is the sum of its spans."""
    again = {"prefect.run.id": "run 1"}
    lines = export(
        trace(
            run(1, 0, 4 * MS, type_="flow", name="RUN etl"),
            run(2, 6 * MS, 9 * MS, type_="flow", name="RUN etl", attributes=again),
        )
    )
    assert list(labels(lines).values()) == ["RUN etl"]
    assert "7.0 ms" in lines[0] or "7 ms" in lines[0]


def test_a_trace_without_runs_shows_its_spans() -> None:
    """Other spans are shown if there are no runs."""
    lines = export(trace(span(1, 0, 9, name="GET /"), span(2, 1, 5, name="SELECT", parent=1)))
    assert set(labels(lines).values()) == {"GET /", "SELECT"}


HOSTILE = [
    'a"b',
    "back\\slash",
    "\\N \\G \\l",
    "&amp; &lt;b&gt;",
    "<b>bold</b>",
    "a\nb",
    '"]; evil [label="',
    "größe ☃",
    "{a|b}",
    "tail\\",
]


@needs_graphviz
@pytest.mark.parametrize("name", HOSTILE)
def test_graphviz_shows_names_as_they_are(name: str) -> None:
    """Quotes, backslashes and HTML entities in names are escaped."""
    made = trace(run(1, 0, MS, type_="flow", name=name), run(2, 0, MS, name="task", parent=1))
    dot = rendered(render, made).decode()
    drawn = subprocess.run(
        ["dot", "-Tjson"], input=dot, capture_output=True, text=True, encoding="utf-8", check=True
    )
    assert drawn.stderr == ""
    document: dict[str, Any] = json.loads(drawn.stdout)
    nodes = document["objects"]
    assert len(nodes) == 2
    shown = "".join(op["text"] for op in nodes[0]["_ldraw_"] if op["op"] == "T")
    assert shown.startswith(" ".join(name.split()))
