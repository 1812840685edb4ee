"""The fast decoder reads spans exactly like the careful one."""

import gc
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from span_files import EPOCH, raw_line, raw_span, run, write

import generated_traces
from flowspan import semconv
from flowspan.analysis import tree
from flowspan.analysis.findings import Findings
from flowspan.errors import SourceError
from flowspan.read import decode, trace_files
from flowspan.read.decode import SpanDecoder
from flowspan.read.facts import READERS, Facts, facts_of
from flowspan.read.span import Span
from flowspan.read.texts import MemoryText
from flowspan.text import SECOND
from flowspan.views.json import timeline
from flowspan.views.wishes import Wishes

TRACE = "ab" * 16


def both(line: bytes) -> tuple[list[Span], list[Span]]:
    """Read a line with the fast decoder only, and with the careful one."""
    fast = SpanDecoder()._decode(line, MemoryText("memory", line), 0, None)
    return fast, list(decode._decode_carefully(line, []))


def everything(span: Span) -> dict[str, Any]:
    """Return everything about a span, including details read on demand."""
    names = [name for name in Span.__slots__ if not name.startswith("_")]
    return {
        name: getattr(span, name)
        for name in (*names, "attributes", "events", "links", "status_message", "process")
    }


def attribute(key: str, **value: Any) -> dict[str, Any]:
    return {"key": key, "value": value}


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("generated") / "traces.jsonl"
    generated_traces.write(file, 1_200)
    return file


def test_spans_read_fast_are_those_read_with_care(generated: Path) -> None:
    """For a trace like flowspan's, in every respect."""
    for line in generated.read_bytes().splitlines():
        fast, careful = both(line)
        assert [everything(span) for span in fast] == [everything(span) for span in careful]
        assert len(fast) > 100


def test_a_generated_trace_has_what_a_real_one_has(generated: Path) -> None:
    """Links, waits, attempts, and a flow above them, so that the benchmark measures real work."""
    trace = trace_files.load(generated)
    root = tree.build(trace.spans).about.span
    assert (root.name, root.parent_span_id) == ("RUN generated", None)
    assert {span.name for span in trace.spans} >= {"extract", "transform", "load", "attempt 2"}
    ids = {span.span_id for span in trace.spans}
    linked = [span for span in trace.spans if span.upstream]
    assert all(ids.issuperset(span.upstream) for span in linked)
    assert any(span.facts.dependencies for span in linked)
    assert any(span.facts.retry for span in linked)
    runs = [span.facts for span in trace.spans if span.is_run]
    assert {len({one.lane for one in runs if one.lane}), len(trace.problems)} == {16, 0}
    size = generated.stat().st_size / len(trace.spans)
    assert 2_000 < size < 4_000


VALUES = st.one_of(
    st.builds(lambda one: {"stringValue": one}, st.text()),
    st.builds(lambda one: {"intValue": str(one)}, st.integers(-(2**63), 2**63 - 1)),
    st.builds(lambda one: {"intValue": one}, st.integers(-(2**31), 2**31)),
    st.builds(lambda one: {"doubleValue": one}, st.floats(allow_nan=False, allow_infinity=False)),
    st.builds(lambda one: {"doubleValue": one}, st.sampled_from(["Infinity", "-Infinity"])),
    st.builds(lambda one: {"boolValue": one}, st.booleans()),
    st.builds(
        lambda many: {"arrayValue": {"values": [{"stringValue": one} for one in many]}},
        st.lists(st.text(), max_size=3),
    ),
    st.just({"kvlistValue": {"values": [{"key": "a", "value": {"boolValue": True}}]}}),
    st.just({"bytesValue": "AAE="}),
    st.just({}),
)


# The result of a flow run fills the same field as that of a task run; no span has both.
KEYS = st.sampled_from([*sorted(READERS.keys() - {semconv.PIPELINE_RESULT}), "other"])


def test_a_wait_that_is_partly_before_the_span() -> None:
    """A span has the whole wait for upstream runs, and the part that the task runner waited."""
    attributes = [
        attribute(semconv.WAIT_DEPENDENCIES, doubleValue=3.0),
        attribute(semconv.TASK_RUNNER_DEPENDENCIES, doubleValue=2.0),
    ]
    for (span,) in both(raw_line(raw_span(1, attributes=attributes)).encode()):
        assert (span.facts.dependencies_before, span.facts.dependencies) == (2 * SECOND, SECOND)


@given(st.lists(st.tuples(KEYS, VALUES), max_size=12))
def test_any_attributes_give_the_same_facts(pairs: list[tuple[str, dict[str, Any]]]) -> None:
    """For any type of value, and with repeated keys."""
    attributes = [{"key": key, "value": value} for key, value in pairs]
    fast, careful = both(raw_line(raw_span(1, attributes=attributes)).encode())
    assert [everything(span) for span in fast] == [everything(span) for span in careful]


