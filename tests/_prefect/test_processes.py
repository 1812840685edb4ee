"""Runs in separate processes: scripts, served flows, workers, signals, pools and forks."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from packaging.version import Version
from prefect import resume_flow_run
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling

from clocks import Timed
from example_runs import run_example, task_runs
from flowspan import semconv
from flowspan.identity import derive_span_id, derive_trace_id
from flowspan.read import log_files, metric_files
from processes import (
    PATIENCE,
    PREFECT,
    background,
    environment,
    eventually,
    run_script,
    run_under_distro,
)
from reconcile import reconcile
from sinks import http_sink
from support import RecordedSpans, attributes, context, embedded_spans, result, seconds, states
from waits import assert_waits

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform == "win32", reason="signals and forks are POSIX"),
]


TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"


def create_run(deployment: str, **parameters: Any) -> FlowRun:
    with get_client(sync_client=True) as client:
        found = client.read_deployment_by_name(deployment)
        return client.create_flow_run_from_deployment(found.id, parameters=parameters)


def read_run(run_id: UUID) -> FlowRun:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(run_id)


def reaches(run_id: UUID, name: str) -> FlowRun:
    def check() -> FlowRun | None:
        run = read_run(run_id)
        return run if run.state_name == name else None

    found: FlowRun = eventually(check, f"flow run in state {name}")
    return found


def spans_of(folder: Path, run_id: UUID | str) -> RecordedSpans:
    """Return the spans of a flow run's trace, once the run's own span is written."""

    def check() -> RecordedSpans | None:
        recorded = embedded_spans(folder)
        ids = {attributes(span).get(semconv.RUN_ID): span for span in recorded.all}
        if (own := ids.get(str(run_id))) is None:
            return None
        trace = RecordedSpans(recorded.provider)
        trace.export([s for s in recorded.all if context(s).trace_id == context(own).trace_id])
        return trace

    found: RecordedSpans = eventually(check, f"a span of {run_id}")
    return found


@pytest.fixture(scope="module")
def served(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Serve flows in a process with a TRACEPARENT; return the folder of their spans."""
    folder = tmp_path_factory.mktemp("served")
    command = (sys.executable, "pipelines.py", "serve")
    log = folder / "serve.log"
    env = environment(folder, TRACEPARENT=TRACEPARENT, FLOWSPAN_FLUSH_TIMEOUT="3")
    with background(*command, env=env, log=log) as process:

        def is_up() -> bool:
            assert process.poll() is None, log.read_text()
            with get_client(sync_client=True) as client:
                return len([d for d in client.read_deployments() if d.name == "served"]) == 4

        eventually(is_up, "serving")
        yield folder


def test_script(prefect_server: str, tmp_path: Path) -> None:
    """A script with two lines of flowspan leaves its trace in files, matching the API."""
    done = run_script("pipelines.py", "etl", env=environment(tmp_path))
    assert done.returncode == 0, done.stderr
    spans = embedded_spans(tmp_path)
    assert spans.tree().splitlines() == ["RUN etl", "  extract", "  load", "    attempt 1"]
    resource = spans.one("RUN etl").resource.attributes
    assert resource["service.name"] == "prefect"
    assert resource["telemetry.distro.name"] == "flowspan"
    assert UUID(str(resource["service.instance.id"]))
    assert reconcile(spans.all, attributes(spans.one("RUN etl"))[semconv.RUN_ID]) == []


def test_served_flow(served: Path) -> None:
    """A flow under serve() has a trace of its own, with its deployment and the waits before it."""
    run_id = create_run("etl/served", rows=5).id
    reaches(run_id, "Completed")
    spans = spans_of(served, run_id)
    assert spans.tree().splitlines() == ["RUN etl", "  extract", "  load", "    attempt 1"]
    root = spans.one("RUN etl")
    a = attributes(root)
    assert states(root)[0] == "Scheduled"
    assert a[semconv.DEPLOYMENT_NAME] == "served"
    assert UUID(a[semconv.DEPLOYMENT_ID])
    assert a[semconv.WAIT_INFRASTRUCTURE] > 0
    assert a[semconv.WAIT_LATE] > 0
    assert root.parent is None
    assert context(root).trace_id == derive_trace_id(str(run_id))
    assert reconcile(spans.all, run_id) == []


