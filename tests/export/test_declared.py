"""A file that OTEL_CONFIG_FILE names, OpenTelemetry's declarative configuration, is honoured."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from typer.testing import CliRunner, Result

import flowspan
from flowspan import semconv
from flowspan.cli.main import app
from flowspan.errors import ConfigurationError
from flowspan.export import declared
from flowspan.instrumentor import PrefectInstrumentor
from flowspan.settings import Configuration, Settings
from processes import environment, run_script, run_under_distro
from sinks import Sink, grpc_sink, http_sink

pytest.importorskip("opentelemetry.configuration")

OTLP: dict[str, Any] = {
    "batch": {"exporter": {"otlp_http": {"endpoint": "${SINK}/v1/traces"}}},
    "periodic": {"exporter": {"otlp_http": {"endpoint": "${SINK}/v1/metrics"}}},
    "logs": {"exporter": {"otlp_http": {"endpoint": "${SINK}/v1/logs"}}},
}
SIGNALS: dict[str, Any] = {
    "tracer_provider": {"processors": [{"batch": OTLP["batch"]}]},
    "meter_provider": {"readers": [{"periodic": OTLP["periodic"]}]},
    "logger_provider": {"processors": [{"batch": OTLP["logs"]}]},
}


def options(**known: Any) -> dict[str, Any]:
    """Return the part of a file that has flowspan's options."""
    return {"instrumentation_development": {"python": {"prefect": known}}}


SENT_TO = "http://me:secret@collector:4318"
VALUES = options(capture_parameters="values")


def declare(folder: Path, **parts: Any) -> dict[str, str]:
    """Write a file, which is YAML as well as JSON; return the variable that names it."""
    file = folder / "otel.yaml"
    parts = {name.replace("_development", "/development"): part for name, part in parts.items()}
    file.write_text(json.dumps({"file_format": "1.0", **parts}))
    return {"OTEL_CONFIG_FILE": str(file)}


def names(sink: Sink) -> list[str]:
    return sorted(span.name for span in sink.spans)


def parameters(sink: Sink) -> set[str]:
    found = [item for span in sink.spans for item in span.attributes]
    return {i.value.string_value for i in found if semconv.RUN_PARAMETER_PREFIX in i.key}


def test_script(prefect_server: str, tmp_path: Path) -> None:
    """All three signals, also those of a pool's processes, go where the file says, as it says."""
    resource = {"attributes": [{"name": "service.name", "value": "declared"}]}
    file = declare(tmp_path, resource=resource, **VALUES, **SIGNALS)
    with http_sink() as sink:
        env = environment(tmp_path / "files", **file, SINK=sink.endpoint)
        done = run_script("pooled.py", "pooled", env={**env, "PREFECT_LOGGING_LEVEL": "INFO"})
    assert done.returncode == 0, done.stderr
    assert names(sink) == ["RUN pooled", "square", "square", "square"]
    assert parameters(sink) == {"1", "2", "3"}
    assert {resource["service.name"] for resource in sink.resources} == {"declared"}
    assert semconv.METRIC_TASK_RUNS in {metric.name for _, metric in sink.metrics}
    assert sink.logs
    assert not (tmp_path / "files").exists()


def test_under_opentelemetry_instrument(prefect_server: str, tmp_path: Path) -> None:
    """The distribution sets up the file, and so flowspan with its options; each run has one span.

    What is declared stays where it is, unlike what the distribution chooses by itself. What is not
    declared goes nowhere, as the specification wants, and not to the embedded files.
    """
    exporter = {"exporter": {"otlp_grpc": {"endpoint": "${SINK}", "tls": {"insecure": True}}}}
    traces = {"processors": [{"batch": exporter}]}
    file = declare(tmp_path, tracer_provider=traces, **VALUES)
    with grpc_sink() as sink:
        env = environment(tmp_path / "files", **file, SINK=sink.endpoint)
        done = run_under_distro("pipelines.py", "etl", env=env)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for name in ("RUN etl", "extract", "load", "attempt 1"):
        assert names(sink).count(name) == 1
    assert "3" in parameters(sink)
    assert (sink.metrics, sink.logs) == ([], [])
    assert not (tmp_path / "files").exists()


def doctor(file: str) -> Result:
    return CliRunner().invoke(app, ["doctor"], env={"OTEL_CONFIG_FILE": file, "SINK": SENT_TO})


