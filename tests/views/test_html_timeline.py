"""The content of a trace's page, without a browser."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from log_files import raw_line as log_line
from log_files import raw_log
from rendered import rendered
from span_files import EPOCH, Plan, attempt, raw_line, raw_span, run, write

from commands import embedded, flowspan
from flowspan.analysis.one_trace import analyse
from flowspan.read import span, trace_files
from flowspan.views.html import timeline
from flowspan.views.json.timeline import as_object


def blocks(html: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the two blocks of JSON in a page: the drawn data, and the details."""
    found = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', html, re.DOTALL)
    data, details = map(json.loads, found)
    return data, details


def page_of(tmp_path: Path, plan: Plan) -> tuple[span.Trace, dict[str, Any], dict[str, Any]]:
    """Write a trace, and read its page."""
    write(tmp_path / "traces.jsonl", plan)
    trace = trace_files.load(tmp_path)
    return trace, *blocks(rendered(timeline.render, trace).decode())


def names(data: dict[str, Any]) -> list[str]:
    """Return the names of the rows."""
    return [data["texts"][place] for place in data["rows"]["name"]]


def test_the_command_writes_a_page_beside_what_it_prints(tmp_path: Path) -> None:
    """It prints the path on stderr, so that stdout stays the same."""
    write(embedded(tmp_path), run("RUN etl", 0, 10, run("load", 1, 5)))
    plain = flowspan("timeline", cwd=tmp_path)
    done = flowspan("timeline", "--html", "report.html", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, plain.stdout)
    assert done.stderr == "flowspan: the page is in report.html: open it in a browser.\n"
    assert names(blocks((tmp_path / "report.html").read_text("utf-8"))[0]) == ["RUN etl", "load"]
    done = flowspan("timeline", "--json", "--html", "report.html", cwd=tmp_path)
    assert json.loads(done.stdout)["spans"]


def test_a_page_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """The command prints the reason and exits with code 1."""
    write(embedded(tmp_path), run("RUN etl", 0, 10))
    done = flowspan("timeline", "--html", "no/such/report.html", cwd=tmp_path)
    assert done.returncode == 1
    assert "report.html cannot be written: No such file or directory" in done.stderr


@pytest.mark.parametrize(("arguments", "count"), [([], 2), (["--logs", "--level", "ERROR"], 1)])
def test_the_page_has_the_logs_that_lie_beside_the_spans(
    tmp_path: Path, arguments: list[str], count: int
) -> None:
    """By default it has all of them, and with a level only those."""
    live = embedded(tmp_path)
    live.write_text(raw_line(raw_span(1)))
    records = [raw_log(1), raw_log(2, spanId=f"{1:016x}", severityNumber=17)]
    (live.parent / "logs.jsonl").write_text(log_line(*records))
    flowspan("timeline", *arguments, "--html", "report.html", cwd=tmp_path)
    _, details = blocks((tmp_path / "report.html").read_text("utf-8"))
    said = [details["texts"][log[2]] for log in details["rows"][0]["logs"]]
    assert said == ["line 1", "line 2"][-count:]


def test_the_page_names_no_address_that_it_could_ask(tmp_path: Path) -> None:
    """The page loads nothing: no source, no import, no external style."""
    write(tmp_path / "traces.jsonl", run("RUN etl", 0, 10))
    trace = trace_files.load(tmp_path)
    html = rendered(timeline.render, trace).decode()
    assert re.findall(r"https?://[^\"'\s]*", html) == ["http://www.w3.org/2000/svg"]
    assert not re.findall(r"\s(?:src|href|srcset|action)=", html)
    assert not re.findall(r"@import|url\((?!#)|innerHTML|insertAdjacent|eval\(", html)
    assert html.count("default-src 'none'") == 1


def test_no_text_of_a_trace_can_end_the_block_that_it_stands_in(tmp_path: Path) -> None:
    """The blocks have no `<`, and placeholders in a trace are not filled."""
    evil = "</script><!--<b>&{{script}}"
    trace, data, _ = page_of(tmp_path, run(f"RUN {evil}", 0, 10, Plan(evil, 1, 2, error=evil)))
    html = rendered(timeline.render, trace).decode()
    for block in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', html):
        assert "<" not in block
    assert names(data) == [f"RUN {evil}", evil]
    assert "<title>&lt;/script&gt;&lt;!--&lt;b&gt;&amp;{{script}}</title>" in html


def test_the_columns_tell_the_path_and_the_numbers_of_the_json(tmp_path: Path) -> None:
    """They agree to the nanosecond."""
    trace, data, _ = page_of(
        tmp_path, run("RUN etl", 0.000000001, 10, run("load", 1, 5, queue=0.25, execution=4.0))
    )
    document = as_object(analyse(trace.spans))
    base, ids = int(data["base"]), data["rows"]["id"]
    path = data["path"]
    assert base == EPOCH + 1
    assert [
        (ids[row], base + start, base + end)
        for row, start, end in zip(path["row"], path["start"], path["end"], strict=True)
    ] == [(one["span_id"], one["start"], one["end"]) for one in document["critical_path"]]
    for key in ("tasks", "causes", "waiting", "concurrency", "headline", "bottleneck"):
        assert data["numbers"][key] == document[key]


def test_an_only_successful_attempt_has_no_row(tmp_path: Path) -> None:
    """Its run stands for it, as in the terminal; several attempts have a row each."""
    quiet = run("quiet", 1, 4, attempt(1, 1, 4, run("inner", 2, 3)))
    retried = run("retried", 5, 9, attempt(1, 5, 6, error="gone"), attempt(2, 7, 9))
    _, data, _ = page_of(tmp_path, run("RUN etl", 0, 10, quiet, retried))
    assert names(data) == ["RUN etl", "quiet", "inner", "retried", "attempt 1", "attempt 2"]
    assert data["rows"]["parent"] == [-1, 0, 1, 0, 3, 3]


def test_every_span_has_a_row_however_many_there_are(tmp_path: Path) -> None:
    """The page collapses nothing, and does not recurse."""
    deep = raw_span(0, spanId=f"{1:016x}")
    spans = [deep] + [
        raw_span(number, parentSpanId=f"{number - 1:016x}") for number in range(2, 3_000)
    ]
    (tmp_path / "traces.jsonl").write_text(raw_line(*spans))
    trace = trace_files.load(tmp_path)
    data, _ = blocks(rendered(timeline.render, trace).decode())
    assert data["rows"]["parent"] == list(range(-1, 2_998))


def test_an_endless_wait_before_it_all_does_not_squeeze_the_rest(tmp_path: Path) -> None:
    """The chart begins at most two durations before the first span, as in the terminal."""
    _, data, _ = page_of(tmp_path, run("RUN etl", 0, 10, late=86_400.0))
    assert data["view"] == [-20_000_000_000, 10_000_000_000]
    assert data["segments"]["start"][0] == -86_400_000_000_000
