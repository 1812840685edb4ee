"""``flowspan demo`` runs the example and shows it, and its trace matches the example."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from span_files import run, write

from flowspan import semconv
from flowspan.analysis.one_trace import Analysis, analyse
from flowspan.read import trace_files as timeline

pytest.importorskip("duckdb", reason="the extra 'demo' is not installed")

pytestmark = pytest.mark.timeout(400)  # the demo takes a while on a busy machine

# A user's settings may name these, but the demo must not use them.
DEAD_SERVER = "http://127.0.0.1:9/api"


@dataclass(frozen=True)
class Span:
    """The attributes of one span in the embedded file."""

    name: str
    id: str
    parent: str
    start: int
    end: int
    attributes: Mapping[str, Any]
    events: list[Mapping[str, Any]] = field(repr=False)

    @property
    def result(self) -> Any:
        return self.attributes.get(semconv.PIPELINE_TASK_RESULT) or self.attributes.get(
            semconv.PIPELINE_RESULT
        )


@dataclass(frozen=True)
class Demo:
    """One finished run of the example."""

    folder: Path
    """The folder that it wrote to."""
    stdout: str
    stderr: str
    returncode: int
    spans: list[Span] = field(repr=False)
    analysis: Analysis | None = None

    @property
    def table(self) -> str:
        """The table of metrics that it printed."""
        return self.stdout[self.stdout.index("flow / task ") :]

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def children(self, span: Span) -> list[Span]:
        return [child for child in self.spans if child.parent == span.id]


def run_demo(
    folder: Path, before: str = "", *options: str, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run the command with options in a folder, after code that prepares its process."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "FLOWSPAN_", "OTEL_"))
    }
    return subprocess.run(
        [
            *(sys.executable, "-c", f"{before}\nfrom flowspan.cli.main import main; main()"),
            *("demo", *options),
        ],
        check=False,
        cwd=folder,
        env=inherited | {"PYTHONIOENCODING": "utf-8"} | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """Run the command once for all tests of this module, with other Prefect settings around it."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "prefect.toml").write_text(f'[api]\nurl = "{DEAD_SERVER}"\n')
    # Wide enough for all columns, whatever waits they show.
    done = run_demo(
        folder, PREFECT_API_URL=DEAD_SERVER, PREFECT_LOGGING_LEVEL="ERROR", COLUMNS="120"
    )
    embedded = folder / ".flowspan"
    traces = embedded / "traces.jsonl"
    spans = read(traces) if traces.exists() else []
    analysis = analyse(timeline.load(traces).spans) if spans else None
    return Demo(embedded, done.stdout, done.stderr, done.returncode, spans, analysis)


