"""``flowspan doctor`` finds mistakes before a flow runs into them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from typer.testing import CliRunner, Result

import flowspan
from flowspan.cli.main import app
from sinks import grpc_sink, http_sink, refusing_endpoint


def doctor(tmp_path: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "FLOWSPAN_DIR": str(tmp_path), **variables}
    return subprocess.run(
        [sys.executable, "-c", "from flowspan.cli.main import main; main()", "doctor"],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def examined(tmp_path: Path, **variables: str) -> Result:
    """Run the command in this process: no variable of its own changes what is imported."""
    env = {"FLOWSPAN_DIR": str(tmp_path), **variables}
    return CliRunner().invoke(app, ["doctor"], env=env)


def test_all_is_well(tmp_path: Path) -> None:
    """With the embedded default, all checks pass and each question is answered."""
    done = doctor(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for answer in ("is supported", "functions of Prefect", "traces.jsonl", "duplicates"):
        assert answer in done.stdout
    assert "✗" not in done.stdout


def test_endpoint_that_answers(tmp_path: Path) -> None:
    """It names an OTLP endpoint and says that it answers."""
    with http_sink() as sink:
        done = doctor(
            tmp_path,
            OTEL_EXPORTER_OTLP_ENDPOINT=sink.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        )
    assert done.returncode == 0, done.stdout
    assert f"{sink.endpoint}/v1/traces" in done.stdout
    assert "which answers" in done.stdout


def test_endpoints_that_take_nothing(tmp_path: Path) -> None:
    """It says for each signal what is wrong, and nothing else prints."""
    with refusing_endpoint() as dead, http_sink() as sink, grpc_sink() as plain:
        done = doctor(
            tmp_path,
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=sink.endpoint,
            OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=dead,
            OTEL_EXPORTER_OTLP_LOGS_ENDPOINT=plain.endpoint.replace("http", "https"),
        )
    said = " ".join(done.stdout.split())
    assert done.returncode == 1
    assert "(otlp_proto_grpc), but this port speaks HTTP, not gRPC: set OTEL_EXPORTER_" in said
    assert "(otlp_proto_grpc), but nothing listens there (connection refused)" in said
    assert "(otlp_proto_grpc), but this port does not speak TLS: write http:// in OTEL_" in said
    assert "which answers" not in said
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"FLOWSPAN_FILE_MAX_COUNT": "none"}, "valid integer"),
        ({"FLOWSPAN_TYPO": "1"}, "no such setting: typo"),
        ({"FLOWSPAN_LOG_LEVEL": "loud"}, "level of logging, such as DEBUG"),
        ({"OTEL_TRACES_EXPORTER": "jaegerr"}, "jaegerr"),
        ({"OTEL_TRACES_EXPORTER": "otlp,otlp_proto_grpc"}, "2 times"),
    ],
)
def test_mistakes(tmp_path: Path, variables: dict[str, str], said: str) -> None:
    """It reports a bad variable, an unknown exporter and a doubled route."""
    done = examined(tmp_path, **variables)
    assert done.exit_code == 1
    assert said in " ".join(done.stdout.split())
    assert isinstance(done.exception, SystemExit)


def test_limit_of_links(tmp_path: Path, prefect_server: str) -> None:
    """It says how many links a variable, or the application's provider, allows."""
    assert "links of a span" not in examined(tmp_path).stdout
    few = examined(tmp_path, OTEL_SPAN_LINK_COUNT_LIMIT="99")
    assert "the provider keeps 99 links of a span" in " ".join(few.stdout.split())
    assert few.exit_code == 0
    flowspan.instrument(tracer_provider=TracerProvider())
    try:
        assert "keeps 128 links of a span" in " ".join(examined(tmp_path).stdout.split())
    finally:
        flowspan.uninstrument()


def test_who_exports_log_records(tmp_path: Path) -> None:
    """It says what OpenTelemetry's own instrumentations do if they are installed."""
    said = " ".join(examined(tmp_path, FLOWSPAN_LOG_LEVEL="warning").stdout.split())
    assert "flowspan exports the lines of every logger from WARNING up" in said
    assert "opentelemetry-instrumentation-logging is installed" in said
    assert "opentelemetry-instrumentation-structlog is installed" in said
    disabled = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "logging, structlog"}
    said = " ".join(examined(tmp_path, **disabled).stdout.split())
    assert "from INFO up, with the run's ids; nothing else that is installed would" in said


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"FLOWSPAN_LOGS": "false"}, "logs are switched off by FLOWSPAN_LOGS"),
        ({"FLOWSPAN_LOGS": "false", "OTEL_LOGS_EXPORTER": "pigeon"}, "off by FLOWSPAN_LOGS"),
        ({"OTEL_LOGS_EXPORTER": "none"}, "logs are switched off by OTEL_LOGS_EXPORTER"),
        ({"FLOWSPAN_FILES": "never"}, "logs are switched off by FLOWSPAN_FILES"),
        ({"OTEL_SDK_DISABLED": "true"}, "switched off by OTEL_SDK_DISABLED"),
    ],
)
def test_nobody_exports_log_records(tmp_path: Path, variables: dict[str, str], said: str) -> None:
    """If log records go nowhere, it says why, and names no exporter."""
    done = examined(tmp_path, **variables)
    assert done.exit_code == 0, done.stdout
    assert said in " ".join(done.stdout.split())
    assert "exports the lines" not in done.stdout


@pytest.mark.parametrize("variable", ["FLOWSPAN_ENABLED=false", "OTEL_SDK_DISABLED=true"])
def test_switched_off(tmp_path: Path, variable: str) -> None:
    """A switched-off flowspan is reported, but not as an error."""
    name, value = variable.split("=")
    done = examined(tmp_path, **{name: value})
    assert done.exit_code == 0, done.stdout
    assert f"switched off by {name}" in done.stdout


def test_unsupported_prefect(tmp_path: Path) -> None:
    """Another major version of Prefect is an error; it says what to install."""
    (tmp_path / "prefect-4.0.0.dist-info").mkdir()
    (tmp_path / "prefect-4.0.0.dist-info" / "METADATA").write_text(
        "Name: prefect\nVersion: 4.0.0\n"
    )
    done = doctor(tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "4.0.0 is not supported" in done.stdout


def test_second_instrumentor(tmp_path: Path) -> None:
    """It names another package that instruments Prefect and would double the spans."""
    info = tmp_path / "prefect_spans-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: prefect-spans\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[opentelemetry_instrumentor]\nprefect2 = prefect_spans:Instrumentor\n"
    )
    done = doctor(tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "prefect_spans:Instrumentor instruments Prefect too" in " ".join(done.stdout.split())
