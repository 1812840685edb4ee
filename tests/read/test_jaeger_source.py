"""Reading spans from Jaeger."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jaeger_server import Answer, Jaeger, jaeger_server
from opentelemetry.trace import SpanKind
from rendered import rendered
from span_files import EPOCH, Plan, raw_line, raw_span, run, write

from commands import flowspan
from flowspan import semconv
from flowspan.errors import SourceError
from flowspan.identity import derive_trace_id
from flowspan.read import jaeger, span, trace_files
from flowspan.read import server as server_module
from flowspan.read.selection import UnknownRunError
from flowspan.read.server import base_url, parse_headers
from flowspan.views.json import timeline
from sinks import refusing_endpoint, self_signed_certificate, silent_endpoint


def root_trace(run_id: str) -> str:
    """Derive a trace id like the command."""
    return f"{derive_trace_id(run_id):032x}"


def load(server: Jaeger | str, wanted: str = "latest", **headers: str) -> span.Trace:
    """Return a trace from a server or a URL."""
    url = base_url(server if isinstance(server, str) else server.url)
    return jaeger.load(url, wanted, headers=headers)


def names(trace: span.Trace) -> list[str]:
    """Return the names of a trace's spans."""
    return [span.name for span in trace.spans]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Jaeger]:
    """A Jaeger server without traces."""
    with jaeger_server(tmp_path / "storage.jsonl") as running:
        yield running


def test_a_trace_is_the_same_as_from_the_embedded_file(server: Jaeger) -> None:
    """Nanoseconds, kinds, links, events, status and resources are kept, without problems."""
    plan = run("RUN etl", 0, 9.000000001, run("load", 1, 2.5, run("extract", 1, 2), error="no"))
    plan.children[0].running = 1.000000003
    plan.children[0].kind = SpanKind.CLIENT
    plan.children[0].attributes |= {"rows": 2**53 + 1, "ratio": 0.1, "ok": True, "list": [1, 2]}
    trace_id = write(server.file, plan).trace_id
    write(server.file, run("RUN other", 0, 10))
    expected = trace_files.load(server.file, trace_id)
    found = load(server, trace_id)
    assert found == expected
    assert rendered(timeline.render, found) == rendered(timeline.render, expected)


def test_jaeger_is_asked_for_the_trace_as_it_was_stored(server: Jaeger) -> None:
    """With either parameter name; otherwise it corrects clock skew and adds warnings."""
    trace_id = write(server.file, run("RUN etl", 0, 9)).trace_id
    load(server, trace_id.upper())
    ((path, query, headers),) = server.asked
    assert path == f"/api/v3/traces/{trace_id}"
    assert query == {"rawTraces": "true", "raw_traces": "true"}
    assert headers["user-agent"].startswith("flowspan/")


def test_a_flow_run_is_found_by_its_derived_trace_id(server: Jaeger) -> None:
    """One request is enough, whatever the spelling of the id."""
    run_id = str(uuid.uuid4())
    trace_id = write(server.file, run("RUN etl", 0, 9, run_id=run_id)).trace_id
    server.file.write_text(server.file.read_text().replace(trace_id, root_trace(run_id)))
    assert load(server, run_id.upper()).trace_id == root_trace(run_id)
    assert server.paths == [f"v3/traces/{root_trace(run_id)}"]
    assert load(server, run_id.replace("-", "")).trace_id == root_trace(run_id)


@pytest.mark.parametrize("has_summaries", [True, False])
def test_other_runs_are_found_by_search(server: Jaeger, *, has_summaries: bool) -> None:
    """A task run, a flow run with a remote parent, and one whose own span was lost."""
    server.has_summaries = has_summaries
    flow, task, lost = (str(uuid.uuid4()) for _ in range(3))
    tree = run("RUN etl", 0, 9, run("load", 1, 2, run_id=task), run_id=flow)
    child = run("a", 1, 2)
    child.attributes[semconv.FLOW_RUN_ID] = lost
    wanted = write(server.file, tree, service="days").trace_id
    orphan = write(server.file, run("RUN killed", 0, 5, child, lost=True)).trace_id
    write(server.file, run("RUN other", 0, 20))
    assert [load(server, text).trace_id for text in (flow, task, lost)] == [wanted, wanted, orphan]


