"""Reading log lines from VictoriaLogs; `tests/e2e/test_victorialogs.py` asks a real one."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from log_files import FLOW_RUN, TASK_RUN, trace_of_root

from commands import flowspan
from flowspan.errors import SourceError
from flowspan.read.log_files import Logs
from flowspan.read.selection import AmbiguousRunError, UnknownRunError
from flowspan.read.server import base_url
from flowspan.read.victorialogs import load
from sinks import refusing_endpoint

TRACE = trace_of_root(FLOW_RUN)
NO_REPORTS = ' -"scope.name":="flowspan.runs"'
RUN = {
    "last_time": "2026-11-01T02:00:01.5Z",
    "trace_id": TRACE,
    "prefect.flow_run.id": FLOW_RUN,
    "prefect.flow.name": "etl",
    "prefect.flow_run.name": "meaty-vicugna",
}


def line(second: str, **fields: str) -> dict[str, str]:
    """Return a line as VictoriaLogs 1.52.1 answers; keyword arguments add or replace fields."""
    return {
        "_time": f"2026-11-01T02:00:{second}Z",
        "_stream_id": "0000000000000000f3eff5f6cd4f5ee8c2b1ac1bde2c2dd2",
        "_stream": '{service.name="nightly"}',
        "_msg": "loaded",
        "host.name": "etl-1",
        "prefect.flow.name": "etl",
        "prefect.flow_run.id": FLOW_RUN,
        "prefect.flow_run.name": "meaty-vicugna",
        "scope.name": "prefect.flow_runs",
        "scope.version": "unknown",
        "service.name": "nightly",
        "severity_number": "9",
        "severity_text": "INFO",
        "span_id": "1".zfill(16),
        "trace_id": TRACE,
        **fields,
    }


@dataclass
class Server:
    """A replacement for VictoriaLogs: gives one answer to queries for lines, another to others."""

    url: str
    lines: list[dict[str, str]] = field(default_factory=list)
    runs: list[dict[str, str]] = field(default_factory=list)
    answer: tuple[int, bytes] | None = None
    queries: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    def respond(self, query: str) -> tuple[int, bytes]:
        self.queries.append(query)
        rows = self.runs if "| stats" in query else self.lines
        return self.answer or (200, "".join(f"{json.dumps(row)}\n" for row in rows).encode())


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            assert url.path == "/select/logsql/query"
            served.headers = {name.lower(): value for name, value in self.headers.items()}
            status, body = served.respond(parse_qs(url.query)["query"][0])
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        served = Server(f"http://127.0.0.1:{listening.server_port}")
        thread = threading.Thread(target=listening.serve_forever, args=[0.05])
        thread.start()
        yield served
        listening.shutdown()
        thread.join()


def read(server: Server, wanted: str = TRACE) -> Logs:
    return load(base_url(server.url), wanted)


def test_a_line_is_what_was_logged(server: Server) -> None:
    """Its fields become the parts of the record, to the nanosecond."""
    server.lines = [line("01.000000042", region="eu west")]
    (log,) = read(server).logs
    assert log.time % 10**10 == 1_000_000_042
    assert (log.message, log.level, log.severity, log.logger) == (
        "loaded",
        "INFO",
        9,
        "prefect.flow_runs",
    )
    assert (log.trace_id, log.span_id, log.flow_run_id) == (TRACE, "1".zfill(16), FLOW_RUN)
    assert log.resource == {"service.name": "nightly", "host.name": "etl-1"}
    assert log.fields == {"region": '"eu west"'}


def test_lines_are_in_order_of_time(server: Server) -> None:
    """VictoriaLogs returns them in any order, and without trailing zeros."""
    server.lines = [line(second) for second in ("02", "01.5", "01.000000009", "01.25")]
    assert [log.time % 10**10 for log in read(server).logs] == [
        1_000_000_009,
        1_250_000_000,
        1_500_000_000,
        2_000_000_000,
    ]


def test_what_a_stream_consists_of_is_the_resource(server: Server) -> None:
    """Except attributes of the run, if somebody has streams of flows."""
    stream = r'{prefect.flow.name="etl",service.name="nightly",team="a \"b\", c=\"d\""}'
    server.lines = [line("01", _stream=stream, team='a "b", c="d"')]
    (log,) = read(server).logs
    assert log.resource.keys() == {"service.name", "host.name", "team"}
    assert log.attributes["prefect.flow.name"] == "etl"


def test_a_line_without_text_has_none(server: Server) -> None:
    """VictoriaLogs has a sentence of its own in its place."""
    server.lines = [line("01", _msg="missing _msg field; see https://docs.victoriametrics.com/")]
    (log,) = read(server).logs
    assert (log.body, log.message) == (None, "")


def test_what_is_asked_for(server: Server) -> None:
    """A trace by its id; a run by its own id, and as the root of a trace."""
    server.lines = [line("01")]
    read(server, TRACE)
    read(server, TASK_RUN)
    of_trace, of_run = server.queries
    assert of_trace == f'"trace_id":="{TRACE}"{NO_REPORTS}'
    assert of_run == (
        f'("trace_id":="{trace_of_root(TASK_RUN)}" or "prefect.flow_run.id":="{TASK_RUN}"'
        f' or "prefect.task_run.id":="{TASK_RUN}"){NO_REPORTS}'
    )


def test_reports_of_open_runs_are_asked_for_only_if_wanted(server: Server) -> None:
    """They are log records, too, of a scope of their own."""
    server.lines = [line("01")]
    load(base_url(server.url), TRACE, events=True)
    assert server.queries == [f'"trace_id":="{TRACE}"']


@pytest.mark.parametrize(
    ("wanted", "asked"),
    [
        ("meaty-vicugna", '"prefect.flow_run.name":="meaty-vicugna"'),
        (FLOW_RUN[:13], f'"prefect.flow_run.id":="{FLOW_RUN[:13]}"*'),
        (FLOW_RUN[:13].replace("-", ""), f'"prefect.flow_run.id":="{FLOW_RUN[:13]}"*'),
        (TRACE[:8], f'"trace_id":="{TRACE[:8]}"*'),
    ],
)
def test_a_name_or_the_first_digits_will_do(server: Server, wanted: str, asked: str) -> None:
    """Of a run or a trace: first it is searched for, then its lines are read."""
    server.lines = [line("01")]
    server.runs = [RUN]
    assert read(server, wanted).logs
    assert asked in server.queries[0]
    assert "| stats" not in server.queries[-1]


def test_what_may_be_several_runs_is_refused(server: Server) -> None:
    """The error has them all."""
    server.runs = [RUN, RUN | {"trace_id": "ab" * 16, "prefect.flow_run.id": TASK_RUN}]
    with pytest.raises(AmbiguousRunError) as raised:
        read(server, "meaty-vicugna")
    assert {known.run_id for known in raised.value.known} == {FLOW_RUN, TASK_RUN}


def test_the_latest_is_asked_for_first(server: Server) -> None:
    """Then all lines of its trace."""
    server.lines = [line("01")]
    server.runs = [{"trace_id": TRACE, "last_time": "2026-11-01T02:00:01Z"}]
    assert read(server, "latest").logs
    assert server.queries[-1] == f'"trace_id":="{TRACE}"{NO_REPORTS}'


def test_the_one_before_the_latest(server: Server) -> None:
    """It is the second trace; if there are too few, none is found."""
    server.lines = [line("01")]
    server.runs = [
        {"trace_id": TRACE, "last_time": "2026-11-01T02:00:01Z"},
        {"trace_id": "ab" * 16, "last_time": "2026-11-01T02:00:02Z"},
    ]
    assert read(server, "latest~1").logs
    assert f'"trace_id":="{TRACE}"' in server.queries[-1]
    server.lines = []
    with pytest.raises(UnknownRunError):
        read(server, "latest~2")


def test_an_unknown_run_is_told_from_the_known(server: Server) -> None:
    """The error has the runs that logged last."""
    server.runs = [RUN]
    with pytest.raises(UnknownRunError, match="holds no log lines of trace or run") as raised:
        read(server)
    known = raised.value.known[0]
    assert (known.trace_id, known.run_id) == (TRACE, FLOW_RUN)
    assert (known.name, known.run_name) == ("etl", "meaty-vicugna")
    assert known.end % 10**10 == 1_500_000_000


def test_an_unreadable_line_is_a_problem(server: Server) -> None:
    """All others are read."""
    server.lines = [line("01"), line("02", _time="noon"), line("03", trace_id="xyz")]
    found = read(server)
    assert len(found.logs) == 1
    no_time, no_id = map(str, found.problems)
    assert no_time == f"{server.url}: log record skipped: 'noon' is no time"
    assert "trace id" in no_id


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, b"cannot parse query", "answers HTTP 400: cannot parse query"),
        (401, b"", "asks for credentials"),
        (200, b"<html>", "does not answer as VictoriaLogs's API"),
        (200, b"3", "does not answer as VictoriaLogs's API"),
        (404, b"", "answers HTTP 404: Not Found"),
    ],
)
def test_what_is_not_victorialogs_or_refuses_is_told_apart(
    server: Server, status: int, body: bytes, words: str
) -> None:
    """The message has the place and the answer."""
    server.answer = status, body
    with pytest.raises(SourceError) as raised:
        read(server)
    assert str(raised.value).startswith(f"{server.url} {words}")


def test_the_command_prints_and_sends_headers(server: Server, tmp_path: Path) -> None:
    """FLOWSPAN_DIR has no effect, --file is refused."""
    server.lines = [line("01", _msg="two\nlines")]
    option = ("--victorialogs", server.url)
    variables = {
        "FLOWSPAN_DIR": "/nowhere",
        "FLOWSPAN_VICTORIALOGS_HEADERS": "AccountID=12,Authorization=Bearer%20x",
    }
    done = flowspan("logs", TRACE, *option, cwd=tmp_path, **variables)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first.endswith("INFO     etl two")
    assert second.strip() == "lines"
    assert server.headers["accountid"] == "12"
    assert server.headers["authorization"] == "Bearer x"
    refused = flowspan("logs", TRACE, *option, "--file", "x", cwd=tmp_path)
    assert "Use one or the other." in refused.stderr


def test_the_command_says_what_to_do(tmp_path: Path) -> None:
    """If nobody answers."""
    with refusing_endpoint() as url:
        done = flowspan("logs", "--victorialogs", url, cwd=tmp_path)
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr
    assert "Name the URL of VictoriaLogs" in done.stderr
