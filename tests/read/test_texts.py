"""Reading spans from any kind of source."""

import gzip
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from span_files import EPOCH, raw_line, raw_span, run, write

import generated_traces
from flowspan.errors import SourceError
from flowspan.read import span, trace_files
from flowspan.read.events import Event
from flowspan.read.selection import UnknownRunError
from flowspan.read.texts import find_files, open_files

if TYPE_CHECKING:
    from flowspan.read.lines import Problem

OWN = [raw_span(n) for n in range(1, 4)]
JSON = raw_line(*OWN).encode()
PRETTY = json.dumps(json.loads(JSON), indent=2).encode()


def message(*names: str) -> bytes:
    """Return a protobuf message of spans, one for each name, made by the SDK's encoder."""
    keep = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(keep))
    attributes: dict[str, Any] = {
        "text": "é",
        "int": -7,
        "big": 2**62,
        "float": 0.5,
        "nan": float("inf"),
        "bool": True,
        "bytes": b"\x00\x01",
        "list": [1, 2],
    }
    tracer = provider.get_tracer("t")
    root = tracer.start_span("root", start_time=EPOCH)
    for n, name in enumerate(names, 1):
        span = tracer.start_span(
            name, attributes=attributes, start_time=EPOCH + n, links=[], context=None
        )
        span.add_event("Running", {"n": 1}, timestamp=EPOCH + n)
        span.add_link(root.get_span_context(), {"z": "1"})
        span.set_status(StatusCode.ERROR, "it broke")
        span.end(EPOCH + 10)
    encoded: bytes = encode_spans(keep.get_finished_spans()).SerializeToString()
    return encoded


def delimited(*messages: bytes) -> bytes:
    """Return messages in the format of the Collector's file exporter."""
    return b"".join(struct.pack(">I", len(one)) + one for one in messages)


def names(trace: span.Trace) -> list[str]:
    return [span.name for span in trace.spans]


@pytest.mark.parametrize(
    "data",
    [
        JSON,
        PRETTY,
        b"\xef\xbb\xbf" + PRETTY,
        b"\n\n" + PRETTY + b"\n",
        gzip.compress(JSON),
        gzip.compress(PRETTY),
        PRETTY.replace(b"\n", b"\r\n"),
    ],
    ids=["lines", "pretty", "bom", "blank", "gzip", "pretty gzip", "crlf"],
)
def test_json_is_read_however_it_is_laid_out(data: bytes, tmp_path: Path) -> None:
    """By content, not by file name."""
    file = tmp_path / "whatever"
    file.write_bytes(data)
    trace = trace_files.load(file)
    assert (names(trace), trace.problems) == (["span 1", "span 2", "span 3"], ())
    assert [span.attributes for span in trace.spans] == [{}] * 3


@pytest.mark.parametrize("write_as", [bytes, delimited, gzip.compress])
def test_protobuf_is_read_as_json_is(write_as: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """Every type of attribute, events, links, status and kind."""
    file = tmp_path / "traces.binpb"
    file.write_bytes(write_as(message("a")))
    (span,) = trace_files.load(file).spans
    assert (span.name, span.kind, span.status, span.status_message) == (
        "a",
        "INTERNAL",
        "ERROR",
        "it broke",
    )
    assert span.attributes == {
        "text": "é",
        "int": -7,
        "big": 2**62,
        "float": 0.5,
        "nan": float("inf"),
        "bool": True,
        "bytes": "AAE=",
        "list": [1, 2],
    }
    assert span.events == (Event("Running", EPOCH + 1, {"n": 1}),)
    (link,) = span.links
    assert (len(link.trace_id), link.attributes) == (32, {"z": "1"})
    assert (span.start, span.end) == (EPOCH + 1, EPOCH + 10)
    assert span.resource["telemetry.sdk.language"] == "python"


def test_a_file_of_many_messages_that_was_cut_off_says_so(tmp_path: Path) -> None:
    """Earlier messages are read; the problem names the message that was cut off."""
    first, second = message("a"), message("b")
    file = tmp_path / "traces.pb"
    file.write_bytes(delimited(first, second)[:-10])
    trace = trace_files.load(file)
    assert names(trace) == ["a"]
    assert [(problem.line, problem.reason) for problem in trace.problems] == [
        (2, "cut off: the line ends in the middle")
    ]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x89PNG\r\n\x1a\n\x00\x00", "no kind of file that holds spans"),
        (gzip.compress(JSON)[:-20], "damaged"),
        (b"\x00\x00\x00\x09\x28\xb5\x2f\xfd\x00\x00\x00\x00\x00", "compressed with zstd"),
        (os.urandom(300) + b"\x00", "no kind of file that holds spans"),
    ],
)
def test_what_is_no_file_of_spans_is_told_with_what_would_be(
    data: bytes, words: str, tmp_path: Path
) -> None:
    """Next to readable files, and alone."""
    bad = tmp_path / "traces-bad.jsonl"
    bad.write_bytes(data)
    with pytest.raises(UnknownRunError) as caught:
        trace_files.load(bad)
    assert [words in problem.reason for problem in caught.value.problems] == [True]
    write(tmp_path / "traces.jsonl", run("RUN etl", 0, 10))
    trace = trace_files.load(tmp_path)
    assert names(trace) == ["RUN etl"]
    assert [words in problem.reason for problem in trace.problems] == [True]


def test_binary_rubbish_on_the_first_line_does_not_cost_the_others(tmp_path: Path) -> None:
    """A full disk may leave zeros behind."""
    file = tmp_path / "traces.jsonl"
    file.write_bytes(b"\x00" * 100 + b"\n" + JSON)
    trace = trace_files.load(file)
    assert names(trace) == ["span 1", "span 2", "span 3"]
    assert [(problem.line, problem.reason) for problem in trace.problems] == [(1, "not JSON")]