@pytest.mark.parametrize(
    "span",
    [
        raw_span(1, traceId="AB" * 16),
        raw_span(1, spanId="00000000000000AB"),
        raw_span(1, startTimeUnixNano=EPOCH, endTimeUnixNano=float(EPOCH)),
        raw_span(1, endTimeUnixNano=None),
        raw_span(1, startTimeUnixNano=None),
        raw_span(1, name=None, kind=None, status=None, attributes=None, events=None, links=None),
        raw_span(1, name=7, kind="SPAN_KIND_SERVER", status={"code": "STATUS_CODE_ERROR"}),
        raw_span(1, status={"code": 2, "message": "é \udcff"}),
        raw_span(1, attributes=[{"key": "k"}, {"value": {"stringValue": "v"}}, {}]),
        raw_span(1, attributes=[attribute("prefect.run.type", stringValue=None)]),
        raw_span(1, links=[{"traceId": TRACE.upper(), "spanId": "00000000000000AB"}]),
        raw_span(1, parentSpanId="0" * 16),
        raw_span(1, events=[{"name": "e", "timeUnixNano": "5"}, {}]),
        raw_span(1, unknown={"deep": [1, {"er": None}]}),
    ],
)
def test_what_the_fast_decoder_doubts_is_read_all_the_same(span: dict[str, Any]) -> None:
    """Rare spellings that the encoding allows are read correctly."""
    line = raw_line(span).encode()
    text = MemoryText("memory", line)
    problems: list[str] = []
    found = list(SpanDecoder().decode(line, text, 0, problems))
    expected = list(decode._decode_carefully(line, []))
    assert [everything(one) for one in found] == [everything(one) for one in expected]
    assert (len(found), problems) == (1, [])


def test_what_turns_out_unreadable_on_a_closer_look_is_left_out() -> None:
    """An event's attributes are only read on demand; the rest of the span is kept."""
    events = [{"name": "good"}, {"name": "bad", "attributes": 7}]
    span = raw_span(1, events=events, attributes=[attribute("k", stringValue="v")])
    line = raw_line(span).encode()
    (found,) = SpanDecoder().decode(line, MemoryText("memory", line), 0, [])
    assert [event.name for event in found.events] == ["good"]
    assert found.attributes == {"k": "v"}


def test_a_span_of_another_trace_on_the_line_is_left_out_but_checked() -> None:
    """Its errors are reported, whatever trace is requested."""
    other = raw_span(2, traceId="cd" * 16)
    line = raw_line(raw_span(1), other).encode()
    text = MemoryText("memory", line)
    found = SpanDecoder().decode(line, text, 0, [], TRACE)
    assert [span.name for span in found] == ["span 1"]
    problems: list[str] = []
    broken = raw_line(raw_span(1), other | {"attributes": 7}).encode()
    found = SpanDecoder().decode(broken, text, 0, problems, TRACE)
    assert [span.name for span in found] == ["span 1"]
    assert problems == ["span skipped: not OTLP: attributes is no list of objects"]


def test_a_value_that_nests_too_deeply_costs_its_span() -> None:
    """As with the careful decoder, even if nobody reads the value."""
    value: dict[str, Any] = {"stringValue": "v"}
    for _ in range(100):
        value = {"arrayValue": {"values": [value]}}
    deep = raw_span(1, attributes=[{"key": "k", "value": value}])
    line = raw_line(deep, raw_span(2)).encode()
    problems: list[str] = []
    found = SpanDecoder().decode(line, MemoryText("memory", line), 0, problems)
    assert [span.name for span in found] == ["span 2"]
    assert problems == ["span skipped: a value is nested too deeply"]


def test_details_are_found_whatever_the_layout(tmp_path: Path) -> None:
    """Spans may be anywhere on the line: after spaces, repeated, in several groups."""
    spans = [raw_span(n, attributes=[attribute("n", intValue=n)]) for n in range(1, 5)]
    scopes = [{"scope": {}, "spans": spans[:2]}, {"spans": []}, {"spans": spans[2:]}]
    document = {"resourceSpans": [{"scopeSpans": scopes}, {"scopeSpans": []}]}
    file = tmp_path / "f.jsonl"
    file.write_text("\n" + json.dumps(document) + "\n" + raw_line(raw_span(5)))
    trace = trace_files.load(file)
    assert [span.attributes.get("n") for span in trace.spans] == [1, 2, 3, 4, None]
    assert trace.problems == ()


