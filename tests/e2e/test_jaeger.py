"""Jaeger has the same run of the demo as the embedded files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flowspan import identity, semconv
from flowspan.read import jaeger, trace_files
from flowspan.read.server import base_url
from running import Collector, Jaeger, run_demo, running, wait_for
from running import read as fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

pytestmark = pytest.mark.timeout(400)  # the demo takes a while on a busy machine

# A span in OTLP JSON, with its resource and its scope.
Span = dict[str, Any]
Told = tuple[Any, Any, Span]


def spans_of(documents: Iterable[dict[str, Any]]) -> dict[str, Told]:
    """Read OTLP JSON without flowspan's reader, so that it does not check itself."""
    found = [
        (owner["resource"], scope["scope"], span)
        for document in documents
        for owner in document["resourceSpans"]
        for scope in owner["scopeSpans"]
        for span in scope["spans"]
    ]
    by_id = {told[2]["spanId"]: told for told in found}
    assert len(by_id) == len(found), "a span came twice"
    return by_id


def ordered(node: Any) -> Any:
    """Sort attributes by name; everything else has an order."""
    if isinstance(node, dict):
        return {
            key: sorted(value, key=lambda item: item["key"]) if key == "attributes" else value
            for key, value in ((key, ordered(value)) for key, value in node.items())
        }
    if isinstance(node, list | tuple):
        return [ordered(item) for item in node]
    return node


def as_in_memory(span: Span) -> Span:
    """Return the span unchanged: Jaeger changes nothing in memory."""
    return span


def as_on_disk(span: Span) -> Span:
    """Return a span as Jaeger's Badger storage changes it: its older format has less than OTLP."""
    kept = {key: value for key, value in span.items() if key != "flags"}
    # Lists become their JSON text.
    kept["attributes"] = [
        {"key": item["key"], "value": {"stringValue": json.dumps(plain(item["value"]))}}
        if "arrayValue" in item["value"]
        else item
        for item in span["attributes"]
    ]
    # A link loses its attributes and gets the older format's only type of link.
    follows = {"key": "opentracing.ref_type", "value": {"stringValue": "follows_from"}}
    if "links" in span:
        kept["links"] = [
            {"traceId": link["traceId"], "spanId": link["spanId"], "attributes": [follows]}
            for link in span["links"]
        ]
    return kept


@dataclass(frozen=True)
class Demo:
    """One run of the demo: in files, and in a Jaeger that changes spans like `keep`."""

    folder: Path
    jaeger: Jaeger
    keep: Callable[[Span], Span]

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines of the embedded file."""
        return [*map(json.loads, (self.folder / "traces.jsonl").read_text().splitlines())]

    @property
    def kept(self) -> list[dict[str, Any]]:
        """The lines of the embedded file, with Jaeger's changes."""
        lines = self.lines
        for line in lines:
            for owner in line["resourceSpans"]:
                for scope in owner["scopeSpans"]:
                    scope["spans"] = [*map(self.keep, scope["spans"])]
        return lines

    @property
    def spans(self) -> list[Span]:
        """The spans in the embedded file."""
        return [span for _, _, span in spans_of(self.lines).values()]

    @property
    def trace_id(self) -> str:
        """The id of the only trace."""
        (found,) = {span["traceId"] for span in self.spans}
        return str(found)

    def ask(self, path: str) -> Any:
        """Return an answer of Jaeger's API."""
        return json.loads(fetch(f"{self.jaeger.url}/api/{path}"))

    def in_jaeger(self) -> dict[str, Told]:
        """Return the stored spans of the trace."""
        return spans_of([self.ask(f"v3/traces/{self.trace_id}?raw_traces=true")["result"]])