@pytest.mark.parametrize("has_summaries", [True, False])
def test_latest_is_the_trace_whose_run_ended_last(server: Jaeger, *, has_summaries: bool) -> None:
    """Of all services; traces without runs do not count."""
    server.has_summaries = has_summaries
    write(server.file, run("RUN early", 0, 50), service="a")
    write(server.file, run("RUN late", 0, 90), service="b")
    write(server.file, run("RUN earlier", 0, 40), service="c")
    write(server.file, Plan("GET", 0, 100), service="b")
    assert names(load(server)) == ["RUN late"]
    assert names(load(server, "latest~1")) == ["RUN early"]
    assert names(load(server, "latest~2")) == ["RUN earlier"]
    with pytest.raises(UnknownRunError, match="holds no trace or run latest~3") as unknown:
        load(server, "latest~3")
    assert len(unknown.value.known) == 3


def test_latest_is_also_a_trace_without_its_flow(server: Jaeger) -> None:
    """A killed process never exports the flow's span."""
    write(server.file, run("RUN killed", 0, 5, run("load", 1, 4), lost=True))
    write(server.file, run("RUN early", 0, 2))
    assert names(load(server)) == ["load"]


def test_an_older_time_is_searched_if_the_last_day_has_none(server: Jaeger) -> None:
    """The API cannot search without a time."""
    write(server.file, Plan("GET", 0, 100))
    with pytest.raises(UnknownRunError, match="holds no runs of the last 30 days"):
        load(server)
    searches = [query for _, query, _ in server.asked if "query.startTimeMin" in query]
    assert len({query["query.startTimeMin"][:10] for query in searches}) == 2
    assert len(searches) == 4


@pytest.mark.parametrize("has_summaries", [True, False])
def test_an_unknown_id_tells_of_the_latest_traces(server: Jaeger, *, has_summaries: bool) -> None:
    """At most five, the latest first; an empty Jaeger has none."""
    server.has_summaries = has_summaries
    with pytest.raises(UnknownRunError, match="holds no trace or run") as empty:
        load(server, "0" * 31 + "1")
    ids = [write(server.file, run(f"RUN etl {n}", n, n + 1)).trace_id for n in range(7)]
    with pytest.raises(UnknownRunError) as unknown:
        load(server, str(uuid.uuid4()))
    assert empty.value.known == ()
    assert [known.trace_id for known in unknown.value.known] == ids[:1:-1]
    latest = unknown.value.known[0]
    assert (latest.name, latest.end) == ("RUN etl 6", EPOCH + 7 * 10**9)


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_base_path_and_credentials_are_part_of_the_url(tmp_path: Path, slash: str) -> None:
    """User and password become Basic authentication, and further headers are sent."""
    with jaeger_server(tmp_path / "f.jsonl", "/tools/jaeger") as server:
        trace_id = write(server.file, run("RUN etl", 0, 9)).trace_id
        url = server.url.replace("//", "//ann:p%40ss@") + slash
        assert names(load(url, trace_id, **{"x-tenant": "etl"})) == ["RUN etl"]
    ((path, _, headers),) = server.asked
    assert path == f"/tools/jaeger/api/v3/traces/{trace_id}"
    assert headers["authorization"] == "Basic YW5uOnBAc3M="
    assert headers["x-tenant"] == "etl"


def test_a_streamed_answer_is_put_together(server: Jaeger) -> None:
    """A gRPC stream over HTTP has one wrapped part per line; a bad one is skipped."""
    parts = [json.loads(raw_line(raw_span(number))) for number in (1, 2)]
    lines = [json.dumps({"result": part}) for part in parts]
    error = {"error": {"grpcCode": 13, "message": "lost"}}
    body = "\n".join([lines[0], json.dumps(error), lines[1], ""]).encode()
    server.answer = lambda _: (200, body, {})
    trace = load(server, "ab" * 16)
    assert names(trace) == ["span 1", "span 2"]
    place = f"{server.url}/api/v3/traces/{'ab' * 16}"
    assert [str(problem) for problem in trace.problems] == [f"{place}: not OTLP: no resourceSpans"]


def test_an_answer_saved_to_a_file_can_be_read(tmp_path: Path) -> None:
    """An answer saved with curl is a file of wrapped OTLP JSON."""
    file = tmp_path / "f.json"
    file.write_text(json.dumps({"result": json.loads(raw_line(raw_span(1)))}))
    trace = trace_files.load(file)
    assert (names(trace), trace.problems) == (["span 1"], ())


def test_a_bad_span_does_not_cost_its_neighbours(server: Jaeger) -> None:
    """The problem names the span's source."""
    server.file.write_text(raw_line(raw_span(1), raw_span(2, startTimeUnixNano="soon")))
    trace = load(server, "ab" * 16)
    assert (names(trace), len(trace.problems)) == (["span 1"], 1)
    assert str(trace.problems[0]).endswith(": span skipped: its start time is no number")