@pytest.fixture(params=[10, 1_000], ids=["small file", "large file"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Write a file below and one above the size from which it stays open."""
    file = tmp_path / "traces.jsonl"
    generated_traces.write(file, request.param)
    yield file
    assert gc.isenabled()


def test_details_outlive_the_rotation_of_their_file(written: Path) -> None:
    """Files may be renamed and unlinked while somebody reads their spans."""
    trace = trace_files.load(written)
    before = [span.attributes for span in trace.spans]
    written.rename(written.with_name("traces-1.jsonl"))
    written.write_text("another trace")
    assert [span.attributes for span in trace.spans] == before
    written.with_name("traces-1.jsonl").unlink()
    assert [span.attributes for span in trace.spans] == before


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="it counts there")
def test_no_file_stays_open_longer_than_its_spans(written: Path) -> None:
    """Descriptors are scarce."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only their number counts
    trace = trace_files.load(written)
    del trace
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_file_that_was_overwritten_says_so(tmp_path: Path) -> None:
    """Instead of showing something else as a span's attributes."""
    file = tmp_path / "traces.jsonl"
    generated_traces.write(file, 1_000)
    span = trace_files.load(file).spans[0]
    os.truncate(file, 0)
    with pytest.raises(SourceError, match="was overwritten while it was being read"):
        assert span.attributes


def test_what_is_equal_in_many_spans_is_there_once(generated: Path) -> None:
    """A million spans must fit in memory."""
    runs = [span for span in trace_files.load(generated).spans if span.name == "load"]
    first = runs[0]
    last = next(span for span in reversed(runs) if span.facts.lane == first.facts.lane)
    assert first.name is last.name
    assert first.resource is last.resource
    assert first.trace_id is last.trace_id
    assert first.parent_span_id is last.parent_span_id
    for name in ("flow_name", "task_name", "flow_run_id", "state_name", "tags", "lane"):
        assert getattr(first.facts, name) is getattr(last.facts, name)


def test_a_trace_is_drawn_without_reading_details_of_all_spans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the details of drawn spans are read."""
    from flowspan.views.terminal import timeline

    file = tmp_path / "traces.jsonl"
    generated_traces.write(file, 300)
    looked_at: set[int] = set()
    details = MemoryText.details

    def look(self: MemoryText, offset: int, length: int) -> Any:
        looked_at.add(offset)
        return details(self, offset, length)

    trace = trace_files.parse(file.read_bytes(), trace_files.load(file).trace_id, "memory")
    monkeypatch.setattr(MemoryText, "details", look)
    built = tree.build(trace.spans)
    assert not looked_at
    lines = list(timeline.draw(built, width=120))
    assert 0 < len(looked_at) < len(lines) < len(trace.spans) / 2


def test_the_json_document_comes_in_pieces(generated: Path) -> None:
    """Together they are the document, and none of them is most of it."""
    trace = trace_files.load(generated)
    chunks = list(timeline.render(Findings(trace), Wishes()))
    whole = json.loads(b"".join(chunks))
    assert [span["span_id"] for span in whole["spans"]] == [s.span_id for s in trace.spans]
    assert max(map(len, chunks)) < sum(map(len, chunks)) / 2


def test_links_tell_what_a_span_depends_on_and_what_it_takes_up_again(tmp_path: Path) -> None:
    """By type: no type is a dependency, another type or another trace is neither."""

    def link(number: int, kind: str | None, trace_id: str = TRACE) -> dict[str, Any]:
        attributes = [] if kind is None else [attribute(semconv.LINK_TYPE, stringValue=kind)]
        return {"traceId": trace_id, "spanId": f"{number:016x}", "attributes": attributes}

    links = [
        link(1, "dependency"),
        link(2, None),
        link(3, "previous_attempt"),
        link(4, "of its own"),
        link(5, "dependency", "cd" * 16),
    ]
    file = tmp_path / "f.jsonl"
    file.write_text(raw_line(raw_span(9, links=links)))
    (span,) = trace_files.load(file).spans
    assert span.upstream == (f"{1:016x}", f"{2:016x}")
    assert span.previous == (f"{3:016x}",)
    assert len(span.links) == 5


@pytest.mark.parametrize(
    ("resource", "process"),
    [
        ({"service.instance.id": "i", "process.pid": 7}, "i"),
        ({"host.name": "h", "process.pid": 7, "service.name": "s"}, "h:7"),
        ({"process.pid": 7, "service.name": "s"}, "7"),
        ({"host.name": "h", "service.name": "s"}, "s"),
        ({}, ""),
    ],
)
def test_a_process_is_told_by_what_its_resource_has(
    resource: dict[str, Any], process: str, tmp_path: Path
) -> None:
    """By its instance, else host and process id, else the service."""
    span = trace_files.load(_a_file(tmp_path)).spans[0]
    same = {name: getattr(span, name) for name in decode_fields()}
    assert Span(**same | {"resource": resource}).process == process


def decode_fields() -> list[str]:
    """Return the fields of a span."""
    return [name for name in Span.__init__.__annotations__ if name != "return"]


def _a_file(folder: Path) -> Path:
    write(folder / "traces.jsonl", run("RUN etl", 0, 10))
    return folder / "traces.jsonl"


def test_facts_have_a_reader_for_all_but_what_events_tell() -> None:
    """A field without a reader would be missing silently."""
    fields = {field.name for field in msgspec.structs.fields(Facts)}
    filled = {name for name, _ in READERS.values()}
    assert fields - filled == {"is_native", "running_since"}
    assert facts_of({}) == Facts()