@pytest.fixture
def uninstrumented(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    yield monkeypatch
    flowspan.uninstrument()


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"tracer_provider": {"processors": [{"batch": {}}]}},
            "OTEL_CONFIG_FILE: Configuration does not match schema: 'exporter'",
        ),
        ({"file_format": "7.0"}, "OTEL_CONFIG_FILE: Unsupported file_format"),
        (options(log_level="loud"), "level of logging, such as DEBUG"),
        (options(dri="x"), "dri"),
    ],
)
def test_mistakes(
    uninstrumented: pytest.MonkeyPatch, tmp_path: Path, parts: dict[str, Any], said: str
) -> None:
    """A file that is wrong is an error of instrument(), and the doctor tells it, too."""
    (file,) = declare(tmp_path, **parts).values()
    uninstrumented.setenv("OTEL_CONFIG_FILE", file)
    with pytest.raises(ValueError, match=said):
        flowspan.instrument()
    assert type(trace.get_tracer_provider()).__name__ == "ProxyTracerProvider"
    done = doctor(file)
    assert done.exit_code == 1
    assert said in " ".join(done.stdout.split())


def test_exporter_that_is_not_installed(uninstrumented: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is an error of instrument(), too, and nothing is set up."""
    traces: dict[str, Any] = {"processors": [{"batch": {"exporter": {"pigeon": {}}}}]}
    (file,) = declare(tmp_path, tracer_provider=traces).values()
    uninstrumented.setenv("OTEL_CONFIG_FILE", file)
    with pytest.raises(ConfigurationError, match=r"OTEL_CONFIG_FILE: .*pigeon"):
        flowspan.instrument()
    assert type(trace.get_tracer_provider()).__name__ == "ProxyTracerProvider"


def test_package_that_is_not_installed(uninstrumented: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It says what to install. Providers that the application passes need no file."""
    (file,) = declare(tmp_path, **SIGNALS).values()
    uninstrumented.setenv("OTEL_CONFIG_FILE", file)
    uninstrumented.setitem(sys.modules, "opentelemetry.configuration", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'flowspan\[config\]'"):
        flowspan.instrument()
    flowspan.instrument(tracer_provider=TracerProvider())


@pytest.mark.parametrize("parts", [{"disabled": True}, options(enabled=False)])
def test_switched_off(
    uninstrumented: pytest.MonkeyPatch, tmp_path: Path, parts: dict[str, Any]
) -> None:
    """If the file switches the SDK off, or flowspan, nothing is patched."""
    (file,) = declare(tmp_path, **SIGNALS, **parts).values()
    uninstrumented.setenv("OTEL_CONFIG_FILE", file)
    uninstrumented.setenv("SINK", SENT_TO)
    flowspan.instrument()
    assert PrefectInstrumentor().patched == []
    assert type(trace.get_tracer_provider()).__name__ == "ProxyTracerProvider"
    done = doctor(file)
    assert "switched off by OTEL_CONFIG_FILE" in " ".join(done.stdout.split())


def test_doctor(tmp_path: Path) -> None:
    """It says where each signal goes, that a file says so, and how few links that allows."""
    traces = {**SIGNALS["tracer_provider"], "limits": {"link_count_limit": 99}}
    console: dict[str, Any] = {"processors": [{"simple": {"exporter": {"console": {}}}}]}
    (file,) = declare(tmp_path, tracer_provider=traces, logger_provider=console).values()
    done = doctor(file)
    said = " ".join(done.stdout.split())
    assert done.exit_code == 0, said
    place = f"declared in {file}, not tried"
    assert f"to http://collector:4318/v1/traces (otlp_http), {place}" in said
    assert f"to console (console), {place}" in said
    assert f"metrics are not declared in {file}" in said
    assert "keeps 99 links of a span" in said
    assert "secret" not in said


def test_example_of_the_docs(uninstrumented: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The example in docs/settings.md is valid, and so are flowspan's options in it."""
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text("utf-8")
    (tmp_path / "otel.yaml").write_text(page.partition("```yaml\n")[2].partition("```")[0])
    uninstrumented.setenv("OTEL_CONFIG_FILE", str(tmp_path / "otel.yaml"))
    declaration = declared.read()
    assert declaration is not None
    assert Settings(**declaration.options).flush_timeout == 10
    assert [(route.signal, route.destination) for route in declaration.routes()] == [
        ("traces", "http://localhost:4318/v1/traces"),
        ("metrics", "http://localhost:4318/v1/metrics"),
    ]


def test_configuration_has_every_setting() -> None:
    """The options that a file may give are flowspan's settings, and have their types."""
    fields = {field.name: field for field in dataclasses.fields(Configuration)}
    assert fields.keys() == Settings.model_fields.keys()
    assert all(field.default is None for field in fields.values())
    assert PrefectInstrumentor.configuration is Configuration
