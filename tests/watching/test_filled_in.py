"""What `flowspan watch` fills in of runs that nobody instruments, and what it leaves alone."""

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.trace import StatusCode
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from prefect.states import Cancelled, Crashed, Pending, Running, Scheduled

from flowspan import semconv
from flowspan.read import metric_files
from processes import environment, eventually, run_script
from support import attributes
from watched import differences, settle, spans_of


@pytest.fixture
def age() -> Callable[[], float]:
    """How many seconds ago the test began."""
    begun = time.monotonic()
    return lambda: time.monotonic() - begun


@task
def load(number: int) -> int:
    return number


@task(name="may fail", retries=1, retry_delay_seconds=0.2, task_run_name="attempt at {number}")
def flaky(number: int, failures: list[int]) -> int:
    if failures:
        raise ValueError(failures.pop())
    return number


@task
def broken() -> None:
    raise RuntimeError("no")


@flow(name="watched child")
def child(number: int) -> int:
    return load(number)


@flow(name="watched")
def pipeline() -> str:
    first = load.submit(1)
    second = flaky.submit(first, [7])
    child(second.result())
    skipped = load.submit(broken.submit())
    skipped.wait()
    return str(flow_run.id)


@flow(name="watched failing")
def failing() -> None:
    broken()


def test_a_trace_of_nothing_but_the_api(prefect_server: str, tmp_path: Path) -> None:
    """Runs, attempts, links and results of a flow that nobody instruments are all there."""
    run = pipeline()
    settle(tmp_path, 60)
    assert differences(tmp_path, [run]) == []
    spans = {span.name: span for span in spans_of(tmp_path, run)}
    assert {*spans} == {
        *(
            "RUN watched",
            "RUN watched child",
            "load",
            "broken",
            "may fail",
            "attempt 1",
            "attempt 2",
        )
    }
    retried = spans["may fail"]
    assert 0.2 <= attributes(retried)[semconv.WAIT_RETRY] < 5
    assert attributes(retried)[semconv.RUN_NAME] == "attempt at 1"
    assert spans["attempt 1"].status.status_code is StatusCode.ERROR
    assert spans["attempt 2"].status.status_code is StatusCode.UNSET
    for span in spans_of(tmp_path, run):
        known = attributes(span)
        if semconv.RUN_ID in known:
            assert known[semconv.OBSERVED_BY] == "watch"
            assert not known.keys() & {semconv.EXECUTION, semconv.ORCHESTRATION, semconv.PROCESS_ID}


def test_metrics_of_what_is_filled_in(prefect_server: str, tmp_path: Path) -> None:
    """Counts, retries and durations are those of the API, and each error counts once."""
    with pytest.raises(RuntimeError):
        failing()
    settle(tmp_path, 4)
    found = metric_files.load(tmp_path).counters
    errors: Counter[Any] = Counter()
    for counter in found:
        if counter.name == semconv.METRIC_PIPELINE_RUN_ERRORS:
            errors[counter.attributes[semconv.FLOW_NAME]] += counter.value
    assert errors["watched failing"] == 1


def test_nothing_is_filled_in_twice(
    prefect_server: str, tmp_path: Path, age: Callable[[], float]
) -> None:
    """A second observer of the same folder goes on where the first one ended."""
    run = pipeline()
    assert settle(tmp_path, age()) >= 7
    assert settle(tmp_path, age()) == 0
    assert differences(tmp_path, [run]) == []


def test_what_a_process_reports_is_left_alone(
    prefect_server: str, tmp_path: Path, age: Callable[[], float]
) -> None:
    """Nothing is missing of an instrumented flow that ends well, before the grace time ends."""
    done = run_script("doomed.py", "well", env=environment(tmp_path, DOOMED="instrumented"))
    assert done.returncode == 0, done.stderr
    (trace,) = {span.context.trace_id for span in recorded(tmp_path) if span.context}
    settle(tmp_path, age(), watch_grace=600)
    own = [span for span in recorded(tmp_path) if span.context and span.context.trace_id == trace]
    assert len(own) == 3
    assert not any(semconv.OBSERVED_BY in attributes(span) for span in own)


def recorded(folder: Path) -> list[Any]:
    from support import embedded_spans

    return embedded_spans(folder).all


def test_a_run_that_never_started(prefect_server: str, tmp_path: Path) -> None:
    """A run that is cancelled before it runs has a span without length, and the wait before it."""
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(failing, state=Scheduled())
        time.sleep(0.5)
        client.set_flow_run_state(run.id, Cancelled(message="not needed"))
    settle(tmp_path, 60)
    assert differences(tmp_path, [run.id]) == []
    (span,) = spans_of(tmp_path, run.id)
    assert span.start_time == span.end_time
    assert attributes(span)[semconv.PIPELINE_RESULT] == "cancellation"
    assert attributes(span)[semconv.WAIT_LATE] >= 0.5