@pytest.fixture(
    scope="module",
    # The tests of one run stay on one worker.
    params=[
        pytest.param((protocol, keep), id=name, marks=pytest.mark.xdist_group(name))
        for protocol, keep, name in (
            ("grpc", as_in_memory, "grpc-memory"),
            ("http/protobuf", as_on_disk, "http-disk"),
        )
    ],
)
def demo(
    request: pytest.FixtureRequest, prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Demo]:
    """Run the demo with either protocol and either storage of Jaeger."""
    protocol, keep = request.param
    folder = tmp_path_factory.mktemp("demo")
    backend = Jaeger(folder / "jaeger", on_disk=keep is as_on_disk)
    collector = Collector(folder, "jaeger", JAEGER_ENDPOINT=f"127.0.0.1:{backend.otlp}")
    with running(backend, collector):
        files = folder / "embedded"
        endpoint = collector.endpoint(protocol)
        run_demo(prefect_server, files, endpoint, OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
        told = Demo(files, backend, keep)
        wait_for(lambda: len(told.in_jaeger()) >= len(told.spans), 30, "the trace in Jaeger")
        yield told


def test_every_span_is_there_whole(demo: Demo) -> None:
    """Tree, names, kinds, times, attributes, events, links, status, scope and resource."""
    expected = spans_of(demo.kept)
    found = demo.in_jaeger()
    assert found.keys() == expected.keys()
    for span_id, told in expected.items():
        assert ordered(found[span_id]) == ordered(told)


def test_the_demo_has_what_is_compared(demo: Demo) -> None:
    """The comparison detects a lost link, a lost status or a lost level of the tree."""
    spans = {span["spanId"]: span for span in demo.spans}
    assert Counter(span["kind"] for span in spans.values()) == {1: 31, 2: 1}
    errors = [span for span in spans.values() if span["status"].get("code") == 2]
    assert sorted(span["name"] for span in errors) == ["attempt 1", "geocode"]
    assert all(span["status"]["message"] for span in errors)
    assert sum(len(span.get("links", ())) for span in spans.values()) >= 20
    assert {event["name"] for span in spans.values() for event in span.get("events", ())} >= {
        *("Pending", "Running", "Completed", "Cached", "TimedOut", "AwaitingRetry"),
        *("exception", "slo.violated"),
    }
    parents = {span_id: span.get("parentSpanId") for span_id, span in spans.items()}
    assert Counter(depth(span_id, parents) for span_id in spans) == {1: 1, 2: 24, 3: 7}


def depth(span_id: str | None, parents: dict[str, str | None]) -> int:
    return 1 + depth(parents[span_id], parents) if span_id else 0


def test_ids_are_derived(demo: Demo) -> None:
    """A run's id is enough to find its trace and span in Jaeger."""
    runs = {
        span["spanId"]: values(span)[semconv.RUN_ID]
        for span in demo.spans
        if semconv.RUN_ID in values(span)
    }
    (root,) = (span["spanId"] for span in demo.spans if not span.get("parentSpanId"))
    assert demo.trace_id == f"{identity.derive_trace_id(runs[root]):032x}"
    for span_id, (_, _, span) in demo.in_jaeger().items():
        if span_id in runs:
            derived = identity.derive_span_id(runs[span_id])
        else:
            attempt = values(span)[semconv.ATTEMPT]
            derived = identity.derive_attempt_span_id(runs[span["parentSpanId"]], attempt)
        assert span_id == f"{derived:016x}"


def test_flowspans_readers_agree(demo: Demo) -> None:
    """The timeline is drawn from the same spans, from Jaeger or from files."""
    url = base_url(demo.jaeger.url)
    found = jaeger.load(url, demo.trace_id)
    lines = "\n".join(map(json.dumps, demo.kept)).encode()
    assert found == trace_files.parse(lines, demo.trace_id, "kept")
    if demo.keep is as_in_memory:
        assert found == trace_files.load(demo.folder, demo.trace_id)


# The API of Jaeger's UI


def plain(value: dict[str, Any]) -> Any:
    """Return the value of an attribute."""
    ((kind, held),) = value.items()
    match kind:
        case "intValue":
            return int(held)
        case "arrayValue":
            return [*map(plain, held.get("values", ()))]
    return held


def values(holder: dict[str, Any]) -> dict[str, Any]:
    return {item["key"]: plain(item["value"]) for item in holder.get("attributes", ())}


def tags(fields: list[dict[str, Any]]) -> dict[str, Any]:
    return {field["key"]: field["value"] for field in fields}


def for_ui(holder: dict[str, Any]) -> dict[str, Any]:
    """Return a value as the UI has it: lists are JSON text."""
    return {
        key: json.dumps(value) if isinstance(value, list) else value
        for key, value in values(holder).items()
    }


def test_the_ui_shows_every_span(demo: Demo) -> None:
    """The UI has microseconds, and tags instead of kinds, statuses and scopes.

    Links are references without attributes, and an event's name is one of its fields.
    """
    (trace,) = demo.ask(f"traces/{demo.trace_id}")["data"]
    told = spans_of(demo.lines)
    assert len(trace["spans"]) == len(told)
    for shown in trace["spans"]:
        resource, scope, span = told[shown["spanID"]]
        start, end = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
        assert (shown["startTime"], shown["duration"]) == (start // 1000, (end - start) // 1000)
        assert shown["operationName"] == span["name"]
        assert shown["warnings"] is None

        status = span["status"]
        as_tags = {
            "span.kind": {1: "internal", 2: "server"}[span["kind"]],
            "otel.scope.name": scope["name"],
            "otel.scope.version": scope["version"],
        }
        if status:
            as_tags |= {"otel.status_code": "ERROR", "error": True}
            as_tags["otel.status_description"] = status["message"]
        assert tags(shown["tags"]) == for_ui(span) | as_tags

        process = trace["processes"][shown["processID"]]
        of_process = {"service.name": process["serviceName"], **tags(process["tags"])}
        assert of_process == values(resource)

        assert [(log["timestamp"], tags(log["fields"])) for log in shown["logs"]] == [
            (int(event["timeUnixNano"]) // 1000, {"event": event["name"], **for_ui(event)})
            for event in span.get("events", ())
        ]
        parent = span.get("parentSpanId")
        references = [("CHILD_OF", parent)] if parent else []
        references += [("FOLLOWS_FROM", link["spanId"]) for link in span.get("links", ())]
        shown_references = [(found["refType"], found["spanID"]) for found in shown["references"]]
        assert shown_references == references
        assert {found["traceID"] for found in shown["references"]} <= {demo.trace_id}


# flowspan timeline --jaeger


def timeline(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).with_name("flowspan")
    return subprocess.run(
        [command, "timeline", *arguments], check=False, capture_output=True, text=True, timeout=60
    )


def test_the_timeline_is_the_same(demo: Demo) -> None:
    """By the id of the trace, of the flow run, of a task run far below it, or as the latest."""
    (root,) = (span for span in demo.spans if not span.get("parentSpanId"))
    (task,) = (span for span in demo.spans if span["name"] == "join_planes")
    expected = timeline(demo.trace_id, "--file", str(demo.folder))
    assert expected.returncode == 0, expected.stderr
    assert "29 runs" in expected.stdout
    ids = (values(span)[semconv.RUN_ID] for span in (root, task))
    for wanted in (demo.trace_id, *ids, "latest"):
        found = timeline(wanted, "--jaeger", demo.jaeger.url)
        assert (found.returncode, found.stderr) == (0, "")
        assert found.stdout == expected.stdout


def test_a_flow_and_a_time_choose_the_run(demo: Demo) -> None:
    """With a real Jaeger's search; runs that are too old or of no such flow are reported."""
    expected = timeline("latest", "--file", str(demo.folder))
    place = ("--jaeger", demo.jaeger.url)
    for choice in (("--flow", "nyc-flights"), ("--flow", "nyc-flights", "--since", "1h")):
        found = timeline(*choice, *place)
        assert (found.returncode, found.stderr, found.stdout) == (0, "", expected.stdout)
    for choice in (("--flow", "unknown"), ("--flow", "nyc-flights", "--since", "1s")):
        found = timeline(*choice, *place)
        assert (found.returncode, found.stdout) == (1, "")
        assert demo.trace_id in found.stderr


def test_trends_are_those_of_the_files(demo: Demo) -> None:
    """Jaeger's search finds the only run, with the same answers."""

    def trends(*arguments: str) -> Any:
        command = Path(sys.executable).with_name("flowspan")
        done = subprocess.run(
            [command, "trends", "--json", *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    expected = trends("--file", str(demo.folder))
    assert [len(flow["runs"]) for flow in expected["flows"]] == [1]
    assert trends("--jaeger", demo.jaeger.url) == expected
    since = ("--flow", "nyc-flights", "--since", "1h")
    assert trends("--jaeger", demo.jaeger.url, *since) == expected


def test_an_unknown_trace_is_told_from_the_known(demo: Demo) -> None:
    """The message says that Jaeger has no such id, and lists the ids it has."""
    found = timeline("0123456789abcdef" * 2, "--jaeger", demo.jaeger.url)
    assert found.returncode == 1
    assert demo.trace_id in found.stderr


def test_jaeger_does_not_trace_itself(demo: Demo) -> None:
    """After many requests it only has the flow's service."""
    assert demo.ask("v3/services") == {"services": ["prefect"]}
