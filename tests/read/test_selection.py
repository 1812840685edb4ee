"""Choosing a run by its flow and time, from files and from Jaeger."""

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jaeger_server import Jaeger, jaeger_server
from span_files import EPOCH, run, write

from commands import embedded, flowspan
from flowspan.read import jaeger, span
from flowspan.read.selection import UnknownRunError, parse_since
from flowspan.read.server import base_url

if TYPE_CHECKING:
    from flowspan.read.lines import Problem

NOW = dt.datetime(2026, 11, 20, 12, tzinfo=dt.timezone(dt.timedelta(hours=1)))


def ago(**ages: float) -> float:
    """Return a time before now, in seconds since `EPOCH`."""
    now = dt.datetime.now(dt.timezone.utc)
    return (now - dt.timedelta(**ages)).timestamp() - EPOCH / 1e9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30d", "2026-10-21T12:00:00+01:00"),
        ("2w", "2026-11-06T12:00:00+01:00"),
        ("12h", "2026-11-20T00:00:00+01:00"),
        (" 90 m ", "2026-11-20T10:30:00+01:00"),
        ("5s", "2026-11-20T11:59:55+01:00"),
        ("2026-11-01T00:00:00+05:00", "2026-10-31T20:00:00+01:00"),
    ],
)
def test_an_age_or_a_time_is_read(text: str, expected: str) -> None:
    """As nanoseconds since the epoch."""
    assert parse_since(text, NOW) == dt.datetime.fromisoformat(expected).timestamp() * 1e9


def test_a_date_begins_at_local_midnight() -> None:
    """In any time zone."""
    midnight = dt.datetime(2026, 11, 1).astimezone()
    assert parse_since("2026-11-01", NOW) == midnight.timestamp() * 1e9


@pytest.mark.parametrize(
    "text",
    ["", "30", "d", "-3d", "3 months", "2026-13-01", "9999999999999d", "99999d", "2026-12-24"],
)
def test_what_is_no_time_is_told(text: str) -> None:
    """Also times before 1970 and in the future."""
    with pytest.raises(ValueError, match=r"neither an age|before 1970|in the future"):
        parse_since(text, NOW)


def test_the_latest_run_of_a_flow_is_drawn(tmp_path: Path) -> None:
    """Not the latest of all, nor one that ended before a time."""
    file = embedded(tmp_path)
    write(file, run("RUN nightly", ago(days=9), ago(days=8)))
    wanted = write(file, run("RUN nightly", ago(days=4), ago(days=1))).trace_id
    write(file, run("RUN other", ago(hours=2), ago(hours=1)))
    for arguments in (("--flow", "nightly"), ("--flow", "nightly", "--since", "2d")):
        done = flowspan("timeline", *arguments, "--json", cwd=tmp_path)
        assert json.loads(done.stdout)["trace_id"] == wanted
    done = flowspan("timeline", "--flow", "nightly", "--since", "2h", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert ".flowspan holds no run of 'nightly' that ended since " in done.stderr
    assert done.stderr.splitlines()[1].endswith("  other  success")


def test_a_time_alone_chooses_the_latest_since(tmp_path: Path) -> None:
    """If there is none, the command says so."""
    file = embedded(tmp_path)
    write(file, run("RUN nightly", ago(days=9), ago(days=8)))
    assert flowspan("timeline", "--since", "10d", cwd=tmp_path).returncode == 0
    done = flowspan("timeline", "--since", "1d", cwd=tmp_path)
    assert done.returncode == 1
    assert "holds no run that ended since" in done.stderr


def test_an_id_and_a_choice_exclude_each_other(tmp_path: Path) -> None:
    """The same for a flow and for an invalid time."""
    done = flowspan("timeline", "ab" * 16, "--flow", "nightly", cwd=tmp_path)
    assert (done.returncode, "leave out the id" in done.stderr) == (2, True)
    assert flowspan("timeline", "--since", "soon", cwd=tmp_path).returncode == 2


@pytest.fixture(params=[True, False], ids=["summaries", "older"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Jaeger]:
    """A Jaeger server, old or new, that respects the time and the limit of a search."""
    with jaeger_server(tmp_path / "storage.jsonl") as running:
        running.has_summaries = request.param
        running.has_search = True
        yield running


def load(server: Jaeger, flow: str | None, since: int = 0) -> str:
    """Choose a run, and return its trace id."""
    url = base_url(server.url)
    return jaeger.load(url, flow=flow, since=since).trace_id


def test_jaeger_finds_the_latest_run_of_a_flow(server: Jaeger) -> None:
    """A run that started long before the time counts if it ended after it."""
    write(server.file, run("RUN nightly", ago(days=9), ago(days=8)))
    wanted = write(server.file, run("RUN nightly", ago(hours=20), ago(hours=1))).trace_id
    other = write(server.file, run("RUN other", ago(hours=2), ago(minutes=5))).trace_id
    two_hours = round((ago(hours=2)) * 1e9) + EPOCH
    assert load(server, "nightly") == wanted
    assert load(server, "nightly", two_hours) == wanted
    assert load(server, None, two_hours) == other
    with pytest.raises(UnknownRunError, match="no run of 'nightly' that ended since") as unknown:
        load(server, "nightly", two_hours + 3_600 * 10**9 + 600 * 10**9)
    assert unknown.value.known[0].trace_id == other


def test_every_run_is_found_though_no_answer_holds_all(
    server: Jaeger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows of time are halved until their traces fit an answer; the latest comes first."""
    monkeypatch.setattr(jaeger, "_PAGE", 4)
    ids = [
        write(
            server.file,
            run("RUN nightly", ago(hours=3 * n + 1), ago(hours=3 * n)),
            service="odd" if n % 2 else "even",
        ).trace_id
        for n in range(25)
    ]
    write(server.file, run("RUN nightly", ago(days=30, hours=1), ago(days=30)))
    since = round(ago(days=7) * 1e9) + EPOCH
    problems: list[Problem] = []
    found = jaeger.load_all(base_url(server.url), problems, flow="nightly", since=since)
    assert [trace.trace_id for trace in found] == ids
    assert problems == []
    assert len(server.paths) < 100


def test_traces_of_all_flows_are_found_without_a_name(server: Jaeger) -> None:
    """Trends over everything need them."""
    names = ("a", "b", "a")
    for number, name in enumerate(names):
        write(server.file, run(f"RUN {name}", ago(hours=number + 1), ago(hours=number)))
    since = round(ago(days=1) * 1e9) + EPOCH
    found: list[span.Trace] = [*jaeger.load_all(base_url(server.url), [], since=since)]
    assert [trace.spans[0].name for trace in found] == ["RUN a", "RUN b", "RUN a"]
