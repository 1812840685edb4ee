"""flowspan as a plugin of Prefect: scripts and served flows that never mention it are recorded."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client

from flowspan import plugin, semconv
from processes import (
    FLOWS,
    PREFECT,
    background,
    deploy,
    environment,
    eventually,
    run_script,
    run_under_distro,
)
from reconcile import reconcile
from support import RecordedSpans, attributes, embedded_spans

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform == "win32", reason="serve() is stopped by a signal"),
]

Environment = Callable[..., dict[str, str]]

REMOTE_PARENT = {"TRACEPARENT": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))


@pytest.fixture
def plugged(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Return the variables of a process that loads the plugin, as `environment` does.

    An editable install knows only the entry points of the day on which it was made.
    """
    packages = tmp_path_factory.mktemp("packages")
    points = PROJECT["project"]["entry-points"]["prefect.plugins"]
    add_package(packages, "flowspan", **points)

    def plugged(**variables: str) -> dict[str, str]:
        env = environment(tmp_path, **variables)
        env["PYTHONPATH"] = os.pathsep.join([str(packages), env["PYTHONPATH"]])
        return {**switches("true"), **env}

    return plugged


def switches(value: str) -> dict[str, str]:
    """Set Prefect's setting, by its name today and by that of Prefect 3.6."""
    return dict.fromkeys(("PREFECT_PLUGINS_ENABLED", "PREFECT_EXPERIMENTS_PLUGINS_ENABLED"), value)


def add_package(folder: Path, name: str, **plugins: str) -> None:
    """Install a package that has nothing but plugins of Prefect."""
    info = folder / f"{name}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    lines = [f"{key} = {value}\n" for key, value in plugins.items()]
    (info / "entry_points.txt").write_text("[prefect.plugins]\n" + "".join(lines))


def run_ids(spans: RecordedSpans) -> list[str]:
    return [str(attributes(span)[semconv.RUN_ID]) for span in spans.runs]


def test_script(prefect_server: str, tmp_path: Path, plugged: Environment) -> None:
    """A script that never mentions flowspan leaves its trace, its metrics and its log lines."""
    done = run_script("plain.py", env=plugged())
    assert done.returncode == 0, done.stderr
    assert "flowspan" not in done.stdout + done.stderr
    spans = embedded_spans(tmp_path)
    assert spans.tree().splitlines() == ["RUN etl", "  extract"]
    assert reconcile(spans.all, attributes(spans.one("RUN etl"))[semconv.RUN_ID]) == []
    assert semconv.METRIC_TASK_RUNS in (tmp_path / "metrics.jsonl").read_text()
    assert "said by the flow" in (tmp_path / "logs.jsonl").read_text()


def test_plugins_that_are_not_enabled(
    prefect_server: str, tmp_path: Path, plugged: Environment
) -> None:
    """Without Prefect's setting, or with flowspan's own switch, nothing is recorded."""
    for variables in (switches("false"), {"FLOWSPAN_ENABLED": "false"}):
        done = run_script("plain.py", env=plugged(**variables))
        assert done.returncode == 0, done.stderr
        assert list(tmp_path.iterdir()) == []


def test_served_flow(prefect_server: str, tmp_path: Path, plugged: Environment) -> None:
    """The process of a served flow is recorded as well, and joins a trace if it is told to."""
    command, log = (sys.executable, "plain.py", "serve", "plugged"), tmp_path / "serve.log"
    env = plugged(**REMOTE_PARENT, FLOWSPAN_JOIN_TRACEPARENT="all")
    with background(*command, env=env, log=log) as process:

        def start_run() -> str | None:
            assert process.poll() is None, log.read_text()
            with get_client(sync_client=True) as client:
                found = [d for d in client.read_deployments() if d.name == "plugged"]
                if not found:
                    return None
                return str(client.create_flow_run_from_deployment(found[0].id).id)

        run_id = eventually(start_run, "serving")
        eventually(lambda: run_id in run_ids(embedded_spans(tmp_path)), "the run's span")
    spans = embedded_spans(tmp_path)
    assert spans.tree().splitlines() == ["RUN etl", "  extract"]
    root = spans.one("RUN etl")
    assert attributes(root)[semconv.DEPLOYMENT_NAME] == "plugged"
    assert root.parent is not None
    assert f"{root.parent.span_id:016x}" == "b7ad6b7169203331"
    assert reconcile(spans.all, run_id) == []


def test_worker(prefect_server: str, tmp_path: Path, plugged: Environment) -> None:
    """A worker whose environment switches plugins on starts flow runs that are recorded.

    Each is a trace of its own, though the worker has a TRACEPARENT.
    """
    env = plugged(**REMOTE_PARENT)
    deploy("plain.py:etl", pool="plugged")
    worker = (*PREFECT, "worker", "start", "--pool", "plugged")
    with background(*worker, env=env, log=tmp_path / "worker.log"):
        with get_client(sync_client=True) as client:
            found = client.read_deployment_by_name("etl/worked")
            run_id = str(client.create_flow_run_from_deployment(found.id).id)
        eventually(lambda: run_id in run_ids(embedded_spans(tmp_path)), "the run's span")
    spans = embedded_spans(tmp_path)
    assert spans.tree().splitlines() == ["RUN etl", "  extract"]
    assert attributes(spans.one("RUN etl"))[semconv.WORK_POOL_NAME] == "plugged"
    assert spans.one("RUN etl").parent is None