def test_a_run_that_starts_again_after_its_end(prefect_server: str, tmp_path: Path) -> None:
    """What a later process does with a settled run is a span of its own, linked to the first."""
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(failing, state=Pending())
        client.set_flow_run_state(run.id, Running())
        client.set_flow_run_state(run.id, Crashed(message="first"))
        settle(tmp_path, 60)
        client.set_flow_run_state(run.id, Scheduled(), force=True)
        client.set_flow_run_state(run.id, Pending(), force=True)
        client.set_flow_run_state(run.id, Running(), force=True)
        client.set_flow_run_state(run.id, Crashed(message="second"), force=True)
    settle(tmp_path, 60)
    settle(tmp_path, 60)
    first, second = sorted(spans_of(tmp_path, run.id), key=lambda span: span.start_time or 0)
    assert (first.status.description, second.status.description) == ("first", "second")
    (link,) = second.links
    assert first.context is not None
    assert link.context.span_id == first.context.span_id
    assert (link.attributes or {})[semconv.LINK_TYPE] == semconv.LINK_PREVIOUS_ATTEMPT


class StoppedError(Exception):
    """Stands for SIGKILL."""


def stop_after(folder: Path, run: str) -> Callable[[], None]:
    """Return what stops the observer once it has exported the spans of a run."""

    def stop() -> None:
        if spans_of(folder, run):
            raise StoppedError

    return stop


def test_killed_between_the_export_and_its_note(prefect_server: str, tmp_path: Path) -> None:
    """What has arrived is not sent again if the destination can be read."""
    run = pipeline()
    with pytest.raises(StoppedError):
        settle(tmp_path, 60, deliver=stop_after(tmp_path, run))
    # Also of what other tests have run
    there = {span.context.span_id for span in recorded(tmp_path) if span.context}
    assert there
    settle(tmp_path, 60, find=lambda _: there)
    assert differences(tmp_path, [run]) == []


def test_a_run_that_cannot_be_filled_in(
    prefect_server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure of ours costs the run that it concerns, and is logged; others are filled in."""
    run = pipeline()
    with pytest.raises(StoppedError):
        settle(tmp_path, 60, deliver=stop_after(tmp_path, run))
    other = pipeline()
    caplog.clear()
    settle(tmp_path, 60, find=lambda _: 1 // 0)  # type: ignore[return-value]
    assert "cannot be filled in" in caplog.text
    assert differences(tmp_path, [other]) == []
    assert settle(tmp_path, 60) == 0


def test_killed_with_a_destination_that_cannot_be_read(prefect_server: str, tmp_path: Path) -> None:
    """What may not have arrived is sent again, with the same ids."""
    run = pipeline()
    with pytest.raises(StoppedError):
        settle(tmp_path, 60, deliver=stop_after(tmp_path, run))
    once = Counter(span.context.span_id for span in spans_of(tmp_path, run) if span.context)
    settle(tmp_path, 60)
    twice = Counter(span.context.span_id for span in spans_of(tmp_path, run) if span.context)
    assert once
    assert once.keys() <= twice.keys()
    assert len(twice) == 9


def test_lost_runs(prefect_server: str, tmp_path: Path, age: Callable[[], float]) -> None:
    """A killed script's runs end when they were last heard of, once, and are counted."""
    run_script("doomed.py", "in_a_subflow", env=environment(tmp_path, DOOMED="instrumented"))
    with get_client(sync_client=True) as client:
        (run,) = [
            one.id
            for one in client.read_flow_runs()
            if one.state_name == "Running" and one.parent_task_run_id is None
        ]
    # The time of the server is only known to some seconds.
    eventually(lambda: settle(tmp_path, age(), watch_lost=1) or None, "a lost run")
    assert settle(tmp_path, age(), watch_lost=1) == 0
    names = Counter(
        (span.name, attributes(span)[semconv.RUN_STATE_NAME])
        for span in spans_of(tmp_path, run)
        if semconv.RUN_ID in attributes(span)
    )
    assert names == {
        ("RUN in-a-subflow", "Lost"): 1,
        ("RUN below", "Lost"): 1,
        ("quick", "Completed"): 1,
        ("killed_here", "Lost"): 1,
    }
    assert counted_as_lost(tmp_path) == {"in-a-subflow": 1, "below": 1}


def counted_as_lost(folder: Path) -> dict[str, int]:
    """Return how many runs of each flow were lost; two observers have written the files."""
    lost: Counter[str] = Counter()
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        for resource in json.loads(line)["resourceMetrics"]:
            for scope in resource["scopeMetrics"]:
                for metric in scope["metrics"]:
                    if metric["name"] == semconv.METRIC_FLOW_RUN_LOST:
                        for point in metric["sum"]["dataPoints"]:
                            (name,) = point["attributes"]
                            value = name["value"]["stringValue"]
                            lost[value] = max(lost[value], int(point["asInt"]))
    return dict(lost)