def answer(status: int, body: str | bytes, **headers: str) -> Answer:
    """Return a function that gives every request the same answer."""
    return status, body if isinstance(body, bytes) else body.encode(), headers


@pytest.mark.parametrize("wanted", ["latest", "ab" * 16])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (answer(200, "<html>Grafana</html>"), "does not answer as Jaeger's API (HTTP 200)"),
        (answer(200, ""), "does not answer as Jaeger's API (HTTP 200)"),
        (answer(200, "[]"), "does not answer as Jaeger's API (HTTP 200)"),
        (answer(404, "404 page not found"), "does not answer as Jaeger's API (HTTP 404)"),
        (answer(404, '{"message": "Not found"}'), "does not answer as Jaeger's API (HTTP 404)"),
        (answer(401, "no"), "asks for credentials, or other ones (HTTP 401)"),
        (answer(403, '{"error": {}}'), "asks for credentials, or other ones (HTTP 403)"),
        (answer(500, '{"error": {"message": "a\\nb\\u001b"}}'), "answers HTTP 500: a b�"),
        (answer(503, "<html>"), "answers HTTP 503: Service Unavailable"),
        (answer(429, ""), "answers HTTP 429: Too Many Requests"),
        (answer(302, "", Location="https://u:p@sso/login?token=1"), "sends us on to https://sso/login:"),
        (answer(301, "", Location="/jaeger/"), "/jaeger/: is it there, or a log-in?"),
        (answer(307, "", Location="http://[bad"), "sends us on to http://%5bbad:"),
        (answer(307, "", Location="http://a:many"), "cannot be reached: "),
        (answer(200, b"\x1f\x8b broken", **{"Content-Encoding": "gzip"}), "cannot be reached: "),
    ],
)  # fmt: skip
def test_what_is_not_jaeger_or_refuses_is_told_apart(
    server: Jaeger, wanted: str, given: Answer, words: str
) -> None:
    """The message has the place without its secrets, and the answer."""
    server.answer = lambda _: given
    with pytest.raises(SourceError) as raised:
        load(server.url.replace("//", "//ann:secret@"), wanted)
    assert str(raised.value).startswith(f"{server.url} ")
    assert words in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "body",
    [
        '{"result": {}}',
        '{"result": [1]}',
        '{"result": {"resourceSpans": 3}}',
        '{"resourceSpans": [{"scopeSpans": [{"spans": [3]}]}]}',
        '{"services": 7}',
        '{"services": ["a"], "summaries": 7}',
        '{"services": [null, {}], "summaries": [7]}',
        '{"services": ["a"], "summaries": [{"traceId": "no"}, {}]}',
        '{"services": ["a"], "summaries": [{"traceId": "' + "ab" * 16 + '"}]}',
        "{",
        '{"result": {"resourceSpans": [{"sco',
    ],
)
@pytest.mark.parametrize("wanted", ["latest", "ab" * 16])
def test_nonsense_is_no_trace(server: Jaeger, wanted: str, body: str) -> None:
    """Any malformed answer ends in an error that the command can report."""
    server.answer = lambda _: answer(200, body)
    with pytest.raises(UnknownRunError):
        load(server, wanted)


def test_a_server_that_cannot_be_asked_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens, no such host, no answer, and certificates that do not exist."""
    monkeypatch.setattr(server_module, "ANSWER_TIMEOUT", 0.2)
    with refusing_endpoint() as url, pytest.raises(SourceError, match=r"reached: .*[Rr]efused"):
        load(url)
    with silent_endpoint() as url, pytest.raises(SourceError, match="does not answer in time"):
        load(url)
    with pytest.raises(SourceError, match="cannot be reached"):
        load("http://127.0.0.1:99999")
    with pytest.raises(SourceError, match="cannot be reached"):
        load("http://" + "a" * 64 + ".invalid")
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    with pytest.raises(SourceError, match="cannot be asked from here"):
        load("https://127.0.0.1:1")


def test_https_trusts_the_authorities_that_ssl_cert_file_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for all programs that use OpenSSL."""
    tls = self_signed_certificate(tmp_path)
    with jaeger_server(tmp_path / "f.jsonl", tls=tls) as server:
        trace_id = write(server.file, run("RUN etl", 0, 9)).trace_id
        with pytest.raises(SourceError, match="certificate verify failed"):
            load(server, trace_id)
        monkeypatch.setenv("SSL_CERT_FILE", str(tls.certificate))
        assert names(load(server, trace_id)) == ["RUN etl"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "no URL"),
        ("localhost:16686", "no URL"),
        ("localhost", "no URL"),
        ("http://", "no URL"),
        ("ftp://localhost", "no URL"),
        ("http://localhost:many", "no URL"),
        ("http://xn--.example", "no URL"),
        ("http://\x00", "no URL"),
        ("http://localhost:16686/search?service=etl", "query or a fragment"),
        ("http://localhost:16686/#top", "query or a fragment"),
    ],
)
def test_a_url_that_is_none_is_refused(url: str, words: str) -> None:
    """No request is sent."""
    with pytest.raises(ValueError, match=words):
        base_url(url)