def test_process_pool(prefect_server: str, tmp_path: Path, plugged: Environment) -> None:
    """The processes of a pool import Prefect, so their tasks are below the flow."""
    done = run_script("plain.py", "pooled", env=plugged())
    assert done.returncode == 0, done.stderr
    spans = embedded_spans(tmp_path)
    assert spans.tree().splitlines() == ["RUN squares", "  square", "  square", "  square"]
    assert len({s.resource.attributes["service.instance.id"] for s in spans.all}) > 1


def test_beside_opentelemetry_instrument(
    prefect_server: str, tmp_path: Path, plugged: Environment
) -> None:
    """Under opentelemetry-instrument, which activates flowspan before, each run has one span."""
    done = run_under_distro("plain.py", env=plugged())
    assert done.returncode == 0, done.stderr
    names = [span.name for span in embedded_spans(tmp_path).runs]
    assert sorted(name for name in names if name in {"RUN etl", "extract"}) == [
        "RUN etl",
        "extract",
    ]


def test_beside_instrument(prefect_server: str, tmp_path: Path, plugged: Environment) -> None:
    """A script that calls instrument() itself, with arguments, records each run once, with them."""
    code = (
        "from prefect import flow\n"
        "import plain\n"
        "from flowspan import instrument\n"
        "from flowspan.settings import Settings\n"
        f"instrument(settings=Settings(dir={str(tmp_path / 'own')!r}))\n"
        "plain.etl()\n"
    )
    done = run_script("-c", code, env=plugged())
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob("*.jsonl"))
    spans = embedded_spans(tmp_path / "own")
    assert spans.tree().splitlines() == ["RUN etl", "  extract"]


def test_beside_another_plugin(prefect_server: str, tmp_path: Path, plugged: Environment) -> None:
    """A provider that another plugin sets when Prefect starts is used, and is the only one."""
    env = plugged(OTHER_PLUGIN=str(tmp_path / "others.txt"))
    packages = Path(env["PYTHONPATH"].split(os.pathsep)[0])
    add_package(packages, "zzz", zzz="other_plugin")
    (packages / "other_plugin.py").write_text(
        "import os\n"
        "import pluggy\n"
        "from opentelemetry import trace\n"
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor\n"
        "@pluggy.HookimplMarker('prefect-experimental')\n"
        "def setup_environment(*, ctx):\n"
        "    exporter = ConsoleSpanExporter(\n"
        "        out=open(os.environ['OTHER_PLUGIN'], 'a'), formatter=lambda s: s.name + '\\n')\n"
        "    provider = TracerProvider()\n"
        "    provider.add_span_processor(SimpleSpanProcessor(exporter))\n"
        "    trace.set_tracer_provider(provider)\n"
    )
    done = run_script("plain.py", env=env)
    assert done.returncode == 0, done.stderr
    assert "not allowed" not in done.stderr  # to set a second provider
    assert (tmp_path / "others.txt").read_text().split("\n") == ["extract", "RUN etl", ""]
    assert not (tmp_path / "traces.jsonl").exists()


def test_failing_set_up(prefect_server: str, tmp_path: Path, plugged: Environment) -> None:
    """A bad variable is an error in the log, once; the flow runs as if nothing were there."""
    done = run_script("plain.py", env=plugged(OTEL_TRACES_EXPORTER="pigeon"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("flowspan records nothing in this process: OTEL_TRACES_EXPORTER") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "traces.jsonl").exists()


def test_starters() -> None:
    """Prefect still has the functions that start every run, also in the names of its callers."""
    for module, names in plugin.STARTERS.items():
        for name in names:
            assert callable(getattr(importlib.import_module(module), name))


def test_nothing_heavy_is_imported(prefect_server: str, plugged: Environment) -> None:
    """Until the first run, the plugin costs no import of Prefect's engines or the SDK."""
    code = (
        "import prefect, sys\n"
        "assert 'flowspan.plugin' in sys.modules\n"
        "heavy = {'prefect.flow_engine', 'opentelemetry.sdk.trace', 'flowspan.instrumentor'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=plugged(),
        cwd=FLOWS,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_starters_are_sent_by_name(prefect_server: str, plugged: Environment) -> None:
    """Dask and Ray send Prefect's functions by their names, though the plugin has replaced them."""
    code = (
        "import cloudpickle\n"
        "from prefect import flow_engine, task_engine\n"
        "names = ('run_task_sync', 'run_task_async')\n"
        "for function in (flow_engine.run_flow, *(getattr(task_engine, one) for one in names)):\n"
        "    assert function.__wrapped__.__module__.startswith('prefect.')\n"
        "    assert cloudpickle.loads(cloudpickle.dumps(function)) is function\n"
    )
    done = run_script("-c", code, env=plugged())
    assert done.returncode == 0, done.stderr
