"""Runs are found by their names, and by the first digits of ids."""

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from jaeger_server import jaeger_server
from log_files import FLOW_RUN, OTHER_RUN, SUBFLOW_RUN, Process, of_run
from span_files import EPOCH, Plan, run, write

from commands import embedded, flowspan
from flowspan.read import jaeger, log_files, trace_files
from flowspan.read.decode import SpanDecoder
from flowspan.read.selection import AmbiguousRunError, UnknownRunError
from flowspan.read.server import base_url
from flowspan.read.source import FileSource, JaegerSource, TraceSource

SUBFLOW = "1f4b6a52-7f3e-4d5c-9a83-0d1f3c5e7a90"


def nightly(start: float, run_name: str, *, run_id: str = "", result: str = "success") -> Plan:
    """Plan a run that calls the flow clean, whose run has a name and an id of its own."""
    clean = run("RUN clean", start + 1, start + 3, run("scrub", start + 1, start + 2))
    clean.attributes |= {"prefect.run.id": str(uuid.uuid4()), "prefect.run.name": f"{run_name}-in"}
    run_id = run_id or str(uuid.uuid4())
    return run(
        "RUN nightly", start, start + 5, clean, run_id=run_id, run_name=run_name, result=result
    )


@pytest.fixture(params=["files", "jaeger", "older jaeger"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TraceSource]:
    """A folder, or a Jaeger, that holds the spans in traces.jsonl."""
    if request.param == "files":
        yield FileSource(tmp_path)
        return
    with jaeger_server(tmp_path / "traces.jsonl") as server:
        server.has_summaries = request.param == "jaeger"
        yield JaegerSource(base_url(server.url), {})


def test_a_name_means_its_run_and_so_do_eight_digits_of_a_trace(
    place: TraceSource, tmp_path: Path
) -> None:
    """Or more digits, in upper case, too. Jaeger looks at the traces of the last month."""
    file = tmp_path / "traces.jsonl"
    today = time.time() - EPOCH / 1e9 - 3600
    ids = {
        name: write(file, nightly(today + n, name)).trace_id
        for n, name in enumerate(("a-bee", "a-cat"))
    }
    for name, trace_id in ids.items():
        for text in (name, f" {name} ", trace_id[:8], trace_id[:31], trace_id[:12].upper()):
            assert place.load(text).trace_id == trace_id
        assert not place.load(name).is_part
    for text in ("a-be", "A-BEE", ids["a-bee"][:7]):
        with pytest.raises(UnknownRunError, match=f"no trace or run {text}"):
            place.load(text)


def test_a_called_run_is_shown_alone(place: TraceSource, tmp_path: Path) -> None:
    """By its name, its id or its flow; the run that called it is known. A task shows the trace."""
    plan = nightly(0, "a-bee")
    plan.children[0].attributes["prefect.run.id"] = SUBFLOW
    whole = place_trace(tmp_path, plan)
    for wanted, flow in ((SUBFLOW, None), ("a-bee-in", None), ("latest", "clean")):
        part = place.load(wanted, flow=flow)
        assert [span.name for span in part.spans] == ["RUN clean", "scrub"]
        assert (part.trace_id, part.spans[0].parent_span_id, part.is_part) == (whole, None, True)
        assert part.called_by is not None
        assert part.called_by.name == "RUN nightly"
    assert len(place.load(whole).spans) == 3


def place_trace(folder: Path, plan: Plan) -> str:
    """Write a trace to the file that all places read."""
    return write(folder / "traces.jsonl", plan).trace_id


def test_runs_of_a_flow_are_counted_one_by_one(place: TraceSource, tmp_path: Path) -> None:
    """Even if several are in one trace."""
    called = [
        run("RUN clean", start, start + 1, run_id=str(uuid.uuid4()), run_name=f"clean-{start}")
        for start in (1, 3)
    ]
    place_trace(tmp_path, run("RUN nightly", 0, 9, *called))
    place_trace(tmp_path, run("RUN clean", 20, 22, run_name="alone", run_id=str(uuid.uuid4())))
    found = [place.load(f"latest~{back}", flow="clean") for back in range(3)]
    assert [trace.spans[0].facts.run_name for trace in found] == ["alone", "clean-3", "clean-1"]
    with pytest.raises(UnknownRunError, match="no run latest~3 of 'clean'"):
        place.load("latest~3", flow="clean")


def test_several_runs_of_one_name_are_listed(place: TraceSource, tmp_path: Path) -> None:
    """With what tells them from each other."""
    ids = [str(uuid.uuid4()) for _ in range(2)]
    results = ("success", "failure")
    for start, (run_id, result) in enumerate(zip(ids, results, strict=True)):
        place_trace(tmp_path, nightly(10 * start, "daily", run_id=run_id, result=result))
    with pytest.raises(AmbiguousRunError, match="2 runs that 'daily' may mean") as raised:
        place.load("daily")
    known = [(one.run_id, one.run_name, one.result, one.end) for one in raised.value.known]
    ends = [EPOCH + 5 * 10**9, EPOCH + 15 * 10**9]
    assert known[::-1] == [
        (run_id, "daily", result, end)
        for run_id, result, end in zip(ids, results, ends, strict=True)
    ]
    assert place.load(ids[0]).spans[0].facts.result == "success"


def test_the_first_digits_of_a_run_id_are_enough_in_files(tmp_path: Path) -> None:
    """With or without dashes. The flow run comes before its tasks, whose ids may begin alike."""
    file = tmp_path / "traces.jsonl"
    task = run("load", 1, 2, run_id="0190f0aa-0000-7000-8000-00000000000d")
    wanted = write(file, run("RUN etl", 0, 3, task, run_id=FLOW_RUN)).trace_id
    write(file, run("RUN etl", 10, 13, run_id="0190f0ab-0000-7000-8000-00000000000a"))
    for text in ("0190f0aa", "0190F0AA-0000-7", "0190f0aa00007", FLOW_RUN[:-1]):
        assert trace_files.load(file, text).trace_id == wanted
    with pytest.raises(UnknownRunError, match="no trace or run 0190f0ac"):
        trace_files.load(file, "0190f0ac")


def test_jaeger_says_what_it_cannot_search_for(tmp_path: Path) -> None:
    """It has no search for the beginning of a value."""
    write(tmp_path / "traces.jsonl", run("RUN etl", 0, 3, run_id=FLOW_RUN))
    with (
        jaeger_server(tmp_path / "traces.jsonl") as server,
        pytest.raises(UnknownRunError, match="cannot search for the first digits of a run id"),
    ):
        jaeger.load(base_url(server.url), FLOW_RUN[:8])


def test_a_name_that_looks_like_digits_is_a_name(place: TraceSource, tmp_path: Path) -> None:
    """Such as a date."""
    wanted = place_trace(tmp_path, nightly(0, "20261127"))
    assert place.load("20261127").trace_id == wanted


def test_names_are_found_however_they_are_spelled_in_json(tmp_path: Path) -> None:
    """With escapes or without."""
    file = tmp_path / "traces.jsonl"
    wanted = write(file, nightly(0, 'größte "Last"')).trace_id
    write(file, nightly(10, "other"))
    assert trace_files.load(file, 'größte "Last"').trace_id == wanted
    lines = [json.dumps(json.loads(line), ensure_ascii=False) for line in file.open()]
    file.write_text("\n".join(lines))
    assert trace_files.load(file, 'größte "Last"').trace_id == wanted


def test_only_lines_that_mention_the_run_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store of months has many others."""
    file = tmp_path / "traces.jsonl"
    for number in range(20):
        write(file, nightly(10 * number, f"run-{number}"))
    decoded: list[bytes] = []
    decode = SpanDecoder.decode

    def counted(self: SpanDecoder, raw: bytes, *rest: object, **named: object) -> object:
        decoded.append(raw)
        return decode(self, raw, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(SpanDecoder, "decode", counted)
    assert trace_files.load(file, "run-7").spans
    assert len(set(decoded)) == 1


def messages(found: log_files.Logs) -> list[object]:
    """Return the bodies of log records."""
    return [log.body for log in found.logs]


def test_log_lines_are_found_in_the_same_ways(tmp_path: Path) -> None:
    """By the names of flow and task runs, by digits, and by latest~1."""
    file = tmp_path / "logs.jsonl"
    with closing(Process(file)) as process:
        process.log("outer", 1)
        process.log("task", 2, attributes=of_run(task_run="load-ac7"))
        process.log("inner", 3, attributes=of_run("report", SUBFLOW_RUN) | {NAME: "calm-bee"})
    with closing(Process(file, "cd" * 16)) as process:
        process.log("other", 50, attributes=of_run("other", OTHER_RUN) | {NAME: "calm-cat"})
    for wanted, expected in (
        ("calm-bee", ["inner"]),
        ("load-ac7", ["task"]),
        ("meaty-vicugna", ["outer", "task", "inner"]),
        ("cdcdcdcd", ["other"]),
        (SUBFLOW_RUN.replace("-", "")[:31] + "b", ["inner"]),
        ("latest", ["other"]),
        ("latest~1", ["outer", "task", "inner"]),
    ):
        assert messages(log_files.load(file, wanted)) == expected
    with pytest.raises(AmbiguousRunError, match="runs that '0190f0aa' may mean") as raised:
        log_files.load(file, "0190f0aa")
    assert {one.run_id for one in raised.value.known} == {FLOW_RUN, SUBFLOW_RUN, OTHER_RUN}
    with pytest.raises(UnknownRunError, match="Did you mean 'calm-bee'"):
        log_files.load(file, "calm-be")
    with pytest.raises(UnknownRunError, match="no log lines of trace or run latest~2"):
        log_files.load(file, "latest~2")


NAME = "prefect.flow_run.name"


def test_the_commands_list_what_may_be_meant(tmp_path: Path) -> None:
    """With id, time, flow, name and result; a name that is misspelt has the nearest."""
    file = embedded(tmp_path)
    ids = [str(uuid.uuid4()) for _ in range(2)]
    for start, run_id in enumerate(ids):
        write(file, nightly(10 * start, "daily", run_id=run_id))
    write(file, nightly(100, "meaty-vicugna"))
    for command in (("timeline", "daily"), ("diff", "daily", "latest")):
        done = flowspan(*command, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        first, *rest = done.stderr.splitlines()
        assert first == "flowspan: .flowspan holds 2 runs that 'daily' may mean. They are:"
        assert [line.split("  ")[1] for line in rest] == ids[::-1]
        assert all(line.endswith("  nightly  daily  success") for line in rest)
    done = flowspan("timeline", "meaty-vicuna", cwd=tmp_path)
    assert "no trace or run meaty-vicuna. Did you mean 'meaty-vicugna'? The latest" in done.stderr
    assert "RUN nightly" in flowspan("timeline", "meaty-vicugna", cwd=tmp_path).stdout


def test_every_view_says_what_called_a_run_that_is_shown_alone(tmp_path: Path) -> None:
    """The terminal, the page and JSON, with how to see the whole."""
    trace_id = write(embedded(tmp_path), nightly(0, "a-bee")).trace_id
    done = flowspan("timeline", "--flow", "clean", "--html", "page.html", cwd=tmp_path)
    note = f"called by nightly a-bee; the whole: flowspan timeline {trace_id[:8]}"
    assert note in done.stdout.splitlines()
    assert "RUN nightly" not in done.stdout
    assert note in (tmp_path / "page.html").read_text()
    document = json.loads(flowspan("timeline", "--flow", "clean", "--json", cwd=tmp_path).stdout)
    assert (document["called_by"]["flow"], document["called_by"]["name"]) == ("nightly", "a-bee")
    first = document["spans"][0]
    assert (document["root"]["span_id"], first["parent_span_id"]) == (first["span_id"], None)
    whole = json.loads(flowspan("timeline", "a-bee", "--json", cwd=tmp_path).stdout)
    assert (whole["called_by"], len(whole["spans"])) == (None, 3)


def test_log_lines_of_other_runs_are_not_shown_with_a_part(tmp_path: Path) -> None:
    """The files have those of the whole trace."""
    plan = nightly(0, "a-bee")
    plan.children[0].attributes["prefect.run.id"] = SUBFLOW
    written = write(embedded(tmp_path), plan)
    with closing(Process(tmp_path / ".flowspan" / "logs.jsonl", written.trace_id)) as process:
        process.log("outside", 0.5, span_id=written.span_ids["RUN nightly"])
        process.log("inside", 1.5, span_id=written.span_ids["scrub"])
        process.log("lost", 1.6, span_id="f" * 16, attributes=of_run("clean", SUBFLOW))
    done = flowspan("timeline", SUBFLOW, "--logs", cwd=tmp_path)
    assert ["inside" in done.stdout, "lost" in done.stdout, "outside" in done.stdout] == [
        True,
        True,
        False,
    ]
    assert "outside" in flowspan("timeline", written.trace_id, "--logs", cwd=tmp_path).stdout
