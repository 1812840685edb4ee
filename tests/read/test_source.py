"""The places that traces are read from, side by side."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from jaeger_server import jaeger_server
from span_files import run, write

from flowspan.errors import SourceError
from flowspan.read.selection import UnknownRunError
from flowspan.read.server import base_url
from flowspan.read.source import FileSource, JaegerSource, TraceSource


@pytest.fixture
def places(tmp_path: Path) -> Iterator[list[TraceSource]]:
    """A folder, and a Jaeger, with the same three traces of two flows."""
    file = tmp_path / "traces.jsonl"
    for name, start in (("nightly", 0), ("nightly", 100), ("weekly", 200)):
        write(file, run(f"RUN {name}", start, start + 9, run("load", start + 1, start + 5)))
    with jaeger_server(file) as server:
        yield [FileSource(tmp_path), JaegerSource(base_url(server.url), {})]


def test_all_places_give_the_same_traces(places: list[TraceSource]) -> None:
    """One by one, and all since a time, in whichever order."""
    files, server = places
    for wanted, flow in (("latest", None), ("latest~1", None), ("latest", "nightly")):
        assert files.load(wanted, flow=flow).spans == server.load(wanted, flow=flow).spans
    found = [{trace.trace_id: trace.spans for trace in place.traces([])} for place in places]
    assert len(found[0]) == 3
    assert found[0] == found[1]


def test_a_place_that_searches_by_flow_leaves_out_others(places: list[TraceSource]) -> None:
    """Which is why it cannot tell then what other flows there are."""
    for place in places:
        count = len(list(place.traces([], flow="weekly")))
        assert count == (1 if place.searches_by_flow else 3)


def test_every_place_says_what_is_missing(places: list[TraceSource]) -> None:
    """A text that is empty, and an id and a name that are not there."""
    for place in places:
        with pytest.raises(ValueError, match="It is empty"):
            place.load(" ")
        for wanted in ("0" * 31 + "1", "0" * 9, "nonsense"):
            with pytest.raises(UnknownRunError, match=f"holds no trace or run {wanted}"):
                place.load(wanted)


def test_only_folders_have_log_lines_and_only_standard_input_is_read_once(
    places: list[TraceSource], tmp_path: Path
) -> None:
    """And each place says so by name."""
    files, server = places
    stdin = FileSource(Path("-"))
    assert files.log_folder == FileSource(tmp_path / "traces.jsonl").log_folder == tmp_path
    assert server.log_folder is stdin.log_folder is None
    assert [place.can_be_read_again for place in (files, server, stdin)] == [True, True, False]
    with pytest.raises(SourceError, match=r"logs\*\.jsonl"):
        files.logs("ab" * 16)
    with pytest.raises(SourceError, match="Jaeger has spans but no log lines"):
        server.logs("ab" * 16)
    with pytest.raises(SourceError, match="Standard input has spans but no log lines"):
        stdin.logs("ab" * 16)