def values(holder: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a span or an event."""
    return {a["key"]: next(iter(a["value"].values())) for a in holder.get("attributes", [])}


def read(file: Path) -> list[Span]:
    """Read OTLP JSON lines without flowspan's reader, so that it does not check itself."""
    return [
        Span(
            span["name"],
            span["spanId"],
            span.get("parentSpanId", ""),
            int(span["startTimeUnixNano"]),
            int(span["endTimeUnixNano"]),
            values(span),
            [
                {"name": event["name"], "time": int(event["timeUnixNano"]), **values(event)}
                for event in span.get("events", [])
            ],
        )
        for line in file.read_text().splitlines()
        for resource in json.loads(line)["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]


def test_answers_its_question_and_nothing_else(demo: Demo) -> None:
    """The demo succeeds, names the three latest carriers, and prints no warnings or errors."""
    assert demo.returncode == 0, demo.stderr
    assert "8255" in demo.stdout
    assert "Loaded 327,361 rows" in demo.stdout
    assert demo.stdout.index("Frontier") < demo.stdout.index("AirTran")
    assert "Traceback" not in demo.stdout
    page = Path(".flowspan", "report.html")
    assert demo.stderr == f"flowspan: the page is in {page}: open it in a browser.\n"


def test_shows_timeline_and_metrics_and_tells_of_page_and_log(demo: Demo) -> None:
    """The demo prints both in order, and the page and the log are where it says."""
    parts = (
        "The latest to arrive",
        "nyc-flights  ",
        "validate is the bottleneck",
        "RUN nyc-flights",
        "flow / task ",
        "report.html",
        "flowspan timeline --logs",
    )
    places = [demo.stdout.find(part) for part in parts]
    assert -1 not in places
    assert places == sorted(places)
    (root,) = demo.named("RUN nyc-flights")
    page = (demo.folder / "report.html").read_text(encoding="utf-8")
    assert str(root.attributes[semconv.RUN_ID]) in page
    logged = "Retry 1/2 will start"
    assert logged in page
    assert logged in (demo.folder / "logs.jsonl").read_text(encoding="utf-8")


def test_one_trace(demo: Demo) -> None:
    """All spans belong to the tree of the one flow run, which succeeded."""
    (root,) = (span for span in demo.spans if not span.parent)
    assert root.name == "RUN nyc-flights"
    assert root.result == "success"
    ids = {span.id for span in demo.spans}
    assert all(span.parent in ids for span in demo.spans if span.parent)


def test_retry_and_cache(demo: Demo) -> None:
    """The reference table takes two attempts, and comes from the cache the second time."""
    fetched, cached = sorted(
        demo.named("fetch_reference"), key=lambda span: bool(span.attributes[semconv.TASK_CACHED])
    )
    assert [span.name for span in demo.children(fetched)] == ["attempt 1", "attempt 2"]
    assert fetched.result == cached.result == "success"
    (failed,) = (event for event in fetched.events if event["name"] == "AwaitingRetry")
    (again,) = (event for event in fetched.events if event["name"] == "Retrying")
    # Less than the second of the retry delay, which Prefect counts from before the first state.
    waited = (again["time"] - failed["time"]) / 1e9
    assert fetched.attributes[semconv.WAIT_RETRY] == pytest.approx(waited)
    assert cached.attributes[semconv.TASK_CACHED] is True
    assert cached.attributes[semconv.RUN_STATE_NAME] == "Cached"


def test_timeout(demo: Demo) -> None:
    """The geocoder is the only step that did not succeed."""
    failed = [span for span in demo.spans if span.result not in {None, "success"}]
    assert [(span.name, span.result) for span in failed] == [("geocode", "timeout")]


def test_subflow(demo: Demo) -> None:
    """The subflow is a child of the flow, and its tasks are children of the subflow."""
    (enrich,) = demo.named("RUN enrich")
    (root,) = demo.named("RUN nyc-flights")
    assert enrich.parent == root.id
    assert sorted(span.name for span in demo.children(enrich)) == [
        "extract",
        "extract",
        "join_planes",
        "join_weather",
    ]


def test_mapped_tasks(demo: Demo) -> None:
    """There is one summary for each of the sixteen carriers."""
    assert len(demo.named("summarize")) == 16


def test_concurrency(demo: Demo) -> None:
    """One load waits until the other one has left the warehouse."""
    first, second = sorted(demo.named("load"), key=lambda span: span.end)
    (running,) = (event["time"] for event in second.events if event["name"] == "Running")
    (completed,) = (event["time"] for event in first.events if event["name"] == "Completed")
    waited = [float(span.attributes[semconv.WAIT_CONCURRENCY]) for span in (first, second)]
    assert second.start < completed < running
    assert waited[0] < waited[1] <= (running - second.start) / 1e9


def test_bottleneck(demo: Demo) -> None:
    """Nothing executes longer than the step that was made slow."""
    tasks = [
        span
        for span in demo.spans
        if span.attributes.get(semconv.RUN_TYPE) == "task" and semconv.EXECUTION in span.attributes
    ]
    slowest = max(tasks, key=lambda span: float(span.attributes[semconv.EXECUTION]))
    assert slowest.name == "validate"


def test_share_of_the_bottleneck(demo: Demo) -> None:
    """The analysis names that step, with its share of the run from its input to its result."""
    (root,) = demo.named("RUN nyc-flights")
    (validate,) = demo.named("validate")
    # The flow calls it and does nothing else meanwhile; it waits for the flights, then works.
    (flights,) = (span for span in demo.named("extract") if span.parent == root.id)
    assert root.start < validate.start < flights.end < validate.end < root.end
    share = (validate.end - flights.end) / (root.end - root.start)
    assert demo.analysis is not None
    bottleneck = demo.analysis.bottleneck
    assert bottleneck is not None
    assert (bottleneck.name, bottleneck.cause) == ("validate", "execution")
    assert bottleneck.share == pytest.approx(share, rel=0.02)
    execution = float(validate.attributes[semconv.EXECUTION]) * 1e9
    assert bottleneck.drag == pytest.approx(execution, rel=0.02)
    assert bottleneck.saved == pytest.approx(execution / 2, rel=0.02)


def test_objective(demo: Demo) -> None:
    """Only the objective that the slow step violates is reported."""
    (root,) = demo.named("RUN nyc-flights")
    (violated,) = [event for event in root.events if event["name"] == "slo.violated"]
    assert violated["prefect.slo.objective"] == "max_task_share"
    assert "'validate'" in violated["prefect.slo.detail"]


def test_metrics(demo: Demo) -> None:
    """The table of metrics shows runs, success, rows, the retry and the violated objective."""
    lines = [line.lstrip("├─└│ ") for line in demo.table.splitlines()]
    rows = {line.split()[0]: line for line in lines if line}
    assert "max_task_share" in demo.table
    assert "327,345" in demo.table
    assert "16" in rows["summarize"]
    assert "100" in rows["validate"]


def with_flow(script: Path, code: str) -> str:
    """Write another script, and return code that makes the command run it."""
    script.write_text(code)
    return (
        "from pathlib import Path; from flowspan.cli import demo; "
        f"demo.script = lambda: Path({str(script)!r})"
    )


def test_failing_flow(tmp_path: Path) -> None:
    """The demo prints the flow's traceback and how to see more, and nothing else."""
    failing = """
from prefect import flow
from flowspan import instrument

instrument()

@flow
def failing():
    raise LookupError("no flights today")

failing()
"""
    done = run_demo(tmp_path, with_flow(tmp_path / "failing.py", failing))
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "Running failing.py on a temporary Prefect server, for about 20 seconds ..."
    ]
    assert done.stderr.startswith("Traceback")
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.splitlines()[-2:] == [
        "LookupError: no flights today",
        "flowspan: the flow failed. To see Prefect's log, run: flowspan demo --log INFO",
    ]
    assert not (tmp_path / ".flowspan" / "report.html").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_nothing_is_left_running(tmp_path: Path) -> None:
    """The demo, told to stop, stops the flow and the server that it started."""
    flow = "import os, time; print(os.getpid(), os.environ['PREFECT_API_URL']); time.sleep(600)"
    before = with_flow(tmp_path / "endless.py", flow)
    demo = subprocess.Popen(
        [sys.executable, "-c", f"{before}\nfrom flowspan.cli.main import main; main()", "demo"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    with demo:
        assert demo.stdout is not None
        demo.stdout.readline()
        process_id, url = demo.stdout.readline().split()
        assert httpx.get(f"{url}/health").is_success
        demo.terminate()
        assert demo.wait(60) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(int(process_id), 0)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def test_an_earlier_run_is_not_taken_for_this_one(tmp_path: Path) -> None:
    """If the run's spans go elsewhere, the demo says so, and does not show older ones."""
    (tmp_path / ".flowspan").mkdir()
    write(tmp_path / ".flowspan" / "traces.jsonl", run("RUN nyc-flights", 0, 10))
    done = run_demo(tmp_path, with_flow(tmp_path / "elsewhere.py", "print('ran')"))
    assert done.returncode == 1
    assert done.stdout.splitlines()[1:] == ["ran", ""]
    assert "no run of 'nyc-flights' that ended since" in done.stderr


@pytest.mark.parametrize(
    ("package", "options", "extras"),
    [
        ("duckdb", (), "demo"),
        ("prefect_dask", ("--runner", "dask"), "demo,dask"),
        ("prefect_ray", ("--runner", "ray"), "demo,ray"),
    ],
)
def test_missing_packages(
    tmp_path: Path, package: str, options: tuple[str, ...], extras: str
) -> None:
    """The demo names missing packages, says how to install them, and writes nothing."""
    done = run_demo(tmp_path, f"import sys; sys.modules['{package}'] = None", *options)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"flowspan: the demo needs packages that are not installed ({package}): "
        f"pip install 'flowspan[{extras}]'\n"
    )
    assert not any(tmp_path.iterdir())
