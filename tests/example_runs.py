"""Run the examples for more than one process, and check what they left in files."""

from pathlib import Path

from flowspan import semconv
from flowspan.read import metric_files
from processes import environment, run_script
from reconcile import reconcile
from support import RecordedSpans, attributes, embedded_spans

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(name: str, *arguments: str, folder: Path) -> str:
    """Run an example to its end, with its telemetry in `folder`; return what it printed."""
    script = str(EXAMPLES / f"{name}.py")
    done = run_script(script, *arguments, env=environment(folder))
    assert done.returncode == 0, done.stderr
    return done.stdout


def task_runs(folder: Path) -> dict[str, float]:
    """Return how many runs of each task the metrics in `folder` count."""
    counted: dict[str, float] = {}
    for counter in metric_files.load(folder).counters:
        if counter.name == semconv.METRIC_TASK_RUNS:
            task = counter.attributes[semconv.TASK_NAME]
            counted[task] = counted.get(task, 0) + counter.value
    return counted


def processes(spans: RecordedSpans, name: str) -> set[tuple[str, int]]:
    """Return the host and the id of each process that ran runs of this name."""
    found = map(attributes, spans.named(name))
    return {(a[semconv.HOST_NAME], a[semconv.PROCESS_ID]) for a in found}


def check_primes(name: str, folder: Path) -> None:
    """Run an example that counts primes in two processes; all of it must be in `folder`."""
    assert run_example(name, folder=folder).splitlines()[-1] == "2262"
    spans = embedded_spans(folder)
    flow = f"RUN {name.replace('_', '-')}"
    assert sorted(spans.tree().splitlines()) == ["  add", *["  count_primes"] * 4, flow]
    assert reconcile(spans.all, attributes(spans.one(flow))[semconv.RUN_ID]) == []
    assert task_runs(folder) == {"count_primes": 4, "add": 1}
    assert 1 <= len(processes(spans, "count_primes")) <= 2  # a quick one may do all
    assert processes(spans, "add") == processes(spans, flow)
    assert not processes(spans, "count_primes") & processes(spans, flow)