def test_cancelled_flow(served: Path) -> None:
    """A served flow that is cancelled exports what it knows before its process ends.

    It knows that it is being cancelled. Prefect's runner says that it is, once it is gone.
    """
    run_id = create_run("sleeper/served").id
    reaches(run_id, "Running")
    eventually(lambda: task_runs_of(run_id), "the sleeping task")
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run_id, Cancelling())
    reaches(run_id, "Cancelled")
    spans = spans_of(served, run_id)
    root = spans.one("RUN sleeper")
    assert result(root) == "cancellation"
    assert root.status.status_code.name == "UNSET"
    assert attributes(root)[semconv.RUN_STATE_NAME] == "Cancelled"
    with get_client(sync_client=True) as client:
        told = sorted(client.read_flow_run_states(run_id), key=lambda state: state.timestamp)
    known = [(event.attributes or {}).get(semconv.STATE_ID) for event in root.events]
    assert list(filter(None, known)) == [str(state.id) for state in told[:-1]]
    assert [state.name for state in told[-2:]] == ["Cancelling", "Cancelled"]
    assert spans.tree().splitlines() == ["RUN sleeper", "  sleep"]
    counted = {
        (counter.name, counter.attributes.get(semconv.PIPELINE_RESULT)): counter.value
        for counter in metric_files.load(served).counters
        if counter.attributes.get(semconv.FLOW_NAME) == "sleeper"
    }
    assert counted[semconv.METRIC_FLOW_RUNS, "cancellation"] == 1


def test_terminated_flow_process(served: Path) -> None:
    """The process of a served flow that gets SIGTERM sends all, as its state in the API says."""
    noted = served / "sleeper"
    noted.unlink(missing_ok=True)
    run_id = create_run("sleeper/served").id
    process = eventually(lambda: noted.exists() and noted.read_text(), "the sleeping task")
    os.kill(int(process), signal.SIGTERM)
    reaches(run_id, "Crashed")
    spans = spans_of(served, run_id)
    assert spans.tree().splitlines() == ["RUN sleeper", "  sleep"]
    assert reconcile(spans.all, run_id) == []


def test_flow_process_that_does_not_end(served: Path) -> None:
    """A cancelled flow that waits for a task in another thread is sent before it is killed."""
    noted = served / "sleeper"
    noted.unlink(missing_ok=True)
    run_id = create_run("stuck/served").id
    process = eventually(lambda: noted.exists() and noted.read_text(), "the sleeping task")
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run_id, Cancelling())
    spans = spans_of(served, run_id)
    os.kill(int(process), signal.SIGKILL)
    assert spans.tree().splitlines() == ["RUN stuck", "  sleep"]
    assert result(spans.one("RUN stuck")) == "cancellation"
    assert states(spans.one("RUN stuck"))[-1] == "Cancelling"
    assert result(spans.one("sleep")) is None


def task_runs_of(run_id: UUID) -> list[Any]:
    with get_client(sync_client=True) as client:
        return [
            run
            for run in client.read_task_runs(
                flow_run_filter=FlowRunFilter(id={"any_": [run_id]})  # type: ignore[arg-type]
            )
            if run.state_name == "Running"
        ]