def test_a_url_may_be_of_ipv6_or_stand_in_spaces() -> None:
    """Pasted URLs may have spaces around them."""
    assert base_url(" http://[::1]:16686/ ") == httpx.URL("http://[::1]:16686/")


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        ("", {}),
        (" , ", {}),
        ("Authorization=Bearer%20a%3Db", {"Authorization": "Bearer a=b"}),
        ("a=Basic abc=,x-tenant = etl", {"a": "Basic abc=", "x-tenant": "etl"}),
    ],
)
def test_headers_are_read_as_opentelemetry_writes_them(text: str, headers: dict[str, str]) -> None:
    """URL-encoded, but spaces are harmless."""
    assert parse_headers(text) == headers


@pytest.mark.parametrize(
    "text", ["secret", "a=b,secret", "=secret", "a=secret%0Aé", "a\x00=secret"]
)
def test_headers_that_are_none_are_refused_without_telling_them(text: str) -> None:
    """They may contain a token."""
    with pytest.raises(ValueError, match=r"Header [12] is not of the form") as raised:
        parse_headers(text)
    assert "secret" not in str(raised.value)


def test_the_command_draws_and_prints_the_same_as_from_a_file(server: Jaeger) -> None:
    """Both the tree and the document, and FLOWSPAN_DIR has no effect."""
    trace_id = write(server.file, run("RUN etl", 0, 9, run("load", 1, 5))).trace_id
    folder = server.file.parent
    for options in ((), ("--json",)):
        arguments = ("timeline", trace_id, *options)
        of_file = flowspan(*arguments, "--file", server.file, cwd=folder)
        done = flowspan(*arguments, "--jaeger", server.url, cwd=folder, FLOWSPAN_DIR="/nowhere")
        assert (done.returncode, done.stderr, done.stdout) == (0, "", of_file.stdout)


def test_the_command_sends_headers_of_the_environment(server: Jaeger) -> None:
    """A token does not belong on the command line."""
    write(server.file, run("RUN etl", 0, 9))
    environment = {"FLOWSPAN_JAEGER_HEADERS": "Authorization=Bearer%20t"}
    arguments = ("timeline", "--jaeger", server.url)
    done = flowspan(*arguments, cwd=server.file.parent, **environment)
    assert (done.returncode, "RUN etl" in done.stdout) == (0, True)
    assert {headers["authorization"] for _, _, headers in server.asked} == {"Bearer t"}


def test_the_command_says_what_to_do(server: Jaeger) -> None:
    """Missing and partly read traces exit with 1."""
    folder = server.file.parent
    done = flowspan("timeline", "--jaeger", server.url, cwd=folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{server.url} holds no runs of the last 30 days." in done.stderr
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in done.stderr
    with refusing_endpoint() as url:
        done = flowspan("timeline", "--jaeger", url, cwd=folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot be reached" in done.stderr
    server.file.write_text(raw_line(raw_span(1), raw_span(2, spanId="")))
    done = flowspan("timeline", "ab" * 16, "--jaeger", server.url, cwd=folder)
    assert (done.returncode, "span 1" in done.stdout) == (1, True)
    assert "span skipped: no span id" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--jaeger", "localhost:16686"), "--jaeger: It is no URL"),
        (("--jaeger", "http://127.0.0.1:1", "--logs"), "Jaeger has spans but no log lines"),
        (("--jaeger", "http://127.0.0.1:1", "--file", "."), "--file, --jaeger: Use one or"),
        (("", "--jaeger", "http://127.0.0.1:1"), "RUN: It is empty"),
    ],
)
def test_wrong_usage_exits_with_2(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    """Before any request is sent."""
    done = flowspan("timeline", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    wrong: dict[str, Any] = {"FLOWSPAN_JAEGER_HEADERS": "s3cret"}
    done = flowspan("timeline", "--jaeger", "http://127.0.0.1:1", cwd=tmp_path, **wrong)
    assert (done.returncode, "s3cret" in done.stderr) == (2, False)
    assert "FLOWSPAN_JAEGER_HEADERS" in done.stderr
