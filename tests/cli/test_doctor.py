"""flowspan doctor tells a user what is wrong before a flow does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flowspan.cli.main import app
from sinks import http_sink, refusing_endpoint


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
    """With the embedded default everything is in order, and each question has its answer."""
    done = doctor(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for answer in ("is supported", "functions of Prefect", "traces.jsonl", "duplicates"):
        assert answer in done.stdout
    assert "✗" not in done.stdout


def test_endpoint_that_answers(tmp_path: Path) -> None:
    """An OTLP endpoint is named and said to answer."""
    with http_sink() as sink:
        done = doctor(
            tmp_path,
            OTEL_EXPORTER_OTLP_ENDPOINT=sink.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        )
    assert done.returncode == 0, done.stdout
    assert f"{sink.endpoint}/v1/traces" in done.stdout
    assert "which answers" in done.stdout


def test_dead_endpoint(tmp_path: Path) -> None:
    """An endpoint that does not answer is an error with the reason."""
    with refusing_endpoint() as endpoint:
        done = doctor(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    assert done.returncode == 1
    assert "does not answer" in done.stdout
    assert "refused" in done.stdout


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
    """A bad variable, an unknown exporter and a doubled route are each named."""
    done = examined(tmp_path, **variables)
    assert done.exit_code == 1
    assert said in " ".join(done.stdout.split())
    assert isinstance(done.exception, SystemExit)


def test_who_exports_log_records(tmp_path: Path) -> None:
    """Where OpenTelemetry's own instrumentations are installed, it says what becomes of lines."""
    said = " ".join(examined(tmp_path, FLOWSPAN_LOG_LEVEL="warning").stdout.split())
    assert "flowspan exports the lines of every logger from WARNING up" in said
    assert "opentelemetry-instrumentation-logging is installed" in said
    assert "opentelemetry-instrumentation-structlog is installed" in said
    disabled = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "logging, structlog"}
    said = " ".join(examined(tmp_path, **disabled).stdout.split())
    assert "from INFO up, with the run's ids; nothing is installed that would" in said


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"FLOWSPAN_LOGS": "false"}, "logs are switched off by FLOWSPAN_LOGS"),
        ({"FLOWSPAN_LOGS": "false", "OTEL_LOGS_EXPORTER": "pigeon"}, "off by FLOWSPAN_LOGS"),
        ({"OTEL_LOGS_EXPORTER": "none"}, "logs are switched off by OTEL_LOGS_EXPORTER"),
        ({"OTEL_SDK_DISABLED": "true"}, "switched off by OTEL_SDK_DISABLED"),
    ],
)
def test_nobody_exports_log_records(tmp_path: Path, variables: dict[str, str], said: str) -> None:
    """Where log records go nowhere it says why, and of nobody that they export them."""
    done = examined(tmp_path, **variables)
    assert done.exit_code == 0, done.stdout
    assert said in " ".join(done.stdout.split())
    assert "exports the lines" not in done.stdout


@pytest.mark.parametrize("variable", ["FLOWSPAN_ENABLED=false", "OTEL_SDK_DISABLED=true"])
def test_switched_off(tmp_path: Path, variable: str) -> None:
    """Being switched off is worth knowing, and no error."""
    name, value = variable.split("=")
    done = examined(tmp_path, **{name: value})
    assert done.exit_code == 0, done.stdout
    assert f"switched off by {name}" in done.stdout


def test_unsupported_prefect(tmp_path: Path) -> None:
    """Another major version of Prefect is an error, and says what to install."""
    (tmp_path / "prefect-4.0.0.dist-info").mkdir()
    (tmp_path / "prefect-4.0.0.dist-info" / "METADATA").write_text(
        "Name: prefect\nVersion: 4.0.0\n"
    )
    done = doctor(tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "4.0.0 is not supported" in done.stdout


def test_second_instrumentor(tmp_path: Path) -> None:
    """Another package that instruments Prefect would double the spans, and is named."""
    info = tmp_path / "prefect_spans-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: prefect-spans\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[opentelemetry_instrumentor]\nprefect2 = prefect_spans:Instrumentor\n"
    )
    done = doctor(tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "prefect_spans:Instrumentor instruments Prefect too" in " ".join(done.stdout.split())