def test_a_first_line_that_was_cut_off_does_not_make_a_document(tmp_path: Path) -> None:
    """Its object does not end on its line, but the file is not one object either."""
    file = tmp_path / "traces.jsonl"
    file.write_bytes(JSON[:100] + b"\n" + JSON)
    trace = trace_files.load(file)
    assert names(trace) == ["span 1", "span 2", "span 3"]
    assert [problem.line for problem in trace.problems] == [1]


def test_in_a_folder_flowspans_own_files_come_first(tmp_path: Path) -> None:
    """Also compressed ones; other files are only read if there are none."""
    (tmp_path / "other.json").write_bytes(raw_line(raw_span(9)).encode())
    (tmp_path / "traces-1.jsonl.gz").write_bytes(gzip.compress(raw_line(raw_span(1)).encode()))
    (tmp_path / "traces.jsonl").write_text(raw_line(raw_span(2)))
    assert names(trace_files.load(tmp_path)) == ["span 1", "span 2"]


def test_a_folder_of_other_names_is_searched_for_spans(tmp_path: Path) -> None:
    """All JSON and protobuf files with spans, and nothing else."""
    trace_id = {"traceId": "ab" * 16}
    (tmp_path / "collector.json").write_bytes(PRETTY)
    (tmp_path / "more.jsonl.gz").write_bytes(gzip.compress(raw_line(raw_span(4)).encode()))
    (tmp_path / "package.json").write_text(json.dumps({"name": "x"} | trace_id))
    (tmp_path / "logs.jsonl").write_text('{"resourceLogs": []}')
    (tmp_path / "notes.txt").write_bytes(JSON)
    (tmp_path / "later.json").mkdir()
    trace = trace_files.load(tmp_path)
    assert (names(trace), trace.problems) == ([f"span {n}" for n in range(1, 5)], ())
    (tmp_path / "a.binpb").write_bytes(message("a", "b"))
    files = find_files(tmp_path)
    assert {file.name for file in files} == {"collector.json", "more.jsonl.gz", "a.binpb"}


def test_a_folder_of_nothing_says_what_it_should_hold(tmp_path: Path) -> None:
    """Files of logs and metrics are not enough."""
    (tmp_path / "logs.jsonl").write_text('{"resourceLogs": []}')
    words = r"holds no traces\*\.jsonl file, nor any other of OTLP spans\."
    with pytest.raises(SourceError, match=words):
        trace_files.load(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="it counts there")
def test_hundreds_of_small_files_take_no_descriptors(tmp_path: Path) -> None:
    """A trace may come from that many processes."""
    import resource

    for n in range(1, 200):
        (tmp_path / f"traces-{n}.jsonl").write_text(raw_line(raw_span(n)))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))  # noqa: PTH208
    try:
        trace = trace_files.load(tmp_path)
        assert len([span.attributes for span in trace.spans]) == 199
        assert trace.problems == ()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def pipe(data: bytes, *arguments: str, cwd: Path) -> "subprocess.CompletedProcess[bytes]":
    """Run the command with data on its standard input."""
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "from flowspan.cli.main import main; main()",
            "timeline",
            *arguments,
        ],
        input=data,
        cwd=cwd,
        env={key: value for key, value in os.environ.items() if not key.startswith("FLOWSPAN_")},
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize(
    "data", [JSON, PRETTY, gzip.compress(JSON)], ids=["lines", "pretty", "gzip"]
)
def test_spans_come_from_standard_input(data: bytes, tmp_path: Path) -> None:
    """Like from a file, in any format."""
    done = pipe(data, "--file", "-", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert [span["name"] for span in json.loads(done.stdout)["spans"]] == names(
        trace_files.parse(JSON, "ab" * 16, "memory")
    )


def test_protobuf_comes_from_standard_input(tmp_path: Path) -> None:
    """Two spans without a parent are two traces; the last one is shown."""
    done = pipe(delimited(message("a")), "--file", "-", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\na  " in done.stdout


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", b"Standard input is empty: pipe lines or one document of OTLP JSON"),
        (b"  \n", b"Standard input is empty"),
        (b"\x89PNG\x00", b"Standard input cannot be read: no kind of file that holds spans"),
        (b"[]\n", b"standard input:1: not OTLP: JSON, but no object"),
        (b"[]\n", b"Standard input holds no spans yet."),
    ],
)
def test_standard_input_without_spans_says_so(data: bytes, words: bytes, tmp_path: Path) -> None:
    """And what to pipe into it instead."""
    done = pipe(data, "--file", "-", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, b"")
    assert words in done.stderr


def test_standard_input_has_no_log_lines(tmp_path: Path) -> None:
    """Log lines are only in folders, next to the spans."""
    done = pipe(JSON, "--file", "-", "--logs", cwd=tmp_path)
    assert done.returncode == 2
    assert b"Standard input has spans but no log lines." in done.stderr


def test_a_file_may_be_gone_through_while_it_is_read_in_parts(tmp_path: Path) -> None:
    """Comparing a repeated line reads its first copy, further up in the file."""
    file = tmp_path / "traces.jsonl"
    generated_traces.write(file, 1_000)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines * 2))
    trace = trace_files.load(file)
    assert (len(trace.spans), trace.problems) == (len({s.span_id for s in trace.spans}), ())
    problems: list[Problem] = []
    (text,) = open_files([file], problems)
    offsets = []
    for _, offset, line in text.lines():
        text.keep()
        assert text.part(offset, len(line)) == line
        assert text.part(0, 10) == lines[0][:10]
        offsets.append(offset)
    assert len(offsets) == 2 * len(lines)
