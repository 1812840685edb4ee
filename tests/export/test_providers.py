"""The SDK that flowspan builds: real exporters, real endpoints on loopback, real processes."""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import requests
from opentelemetry import trace as trace_api
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from clocks import SLACK
from flowspan.export import outages, providers, routes
from flowspan.export.bounded import BoundedTracerProvider
from flowspan.settings import Settings
from processes import PATIENCE
from sinks import (
    UNBOUNDED,
    Certificate,
    Sink,
    grpc_sink,
    http_sink,
    refusing_endpoint,
    relay,
    silent_endpoint,
)

SINKS: dict[str, Callable[..., AbstractContextManager[Sink]]] = {
    "grpc": grpc_sink,
    "http/protobuf": http_sink,
}
DEAD = {"refusing": refusing_endpoint, "silent": silent_endpoint}

both_protocols = pytest.mark.parametrize("protocol", list(SINKS))
both_kinds_of_dead = pytest.mark.parametrize("dead", list(DEAD))
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")

Build = Callable[..., TracerProvider]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("OTEL_", "FLOWSPAN_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Iterator[Build]:
    """Build providers from variables, given without ``OTEL_``, and shut them down."""
    built: list[TracerProvider] = []

    def build(settings: Settings | None = None, **variables: object) -> TracerProvider:
        for name, value in variables.items():
            monkeypatch.setenv(f"OTEL_{name}", str(value))
        built.append(providers.build_tracer_provider(settings or Settings()))
        return built[-1]

    yield build
    for provider in built:
        providers.shutdown([provider], 0.2)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return the warnings logged so far, by flowspan or OpenTelemetry."""
    caplog.set_level(logging.WARNING)

    def messages() -> list[str]:
        return [
            record.getMessage()
            for record in caplog.records
            if record.name.startswith(("flowspan", "opentelemetry", "urllib3", "grpc"))
        ]

    return messages


def end_span(provider: trace_api.TracerProvider, name: str = "span", **attributes: str) -> None:
    """Start and end one span."""
    provider.get_tracer("test").start_span(name, attributes=attributes).end()


def run(code: str, **variables: object) -> "subprocess.CompletedProcess[str]":
    """Run Python code in a separate process; its stderr is what the user would see."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {name: str(value) for name, value in variables.items()},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


BUILD_AND_CLOSE = """
import atexit, os, sys, time
from flowspan.export import providers
from flowspan.settings import Settings

settings = Settings()
provider = providers.build_tracer_provider(settings)
atexit.register(providers.shutdown, [provider], settings.flush_timeout)
tracer = provider.get_tracer("test")
"""


# The standard variables


@both_protocols
def test_spans_arrive(protocol: str, build: Build) -> None:
    """An endpoint and a protocol are enough; headers are sent."""
    with SINKS[protocol]() as sink:
        provider = build(
            EXPORTER_OTLP_ENDPOINT=sink.endpoint,
            EXPORTER_OTLP_PROTOCOL=protocol,
            EXPORTER_OTLP_HEADERS="api-key=secret,team=data%20platform",
        )
        end_span(provider, "hello")
        assert providers.flush([provider], 20)
    assert [span.name for span in sink.spans] == ["hello"]
    assert sink.requests[0].headers["api-key"] == "secret"
    assert sink.requests[0].headers["team"] == "data platform"


def test_grpc_is_the_default_protocol(build: Build) -> None:
    """With an endpoint and no protocol, OTLP uses gRPC, as in OpenTelemetry Python."""
    with grpc_sink() as sink:
        provider = build(EXPORTER_OTLP_ENDPOINT=sink.endpoint)
        end_span(provider)
        assert providers.flush([provider], 20)
    assert len(sink.spans) == 1


@both_protocols
def test_variables_of_the_signal_win(protocol: str, build: Build) -> None:
    """OTEL_EXPORTER_OTLP_TRACES_* overrides OTEL_EXPORTER_OTLP_*."""
    other = next(name for name in SINKS if name != protocol)
    with SINKS[protocol]() as sink:
        provider = build(
            EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
            EXPORTER_OTLP_PROTOCOL=other,
            EXPORTER_OTLP_HEADERS="from=general",
            EXPORTER_OTLP_TRACES_ENDPOINT=f"{sink.endpoint}/own/path",
            EXPORTER_OTLP_TRACES_PROTOCOL=protocol,
            EXPORTER_OTLP_TRACES_HEADERS="from=traces",
        )
        end_span(provider)
        assert providers.flush([provider], 20)
    assert sink.requests[0].headers["from"] == "traces"
    assert sink.requests[0].path == {"grpc": "Export", "http/protobuf": "/own/path"}[protocol]


@both_protocols
@pytest.mark.parametrize("compression", ["gzip", None])
def test_compression(protocol: str, compression: str | None, build: Build) -> None:
    """With gzip, a span full of one letter is small on the wire and arrives whole."""
    variables = {"EXPORTER_OTLP_COMPRESSION": compression} if compression else {}
    with SINKS[protocol]() as sink, relay(sink.endpoint) as wire:
        provider = build(
            EXPORTER_OTLP_ENDPOINT=wire.endpoint, EXPORTER_OTLP_PROTOCOL=protocol, **variables
        )
        end_span(provider, text="x" * 100_000)
        assert providers.flush([provider], 20)
    assert len(sink.spans[0].attributes[0].value.string_value) == 100_000
    assert (wire.sent < 20_000) == (compression == "gzip")


@both_protocols
def test_timeout(protocol: str, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_EXPORTER_OTLP_TIMEOUT, in seconds in Python, ends an export without an answer."""
    send = requests.Session.send

    def sends(session: requests.Session, *args: Any, **kwargs: Any) -> requests.Response:
        sink.patience.append(kwargs["timeout"])
        return send(session, *args, **kwargs)

    monkeypatch.setattr(requests.Session, "send", sends)
    with SINKS[protocol]() as sink:
        sink.latency = UNBOUNDED
        provider = build(
            EXPORTER_OTLP_ENDPOINT=sink.endpoint,
            EXPORTER_OTLP_PROTOCOL=protocol,
            EXPORTER_OTLP_TIMEOUT=1,
        )
        (reporter,) = provider.reporters  # type: ignore[attr-defined] # those that flowspan builds
        end_span(provider)
        assert not providers.flush([provider], PATIENCE)
        assert reporter.failing  # so it was the export that ended, not the wait for it
        assert not sink.requests
    # The SDK's default is 10 s, which is too near to tell by the clock.
    assert 0 < sink.patience[0] <= 1


@both_protocols
@pytest.mark.parametrize("bundle", ["", DEFAULT_CA_BUNDLE_PATH])
def test_tls(
    protocol: str,
    bundle: str,
    build: Build,
    certificate: Certificate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """OTEL_EXPORTER_OTLP_CERTIFICATE is the authority, even if requests has other settings."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
    with SINKS[protocol](certificate) as sink:
        provider = build(
            EXPORTER_OTLP_ENDPOINT=sink.endpoint,
            EXPORTER_OTLP_PROTOCOL=protocol,
            EXPORTER_OTLP_CERTIFICATE=certificate.certificate,
        )
        end_span(provider)
        assert providers.flush([provider], 20)
    assert len(sink.spans) == 1


@both_protocols
def test_tls_of_an_unknown_authority(
    protocol: str, build: Build, certificate: Certificate, warnings: Callable[[], list[str]]
) -> None:
    """Without the authority's certificate nothing is sent, and the user is told."""
    with SINKS[protocol](certificate) as sink:
        provider = build(
            EXPORTER_OTLP_ENDPOINT=sink.endpoint,
            EXPORTER_OTLP_PROTOCOL=protocol,
            EXPORTER_OTLP_TIMEOUT=1,
        )
        end_span(provider)
        assert not providers.flush([provider], 20)
    assert sink.spans == []
    assert len(warnings()) == 1


@pytest.mark.parametrize(
    ("sampler", "argument", "least", "most"),
    [("traceidratio", "0.25", 60, 140), ("always_off", "", 0, 0), ("always_on", "", 400, 400)],
)
def test_sampler(sampler: str, argument: str, least: int, most: int, build: Build) -> None:
    """OTEL_TRACES_SAMPLER and its argument decide how many of 400 traces are exported."""
    with http_sink() as sink:
        provider = build(
            EXPORTER_OTLP_ENDPOINT=sink.endpoint,
            EXPORTER_OTLP_PROTOCOL="http/protobuf",
            TRACES_SAMPLER=sampler,
            TRACES_SAMPLER_ARG=argument,
        )
        for _ in range(400):
            end_span(provider)
        assert providers.flush([provider], 20)
    assert least <= len(sink.spans) <= most


def test_limits_and_batches(build: Build) -> None:
    """Variables set span limits, batch size and schedule; the schedule needs no flush."""
    with http_sink() as sink:
        provider = build(
            EXPORTER_OTLP_ENDPOINT=sink.endpoint,
            EXPORTER_OTLP_PROTOCOL="http/protobuf",
            SPAN_ATTRIBUTE_COUNT_LIMIT=2,
            BSP_MAX_EXPORT_BATCH_SIZE=10,
            BSP_SCHEDULE_DELAY=50,
        )
        for _ in range(25):
            end_span(provider, a="1", b="2", c="3")
        assert len(sink.wait_for_spans(25)) == 25
    assert len(sink.requests) >= 3
    assert {len(span.attributes) for span in sink.spans} == {2}


def test_resource_by_default(build: Build) -> None:
    """The service is `prefect`, the instance a random id, the distribution flowspan."""
    attributes = build().resource.attributes
    assert attributes["service.name"] == "prefect"
    assert len(str(attributes["service.instance.id"])) == 36
    assert attributes["telemetry.distro.name"] == "flowspan"
    assert attributes["telemetry.distro.version"]
    assert attributes["process.pid"] == os.getpid()


@pytest.mark.parametrize(
    ("variables", "service"),
    [
        ({"RESOURCE_ATTRIBUTES": "service.name=from-attributes"}, "from-attributes"),
        ({"SERVICE_NAME": "from-name"}, "from-name"),
        ({"RESOURCE_ATTRIBUTES": "service.name=x", "SERVICE_NAME": "from-name"}, "from-name"),
    ],
)
def test_resource_of_the_user(variables: dict[str, str], service: str, build: Build) -> None:
    """Either variable names the service; OTEL_SERVICE_NAME wins."""
    assert build(**variables).resource.attributes["service.name"] == service


def test_resource_attributes_of_the_user(build: Build) -> None:
    """OTEL_RESOURCE_ATTRIBUTES adds attributes and may set the instance id."""
    given = "deployment.environment.name=staging,service.instance.id=worker-7"
    attributes = build(RESOURCE_ATTRIBUTES=given).resource.attributes
    assert attributes["deployment.environment.name"] == "staging"
    assert attributes["service.instance.id"] == "worker-7"
    assert attributes["service.name"] == "prefect"


# Which exporters


def test_embedded_default(build: Build, tmp_path: Path) -> None:
    """With no exporter and no endpoint, spans go to .flowspan/traces.jsonl as OTLP JSON."""
    provider = build()
    assert not (tmp_path / ".flowspan").exists()
    end_span(provider, "hello")
    assert providers.flush([provider], 20)
    (line,) = (tmp_path / ".flowspan" / "traces.jsonl").read_text().splitlines()
    (resource_spans,) = json.loads(line)["resourceSpans"]
    assert resource_spans["scopeSpans"][0]["spans"][0]["name"] == "hello"


def test_embedded_files_are_bounded_by_the_settings(build: Build, tmp_path: Path) -> None:
    """Settings of flowspan determine folder, size and number of the files."""
    provider = build(Settings(dir=tmp_path / "here", file_max_bytes=2000, file_max_count=3))
    for _ in range(40):
        end_span(provider)
        assert providers.flush([provider], 20)
    files = list((tmp_path / "here").glob("traces*.jsonl"))
    assert len(files) == 3
    assert all(path.stat().st_size <= 2000 for path in files)


def test_none(build: Build, tmp_path: Path) -> None:
    """OTEL_TRACES_EXPORTER=none exports nothing, even with an endpoint."""
    provider = build(TRACES_EXPORTER="none", EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    end_span(provider)
    assert providers.flush([provider], 5)
    assert not (tmp_path / ".flowspan").exists()


def test_console_and_otlp_together() -> None:
    """A comma-separated list names several exporters; each gets every span."""
    with http_sink() as sink:
        ended = run(
            BUILD_AND_CLOSE + "tracer.start_span('hello').end()",
            OTEL_TRACES_EXPORTER="console, otlp",
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            OTEL_EXPORTER_OTLP_ENDPOINT=sink.endpoint,
        )
    assert ended.stderr == ""
    assert json.loads(ended.stdout)["name"] == "hello"
    assert [span.name for span in sink.spans] == ["hello"]


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package that registers the exporters `kept`, `broken` and `raising`."""
    package = tmp_path / "site"
    metadata = package / "an_exporter-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: an-exporter\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[opentelemetry_traces_exporter]\n"
        "kept = test_providers:KeptSpans\n"
        "broken = no_such_module:Exporter\n"
        "raising = test_providers:Raising\n"
    )
    monkeypatch.syspath_prepend(package)
    KeptSpans.spans.clear()


class KeptSpans(SpanExporter):
    spans: list[ReadableSpan] = []  # noqa: RUF012 - the exporter is made by its name alone

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans.extend(spans)
        return SpanExportResult.SUCCESS


class Raising(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        raise RuntimeError(f"no luck with {len(spans)}")


@pytest.mark.usefixtures("registered")
def test_registered_exporter(build: Build) -> None:
    """Any exporter of an installed package can be named."""
    provider = build(TRACES_EXPORTER="kept")
    end_span(provider, "hello")
    assert providers.flush([provider], 20)
    assert [span.name for span in KeptSpans.spans] == ["hello"]


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"TRACES_EXPORTER": "jeager"}, r"OTEL_TRACES_EXPORTER.*'jeager'.*console.*none.*otlp"),
        ({"TRACES_EXPORTER": "broken"}, "'broken' cannot be set up: No module named"),
        (
            {"TRACES_EXPORTER": "otlp", "EXPORTER_OTLP_PROTOCOL": "http/json"},
            "'http/json'.*OTEL_EXPORTER_OTLP_PROTOCOL.*grpc, http/protobuf",
        ),
        (
            {"TRACES_EXPORTER": "otlp", "EXPORTER_OTLP_COMPRESSION": "zip"},
            'Invalid value "zip".*OTEL_EXPORTER_OTLP_COMPRESSION',
        ),
        (
            {"TRACES_EXPORTER": "otlp", "EXPORTER_OTLP_CERTIFICATE": "/no/such.pem"},
            "OTEL_EXPORTER_OTLP_CERTIFICATE: there is no file /no/such.pem",
        ),
        ({"BSP_MAX_QUEUE_SIZE": "1"}, "OTEL_BSP.*max_export_batch_size"),
    ],
)
def test_what_cannot_be_had_is_loud(variables: dict[str, str], message: str, build: Build) -> None:
    """A variable that cannot be satisfied raises at setup and says what to set."""
    with pytest.raises(providers.ConfigurationError, match=message):
        build(**variables)


@pytest.mark.parametrize(
    ("variables", "loaded"),
    [
        ({}, "no"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "no"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "yes"),
    ],
)
def test_grpc_is_loaded_only_if_chosen(variables: dict[str, str], loaded: str) -> None:
    """Importing gRPC costs memory and threads, so it happens only if needed."""
    ended = run(BUILD_AND_CLOSE + "print('yes' if 'grpc' in sys.modules else 'no')", **variables)
    assert ended.stdout == f"{loaded}\n"


# Dead endpoints


@both_protocols
@both_kinds_of_dead
def test_dead_endpoint_costs_a_flush_no_more_than_its_timeout(
    protocol: str, dead: str, build: Build, warnings: Callable[[], list[str]]
) -> None:
    """Flush and shutdown give up in time, with at most one line that says why."""
    with DEAD[dead]() as endpoint:
        provider = build(
            EXPORTER_OTLP_ENDPOINT=endpoint,
            EXPORTER_OTLP_PROTOCOL=protocol,
            EXPORTER_OTLP_TIMEOUT=UNBOUNDED,
        )
        end_span(provider)
        for close in (
            lambda: providers.flush([provider], 0.5),
            lambda: providers.shutdown([provider], 0.5),
        ):
            started = time.monotonic()
            assert not close()
            assert time.monotonic() - started < 0.5 + SLACK
    (line,) = warnings()
    assert "dropped" in line
    assert endpoint in line
    assert "\n" not in line


@both_protocols
@both_kinds_of_dead
def test_dead_endpoint_is_one_line_of_a_process_that_ends_in_time(protocol: str, dead: str) -> None:
    """A script with a dead endpoint ends in time, with one line on stderr."""
    with DEAD[dead]() as endpoint:
        ended = run(  # for no longer than its patience
            BUILD_AND_CLOSE
            + "for _ in range(3):\n"
            + "    tracer.start_span('hello').end()\n"
            + "    providers.flush([provider], settings.flush_timeout)\n",
            FLOWSPAN_FLUSH_TIMEOUT=0.5,
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_EXPORTER_OTLP_TIMEOUT=UNBOUNDED,
        )
    assert ended.returncode == 0
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"Telemetry is being dropped: traces do not reach {endpoint}")


@both_protocols
def test_endpoint_that_recovers(
    protocol: str, build: Build, warnings: Callable[[], list[str]]
) -> None:
    """Spans that end after the recovery arrive; a second outage soon after is not logged."""
    with SINKS[protocol]() as sink:
        provider = build(
            EXPORTER_OTLP_ENDPOINT=sink.endpoint,
            EXPORTER_OTLP_PROTOCOL=protocol,
            EXPORTER_OTLP_TIMEOUT=2,
        )
        for name, status in (("a", 503), ("b", 200), ("c", 503), ("d", 200)):
            sink.status = status
            end_span(provider, name)
            assert providers.flush([provider], 20) == (status == 200)
    assert [span.name for span in sink.spans] == ["b", "d"]
    assert len(warnings()) == 1


def test_flush_that_gives_up(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait for an endpoint that is known to be dead, however long it might."""
    monkeypatch.setattr(outages, "_LONG", 0.0)
    with silent_endpoint() as endpoint:
        provider = build(
            EXPORTER_OTLP_ENDPOINT=endpoint,
            EXPORTER_OTLP_PROTOCOL="http/protobuf",
            EXPORTER_OTLP_TIMEOUT=UNBOUNDED,
        )
        end_span(provider)
        assert isinstance(provider, BoundedTracerProvider)
        (reporter,) = provider.reporters
        while not reporter.is_struggling:
            providers.flush([provider], 0.1)
        started = time.monotonic()
        assert not providers.flush([provider], 10 * SLACK, gives_up=True)
        assert time.monotonic() - started < SLACK


def test_flush_that_gives_up_hopes_again(build: Build) -> None:
    """It still starts an export, and waits again once the endpoint has answered."""
    with http_sink() as sink:
        provider = build(
            EXPORTER_OTLP_ENDPOINT=sink.endpoint, EXPORTER_OTLP_PROTOCOL="http/protobuf"
        )
        sink.status = 400
        end_span(provider, "lost")
        assert not providers.flush([provider], 20, gives_up=True)
        sink.status = 200
        end_span(provider, "late")
        providers.flush([provider], 20, gives_up=True)
        sink.wait_for_spans(1)
        assert providers.flush([provider], 20)
        end_span(provider, "in time")
        assert providers.flush([provider], 20, gives_up=True)
    assert [span.name for span in sink.spans] == ["late", "in time"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_an_outage(
    status: int, build: Build, warnings: Callable[[], list[str]]
) -> None:
    """Nothing has arrived, so the flush fails, and one line says where the endpoint points to."""
    with http_sink() as sink:
        provider = build(
            EXPORTER_OTLP_ENDPOINT=sink.endpoint, EXPORTER_OTLP_PROTOCOL="http/protobuf"
        )
        sink.status, sink.answer_headers = status, {"Location": "https://me:pw@there.example/v1"}
        end_span(provider)
        assert not providers.flush([provider], 20)
    (line,) = warnings()
    assert line.endswith(f"it redirects to https://[redacted]@there.example/v1 ({status}))")


def test_second_outage_is_said_again_later(
    build: Build, warnings: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the interval, an endpoint that dies again is logged again, once."""
    monkeypatch.setattr(outages, "_WARNING_INTERVAL", 0.0)
    with http_sink() as sink:
        provider = build(
            EXPORTER_OTLP_ENDPOINT=sink.endpoint, EXPORTER_OTLP_PROTOCOL="http/protobuf"
        )
        for status in (400, 400, 200, 400, 400):  # 400 is not retried
            sink.status = status
            end_span(provider)
            providers.flush([provider], 20)
    assert len(warnings()) == 2


@pytest.mark.usefixtures("registered")
def test_exporter_that_raises(build: Build, warnings: Callable[[], list[str]]) -> None:
    """Any exception of an exporter becomes the same one line."""
    provider = build(TRACES_EXPORTER="raising")
    for _ in range(3):
        end_span(provider)
        assert not providers.flush([provider], 20)
    (line,) = warnings()
    assert "RuntimeError: no luck with 1" in line


def test_full_queue_adds_no_lines(build: Build, warnings: Callable[[], list[str]]) -> None:
    """While an endpoint is known to be dead, dropped spans are not logged again."""
    with refusing_endpoint() as endpoint:
        provider = build(
            EXPORTER_OTLP_ENDPOINT=endpoint,
            BSP_MAX_QUEUE_SIZE=4,
            BSP_MAX_EXPORT_BATCH_SIZE=4,
            EXPORTER_OTLP_TIMEOUT=30,
        )
        end_span(provider)
        assert not providers.flush([provider], 1)
        for _ in range(50):
            end_span(provider)
    assert len(warnings()) == 1


def test_concurrent_flushes_share_one_thread(build: Build) -> None:
    """However many callers flush against a dead endpoint, only one thread hangs."""
    others = set(threading.enumerate())  # of tests before, which may take a while to end
    with silent_endpoint() as endpoint:
        provider = build(
            EXPORTER_OTLP_ENDPOINT=endpoint,
            EXPORTER_OTLP_PROTOCOL="http/protobuf",
            EXPORTER_OTLP_TIMEOUT=UNBOUNDED,
        )
        end_span(provider)
        callers = [
            threading.Thread(target=providers.flush, args=([provider], 1)) for _ in range(20)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(PATIENCE)
        providers.flush([provider], 0.1)
        own = set(threading.enumerate()) - others
        assert sum(thread.name == "flowspan-flush" for thread in own) == 1


def test_dead_endpoint_takes_nothing_from_the_embedded_files(build: Build, tmp_path: Path) -> None:
    """`embedded` works next to other exporters; at shutdown each gets its share of the time."""
    with silent_endpoint() as endpoint:
        provider = build(
            TRACES_EXPORTER="otlp,embedded",
            EXPORTER_OTLP_ENDPOINT=endpoint,
            EXPORTER_OTLP_TIMEOUT=UNBOUNDED,
        )
        end_span(provider, "hello")
        started = time.monotonic()
        providers.shutdown([provider], 4)
        assert time.monotonic() - started < 4 + SLACK
    assert '"hello"' in (tmp_path / ".flowspan" / "traces.jsonl").read_text()


def test_exporters_of_the_application_are_not_silenced(
    build: Build, warnings: Callable[[], list[str]]
) -> None:
    """An exporter that flowspan did not build still logs, in the same process."""
    with http_sink() as sink:
        build(EXPORTER_OTLP_ENDPOINT=sink.endpoint, EXPORTER_OTLP_PROTOCOL="http/protobuf")
        sink.status = 400
        OTLPSpanExporter(endpoint=sink.endpoint).export([])
    (line,) = warnings()
    assert line.startswith("Failed to export spans batch")


def test_unwritable_folder(build: Build, tmp_path: Path, warnings: Callable[[], list[str]]) -> None:
    """Unwritable spans cause one line, no exception, and no loss once they can be written."""
    obstacle = tmp_path / "file"
    obstacle.write_text("")
    provider = build(Settings(dir=obstacle / ".flowspan"))
    for _ in range(3):
        end_span(provider, "lost")
        assert not providers.flush([provider], 20)
    obstacle.unlink()
    end_span(provider, "kept")
    assert providers.flush([provider], 20)
    assert '"kept"' in (obstacle / ".flowspan" / "traces.jsonl").read_text()
    (line,) = warnings()
    assert "Not a directory" in line
    assert "\n" not in line


# Flush of any provider


def test_provider_without_flush() -> None:
    """A provider of the API alone buffers nothing."""
    assert providers.flush([trace_api.NoOpTracerProvider()], 1)


class ForeignProvider(trace_api.NoOpTracerProvider):
    """A provider whose flush waits until the test allows it, and counts its calls."""

    def __init__(self) -> None:
        self.started = 0
        self.allowed = threading.Event()

    def force_flush(self, timeout_millis: int) -> bool:
        self.started += 1
        return self.allowed.wait(timeout_millis / 1000)


def test_flush_covers_what_ended_before_it() -> None:
    """A flush that finds another running waits for one that began after itself."""
    provider = ForeignProvider()
    callers = [threading.Thread(target=providers.flush, args=([provider], 20)) for _ in range(5)]
    for caller in callers:
        caller.start()
    while provider.started == 0:
        time.sleep(0.01)
    provider.allowed.set()
    assert providers.flush([provider], 20)
    for caller in callers:
        caller.join(20)
    assert 2 <= provider.started <= 6


def test_flush_of_a_provider_that_raises() -> None:
    """Even a provider that raises does not break the user's flow."""
    provider: Any = trace_api.NoOpTracerProvider()
    provider.force_flush = lambda **_: 1 / 0
    assert not providers.flush([provider], 20)


def test_foreign_provider_is_not_shut_down() -> None:
    """A provider that the application built is not closed."""
    closed = []
    provider: Any = trace_api.NoOpTracerProvider()
    provider.shutdown = lambda: closed.append(1)
    providers.shutdown([provider], 1)
    assert closed == []


def test_flush_while_the_interpreter_exits() -> None:
    """At exit, if no thread can be started (Python 3.12), shutdown still exports the rest."""
    with http_sink() as sink:
        ended = run(
            BUILD_AND_CLOSE + "def last():\n"
            "    tracer.start_span('last').end()\n"
            "    providers.flush([provider], 10)\n"
            "atexit.register(last)\n",
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            OTEL_EXPORTER_OTLP_ENDPOINT=sink.endpoint,
        )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [span.name for span in sink.spans] == ["last"]


# Other processes

FORK = (
    BUILD_AND_CLOSE
    + """
def record(name):
    tracer.start_span(name).end()
    print(name, providers.flush([provider], 10), flush=True)

record("before")
os.makedirs("elsewhere")
os.chdir("elsewhere")
child = os.fork()
if child == 0:
    record("child")
    os._exit(0)
record("parent")
os.waitpid(child, 0)
"""
)


@needs_fork
@both_protocols
def test_fork(protocol: str) -> None:
    """Parent and child both export after a fork, as separate instances."""
    with SINKS[protocol]() as sink:
        ended = run(
            FORK,
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_EXPORTER_OTLP_ENDPOINT=sink.endpoint,
        )
    assert sorted(ended.stdout.splitlines()) == ["before True", "child True", "parent True"]
    assert sorted(span.name for span in sink.spans) == ["before", "child", "parent"]
    assert len({resource["service.instance.id"] for resource in sink.resources}) == 2


@needs_fork
def test_fork_with_embedded_files(tmp_path: Path) -> None:
    """Parent and child write to one set of files."""
    assert run(FORK).returncode == 0
    lines = (tmp_path / ".flowspan" / "traces.jsonl").read_text().splitlines()
    names = [
        json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"] for line in lines
    ]
    assert sorted(names) == ["before", "child", "parent"]


@needs_fork
def test_fork_during_a_flush() -> None:
    """A child forked while the parent's flush hangs does not wait for the parent's thread."""
    with silent_endpoint() as endpoint:
        ended = run(
            BUILD_AND_CLOSE + "tracer.start_span('before').end()\n"
            "providers.flush([provider], 0.5)\n"
            "start = time.monotonic()\n"
            "child = os.fork()\n"
            "if child == 0:\n"
            "    print(providers.flush([provider], 30))\n"
            "    os._exit(sys.stdout.flush() or 0)\n"
            "print(time.monotonic() - start, os.waitpid(child, 0)[1])\n",
            FLOWSPAN_FLUSH_TIMEOUT=0.5,
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
        )
    assert ended.stdout.startswith(("True", "False")), ended
    took, status = ended.stdout.splitlines()[1].split()
    assert (float(took) < 2.0, status) == (True, "0")  # 0.5 at most, on a machine that has time
    (line,) = ended.stderr.splitlines()
    assert "Telemetry is being dropped" in line


@needs_fork
@both_protocols
def test_fork_during_a_slow_export(protocol: str) -> None:
    """An export that a fork interrupts is made again: parent and child lose nothing."""
    with SINKS[protocol]() as sink:
        sink.latency = 1.5
        ended = run(
            BUILD_AND_CLOSE + "tracer.start_span('parent').end()\n"
            "providers.flush([provider], 0.5)\n"
            "child = os.fork()\n"
            "if child == 0:\n"
            "    tracer.start_span('child').end()\n"
            "print(providers.flush([provider], 20))\n"
            "if child == 0:\n"
            "    os._exit(sys.stdout.flush() or 0)\n"
            "assert os.waitpid(child, 0)[1] == 0\n",
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_EXPORTER_OTLP_ENDPOINT=sink.endpoint,
        )
    assert (ended.stdout, ended.stderr) == ("True\nTrue\n", "")
    assert {span.name for span in sink.spans} == {"parent", "child"}


def test_spawn(tmp_path: Path) -> None:
    """A spawned process builds its own SDK and shares only the destination."""
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing\n" + BUILD_AND_CLOSE + "def work(name):\n"
        "    tracer.start_span(name).end()\n"
        "    return providers.flush([provider], 10)\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(work('parent'), pool.apply(work, ('child',)))\n"
    )
    with http_sink() as sink:
        ended = subprocess.run(
            [sys.executable, script],
            env=os.environ
            | {
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                "OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    assert ended.stdout == "True True\n"
    assert sorted(span.name for span in sink.spans) == ["child", "parent"]
    assert len({resource["service.instance.id"] for resource in sink.resources}) == 2


@pytest.mark.parametrize("files", ["auto", "also", "never"])
def test_files_beside_an_endpoint(
    files: str, build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Only FLOWSPAN_FILES=also writes to the files what an endpoint gets."""
    monkeypatch.setenv("FLOWSPAN_FILES", files)
    with http_sink() as sink:
        provider = build(
            EXPORTER_OTLP_ENDPOINT=sink.endpoint,
            EXPORTER_OTLP_PROTOCOL="http/protobuf",
        )
        end_span(provider, "hello")
        assert providers.flush([provider], PATIENCE)
    assert [span.name for span in sink.spans] == ["hello"]
    assert (tmp_path / ".flowspan" / "traces.jsonl").exists() == (files == "also")


# For `flowspan doctor`


@pytest.mark.parametrize("signal", ["traces", "metrics", "logs"])
@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, [("embedded", "{cwd}/.flowspan/{signal}.jsonl")]),
        ({"FLOWSPAN_DIR": "/x"}, [("embedded", "/x/{signal}.jsonl")]),
        ({"OTEL_{SIGNAL}_EXPORTER": "none"}, [("none", "nowhere")]),
        ({"OTEL_{SIGNAL}_EXPORTER": "otlp"}, [("otlp_proto_grpc", "http://localhost:4317")]),
        (
            {"OTEL_{SIGNAL}_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            [("otlp_proto_http", "http://localhost:4318/v1/{signal}")],
        ),
        (
            {"OTEL_{SIGNAL}_EXPORTER": "otlp_proto_http,console,none"},
            [
                ("otlp_proto_http", "http://localhost:4318/v1/{signal}"),
                ("console", "{console}"),
            ],
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:pass@host:1/"},
            [("otlp_proto_grpc", "http://host:1")],
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "host:1"}, [("otlp_proto_grpc", "https://host:1")]),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "host:1", "OTEL_EXPORTER_OTLP_INSECURE": "true"},
            [("otlp_proto_grpc", "http://host:1")],
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "https://host/base/",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            },
            [("otlp_proto_http", "https://host/base/v1/{signal}")],
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_{SIGNAL}_ENDPOINT": "https://user:pass@host/own",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            },
            [("otlp_proto_http", "https://host/own")],
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "", "OTEL_{SIGNAL}_EXPORTER": ""},
            [("embedded", "{cwd}/.flowspan/{signal}.jsonl")],
        ),
        ({"FLOWSPAN_FILES": "also"}, [("embedded", "{cwd}/.flowspan/{signal}.jsonl")]),
        (
            {"FLOWSPAN_FILES": "also", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://host:1"},
            [
                ("otlp_proto_grpc", "http://host:1"),
                ("embedded", "{cwd}/.flowspan/{signal}.jsonl"),
            ],
        ),
        (
            {"FLOWSPAN_FILES": "also", "OTEL_{SIGNAL}_EXPORTER": "embedded"},
            [("embedded", "{cwd}/.flowspan/{signal}.jsonl")],
        ),
        (
            {"FLOWSPAN_FILES": "also", "OTEL_{SIGNAL}_EXPORTER": "none"},
            [("none", "nowhere")],
        ),
        ({"FLOWSPAN_FILES": "never"}, [("none", "nowhere")]),
        (
            {"FLOWSPAN_FILES": "never", "OTEL_{SIGNAL}_EXPORTER": "console,embedded"},
            [("console", "{console}")],
        ),
    ],
)
def test_describe(
    variables: dict[str, str],
    expected: list[tuple[str, str]],
    signal: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Each route names the exporter and its destination, without credentials."""
    for name, value in variables.items():
        monkeypatch.setenv(name.format(SIGNAL=signal.upper()), value)
    of_console = {
        "traces": "opentelemetry.sdk.trace.export:ConsoleSpanExporter",
        "metrics": "opentelemetry.sdk.metrics.export:ConsoleMetricExporter",
        "logs": "opentelemetry.sdk._logs.export:ConsoleLogRecordExporter",
    }
    names = {"cwd": tmp_path, "signal": signal, "console": of_console[signal]}
    described_routes = [
        routes.SignalRoute(signal, exporter, destination.format(**names))
        for exporter, destination in expected
    ]
    assert [
        r for r in routes.describe_signals(Settings()) if r.signal == signal
    ] == described_routes