def test_suspended_and_resumed_flow(served: Path) -> None:
    """A run that a second process continues has one span for each, linked, in the same trace."""
    run_id = create_run("suspender/served").id
    reaches(run_id, "Suspended")
    first_part = spans_of(served, run_id)
    first = first_part.one("RUN suspender")
    assert states(first)[-1] == "Suspended"
    assert result(first) is None
    assert first.status.status_code.name == "UNSET"
    resumed = Timed()
    with resumed:
        resume_flow_run(run_id)
        reaches(run_id, "Completed")

    def both() -> RecordedSpans | None:
        spans = spans_of(served, run_id)
        return spans if len(spans.named("RUN suspender")) == 2 else None

    spans: RecordedSpans = eventually(both, "the second process's span")
    first, second = spans.named("RUN suspender")
    assert context(second).trace_id == context(first).trace_id == derive_trace_id(str(run_id))
    assert context(second).span_id == derive_span_id(str(run_id), 1)
    assert second.parent is None
    (link,) = second.links
    assert link.context.span_id == context(first).span_id
    assert (link.attributes or {})[semconv.LINK_TYPE] == semconv.LINK_PREVIOUS_ATTEMPT
    assert result(second) == "success"
    assert states(second)[0] == "Resuming"
    assert "Suspended" not in states(second)
    assert attributes(second).get(semconv.WAIT_LATE, 0.0) < resumed.seconds
    phases = [
        (histogram.attributes[semconv.PIPELINE_RUN_STATE], histogram.values.count)
        for histogram in metric_files.load(served).histograms
        if histogram.name == semconv.METRIC_PIPELINE_RUN_DURATION
        and histogram.attributes[semconv.FLOW_NAME] == "suspender"
    ]
    assert sorted(phases) == [("executing", 1), ("pending", 1)]
    (load,) = spans.named("load")
    assert load.parent is not None
    assert load.parent.span_id == context(second).span_id


def test_run_deployment_joins_the_trace(served: Path) -> None:
    """A run that a flow or a task starts by its deployment is below the caller in its trace."""
    done = run_script("pipelines.py", "caller", env=environment(served))
    assert done.returncode == 0, done.stderr

    def both() -> RecordedSpans | None:
        spans = embedded_spans(served)
        callers = {context(span).trace_id for span in spans.named("RUN caller")}
        trace = RecordedSpans(spans.provider)
        trace.export([span for span in spans.all if context(span).trace_id in callers])
        return trace if trace.named("RUN caller") and len(trace.named("RUN etl")) == 2 else None

    spans: RecordedSpans = eventually(both, "both traces")
    etl = ["RUN etl", "  extract", "  load", "    attempt 1"]
    assert spans.tree().splitlines() == [
        "RUN caller",
        "  calls_etl",
        "    attempt 1",
        *(f"    {line}" for line in etl),
        *(f"  {line}" for line in etl),
    ]
    assert {called.kind.name for called in spans.named("RUN etl")} == {"SERVER"}
    assert reconcile(spans.all, attributes(spans.one("RUN caller"))[semconv.RUN_ID]) == []


def test_process_worker(prefect_server: str, tmp_path: Path) -> None:
    """The commands at the top of the example work, and the worker's run is recorded."""

    def prefect(*arguments: str) -> None:
        env = environment(tmp_path)
        subprocess.run(
            [*PREFECT, *arguments], env=env, check=True, capture_output=True, timeout=PATIENCE
        )

    prefect("work-pool", "create", "workers", "--type", "process")
    run_example("worker_deployment", folder=tmp_path)
    prefect("deployment", "run", "orders/every-night")
    prefect("worker", "start", "--pool", "workers", "--run-once")
    spans = embedded_spans(tmp_path)
    assert spans.tree().splitlines() == ["RUN orders", "  extract", "    attempt 1"]
    a = attributes(spans.one("RUN orders"))
    assert a[semconv.DEPLOYMENT_NAME] == "every-night"
    assert a[semconv.WORK_POOL_NAME] == "workers"
    assert a[semconv.WORK_QUEUE_NAME] == "default"
    assert a[semconv.WAIT_INFRASTRUCTURE] > 0
    assert reconcile(spans.all, a[semconv.RUN_ID]) == []
    assert task_runs(tmp_path) == {"extract": 1}


def test_opentelemetry_instrument(prefect_server: str, tmp_path: Path) -> None:
    """Under opentelemetry-instrument a flow needs no line of flowspan, and loses no span."""
    with http_sink() as sink:
        env = environment(
            tmp_path,
            OTEL_EXPORTER_OTLP_ENDPOINT=sink.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            OTEL_METRICS_EXPORTER="none",
            OTEL_LOGS_EXPORTER="none",
            OTEL_SERVICE_NAME="nightly",
        )
        done = run_under_distro("plain.py", env=env)
        assert done.returncode == 0, done.stderr
        sink.wait_for_spans(2)
        names = sorted(span.name for span in sink.spans if span.name in {"RUN etl", "extract"})
    assert names == ["RUN etl", "extract"]


def test_opentelemetry_instrument_without_variables(prefect_server: str, tmp_path: Path) -> None:
    """Without an exporter or endpoint, all goes to the embedded files, and nothing else is tried.

    What other instrumentations record with the distribution's providers is there, too.
    """
    done = run_under_distro("plain.py", env=environment(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "localhost:4317" not in done.stdout + done.stderr
    assert "variables: ['OTEL_EXPORTER_OTLP_PROTOCOL']" in done.stdout  # what a child would inherit
    spans = embedded_spans(tmp_path)
    flows = [span for span in spans.runs if span.name in {"RUN etl", "extract"}]
    assert sorted(span.name for span in flows) == ["RUN etl", "extract"]
    assert {span.resource.attributes["service.name"] for span in flows} == {"prefect"}
    others = {span.name for span in spans.all} - {"RUN etl", "extract"}
    assert "POST" in others  # Prefect's client, by the instrumentation of httpx
    metrics = (tmp_path / "metrics.jsonl").read_text()
    assert semconv.METRIC_TASK_RUN_DURATION in metrics
    assert "http.client.duration" in metrics
    assert "said by the flow" in (tmp_path / "logs.jsonl").read_text()


def test_exporter_that_the_user_names(prefect_server: str, tmp_path: Path) -> None:
    """An exporter that the user names is used under opentelemetry-instrument, file or no file."""
    env = environment(
        tmp_path,
        OTEL_TRACES_EXPORTER="otlp",
        OTEL_EXPORTER_OTLP_TIMEOUT="1",
        FLOWSPAN_FLUSH_TIMEOUT="1",
    )
    done = run_under_distro("plain.py", env=env)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "traces.jsonl").exists()
    assert (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("name", ["sleeper", "threaded_sleeper"])
def test_terminated_script(prefect_server: str, tmp_path: Path, name: str) -> None:
    """A script that gets SIGTERM dies of it, with its spans written, matching Prefect's API.

    Prefect before 3.8.4 kills the process before the run gets a state: it stays Running.
    """
    log, flow_name = tmp_path / "script.log", name.replace("_", "-")
    command = (sys.executable, "pipelines.py", name)
    with background(*command, env=environment(tmp_path), log=log) as process:

        def running() -> bool:
            assert process.poll() is None, log.read_text()
            with get_client(sync_client=True) as client:
                runs = client.read_flow_runs(
                    flow_filter=FlowFilter(name={"any_": [flow_name]}),  # type: ignore[arg-type]
                )
            return any(r.state_name == "Running" and task_runs_of(r.id) for r in runs)

        eventually(running, "the flow")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == -signal.SIGTERM, log.read_text()
    spans = embedded_spans(tmp_path)
    root = spans.one(f"RUN {flow_name}")
    is_told = Version(version("prefect")) >= Version("3.8.4")
    assert (attributes(root).get(semconv.PIPELINE_RESULT), states(root)[-1]) == (
        ("error", "Crashed") if is_told else (None, "Running")
    )
    assert len(spans.named("sleep")) == (1 if name == "sleeper" else 2)
    assert seconds(root) > 0


def test_process_that_runs_several_tasks(prefect_server: str, tmp_path: Path) -> None:
    """A pool process records all its tasks, though Prefect resets its environment after each."""
    env = environment(tmp_path, TRACEPARENT=TRACEPARENT)
    done = run_script("pooled.py", "one_worker", env=env)
    assert done.returncode == 0, done.stderr
    spans = embedded_spans(tmp_path)
    assert spans.tree().splitlines() == ["RUN one-worker", "  square", "  square", "  square"]
    root, squares = spans.one("RUN one-worker"), spans.named("square")
    assert {f"{context(span).trace_id:032x}" for span in spans.all} == {TRACE_ID}
    assert root.parent is not None
    assert f"{root.parent.span_id:016x}" == PARENT_ID
    (process,) = {span.resource.attributes["service.instance.id"] for span in squares}
    assert process != root.resource.attributes["service.instance.id"]
    assert {attributes(span)[semconv.FLOW_NAME] for span in spans.runs} == {"one-worker"}
    assert reconcile(spans.all, attributes(root)[semconv.RUN_ID]) == []
    counters = metric_files.load(tmp_path).counters
    counted = [counter for counter in counters if counter.name == semconv.METRIC_TASK_RUNS]
    assert sum(counter.value for counter in counted) == 3
    assert {counter.attributes[semconv.FLOW_NAME] for counter in counted} == {"one-worker"}


def test_process_that_a_task_instruments(prefect_server: str, tmp_path: Path) -> None:
    """If a task calls instrument() in a pool process, its later tasks are recorded too."""
    done = run_script("pooled_inside.py", env=environment(tmp_path))
    assert done.returncode == 0, done.stderr
    spans = embedded_spans(tmp_path)
    assert [span.name for span in spans.all] == ["instruments", "later", "later"]
    assert {result(span) for span in spans.all} == {"success"}
    flow_run_ids = {str(attributes(span)[semconv.FLOW_RUN_ID]) for span in spans.all}
    (flow_run_id,) = flow_run_ids
    assert {context(span).trace_id for span in spans.all} == {derive_trace_id(flow_run_id)}


def assert_all_carried(folder: Path, root: ReadableSpan, *, apart_from: str | None = None) -> None:
    """Assert that spans, metrics and logs in `folder` have all runs of the flow, once each."""
    spans = embedded_spans(folder)
    called = sorted(span.name for span in spans.children(root))
    assert called == ["outer", "square", "square", "square", "square"]
    (nested,) = spans.children(spans.one("outer"))
    assert nested.name == "square"
    last = max(spans.children(root), key=lambda span: span.start_time or 0)
    assert len(last.links) == 4
    run_id = attributes(root)[semconv.RUN_ID]
    assert reconcile(spans.all, run_id, apart_from=apart_from) == []
    processes = {span.resource.attributes["service.instance.id"] for span in spans.runs}
    assert len(processes) in {2, 3}
    assert task_runs(folder) == {"square": 5, "outer": 1}
    logged = {
        log.body: log.span_id
        for log in log_files.load(folder, run_id).logs
        if log.body.startswith("squared")
    }
    assert set(logged) == {f"squared {number}" for number in range(1, 6)}
    squares = {f"{context(span).span_id:016x}" for span in spans.named("square")}
    assert set(logged.values()) == squares


@pytest.mark.parametrize("place", ["from_main", "from_inside"])
def test_instrument_travels_with_the_work(prefect_server: str, tmp_path: Path, place: str) -> None:
    """Pool processes record their tasks, though instrument() is not at the script's top level."""
    done = run_script("carried.py", place, env=environment(tmp_path))
    assert done.returncode == 0, done.stderr
    spans = embedded_spans(tmp_path)
    (root,) = (span for span in spans.all if span.name.startswith("RUN"))
    # The script's own run is adopted in one of them, without its first state.
    adopted = f"{attributes(root)[semconv.RUN_NAME]}: states are"
    apart_from = adopted if place == "from_inside" else None
    assert_all_carried(tmp_path, root, apart_from=apart_from)
    value = "4" if place == "from_main" else "int"
    assert attributes(spans.one("outer"))["prefect.run.parameter.x"] == value


def test_instrument_travels_from_a_served_flow(prefect_server: str, tmp_path: Path) -> None:
    """So do pool processes of a served flow."""
    command = (sys.executable, "carried.py", "serve")
    with background(*command, env=environment(tmp_path), log=tmp_path / "serve.log"):
        deployment = "carried-from-inside/carried"

        def find() -> bool:
            with get_client(sync_client=True) as client:
                return any(d.name == "carried" for d in client.read_deployments())

        eventually(find, "serving")
        run_id = create_run(deployment).id
        reaches(run_id, "Completed")
        root = spans_of(tmp_path, run_id).one("RUN carried-from-inside")
        assert_all_carried(tmp_path, root)


@pytest.mark.parametrize("runner", ["thread", "process"])
def test_waits_are_the_same(prefect_server: str, tmp_path: Path, runner: str) -> None:
    """A wait for an upstream run is that, with a link, whoever waits; tests/runners has others."""
    assert_waits(tmp_path, runner)


def test_nothing_dies_with_a_pool_process(prefect_server: str, tmp_path: Path) -> None:
    """A pool process has sent all of a task run before its caller gets the result."""
    done = run_script("carried.py", "killed", env=environment(tmp_path))
    assert done.returncode == 0, done.stderr
    spans = embedded_spans(tmp_path)
    assert spans.tree().splitlines() == ["RUN short-lived", "  square", "  asynchronous"]
    counters = metric_files.load(tmp_path).counters
    assert [c.value for c in counters if c.name == semconv.METRIC_TASK_RUNS] == [1, 1]
    run_id = attributes(spans.one("RUN short-lived"))[semconv.RUN_ID]
    logged = {log.body: log.span_id for log in log_files.load(tmp_path, run_id).logs}
    assert logged["squared 1"] == f"{context(spans.one('square')).span_id:016x}"
    assert logged["asynchronous"] == f"{context(spans.one('asynchronous')).span_id:016x}"


def test_pool_process_without_flowspan(prefect_server: str, tmp_path: Path) -> None:
    """A pool process that cannot import flowspan runs its tasks, and says once what is missing."""
    start = tmp_path / "start"
    start.mkdir()
    (start / "sitecustomize.py").write_text(
        "import sys\nif '--multiprocessing-fork' in sys.orig_argv: sys.modules['flowspan'] = None\n"
    )
    env = environment(tmp_path)
    env["PYTHONPATH"] = os.pathsep.join([str(start), env["PYTHONPATH"]])
    done = run_script("carried.py", "from_main", env=env)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("flowspan cannot be used there") in {1, 2}, done.stderr
    assert done.stderr.count("squared") == 5
    assert [span.name for span in embedded_spans(tmp_path).all] == ["RUN carried"]


def test_own_provider_does_not_travel(prefect_server: str, tmp_path: Path) -> None:
    """The application's provider cannot be sent: a pool process says so, and records nothing."""
    done = run_script("carried.py", "own_provider", env=environment(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("OpenTelemetry providers (traces) cannot be sent") in {1, 2}
    assert done.stderr.count("squared") == 5
    assert embedded_spans(tmp_path).all == []
    with http_sink() as sink:
        env = environment(
            tmp_path,
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{sink.endpoint}/v1/traces",
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        )
        done = run_script("carried.py", "own_provider", env=env)
        assert done.returncode == 0, done.stderr
        assert sorted(span.name for span in sink.spans) == ["outer", *["square"] * 5]
    assert "cannot be sent" not in done.stderr


def test_fork(prefect_server: str, tmp_path: Path) -> None:
    """A process that a task forks exports its own spans and ends none of its parent's."""
    done = run_script("pooled.py", "forking", env=environment(tmp_path))
    assert done.returncode == 0, done.stderr
    spans = embedded_spans(tmp_path)
    assert spans.tree().splitlines() == ["RUN forking", "  forks", "    in the child"]
