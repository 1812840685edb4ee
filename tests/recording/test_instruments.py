"""Metrics of runs: names, values and attributes, on every path of Prefect's engines."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from opentelemetry.context import Context
from opentelemetry.sdk.metrics.export import Gauge, Histogram, Sum
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind
from prefect import flow, get_client, task
from prefect.cache_policies import INPUTS
from prefect.concurrency.sync import concurrency
from prefect.flow_engine import run_flow
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Failed, Scheduled
from prefect.task_runners import ThreadPoolTaskRunner

import flowspan
from clocks import Timed, timed_wait
from flowspan import semconv
from flowspan.objectives.promises import Objectives
from flowspan.recording.instruments import DURATION_BUCKETS, ROW_BUCKETS, RunMetrics
from flowspan.recording.run import Run
from flowspan.settings import Settings
from kinds import KINDS, make
from processes import PATIENCE
from reconcile import Totals, reconcile
from support import RecordedMetrics, RecordedSpans, attributes, context, time_of

NAMES = {"prefect.flow.name", "prefect.task.name"}

# The contract: kind, unit, and the attributes beyond those of `NAMES`.
TABLE: dict[str, tuple[str, str, set[str]]] = {
    "cicd.pipeline.run.duration": (
        "histogram",
        "s",
        {
            "cicd.pipeline.name",
            "cicd.pipeline.run.state",
            "cicd.pipeline.result",
            "error.type",
            "prefect.deployment.name",
        },
    ),
    "cicd.pipeline.run.active": (
        "up-down counter",
        "{run}",
        {"cicd.pipeline.name", "cicd.pipeline.run.state"},
    ),
    "cicd.pipeline.run.errors": ("counter", "{error}", {"cicd.pipeline.name", "error.type"}),
    "prefect.flow.runs": (
        "counter",
        "{run}",
        {"prefect.deployment.name", "prefect.run.state.name", "cicd.pipeline.result"},
    ),
    "prefect.task.runs": (
        "counter",
        "{run}",
        {"prefect.run.state.name", "cicd.pipeline.task.run.result"},
    ),
    "prefect.task.run.duration": (
        "histogram",
        "s",
        {"prefect.run.state.name", "cicd.pipeline.task.run.result", "error.type"},
    ),
    "prefect.task.run.wait": ("histogram", "s", {"prefect.wait.type"}),
    "prefect.task.run.active": ("up-down counter", "{run}", set()),
    "prefect.task.run.retries": ("counter", "{retry}", {"error.type"}),
    "prefect.task.rows": ("histogram", "{row}", {"prefect.rows.direction"}),
    "prefect.slo.violations": ("counter", "{violation}", {"prefect.slo.objective"}),
    "prefect.metric.speed": ("gauge", "s", {"table"}),
    "flowspan.internal.errors": ("counter", "{error}", {"flowspan.component"}),
}


class Outage(BaseException):
    """An exception that is not an `Exception`, like KeyboardInterrupt."""


def _kind(data: Any) -> str:
    if isinstance(data, Histogram):
        return "histogram"
    if isinstance(data, Sum):
        return "counter" if data.is_monotonic else "up-down counter"
    assert isinstance(data, Gauge)
    return "gauge"


def run(main: Callable[[], Any], *expected: type[BaseException]) -> None:
    """Run a flow that may end with one of these exceptions."""
    with contextlib.suppress(*expected):
        main()


def assert_nothing_is_active(metrics: RecordedMetrics) -> None:
    flows, tasks = (
        metrics.points(name) for name in ("cicd.pipeline.run.active", "prefect.task.run.active")
    )
    assert flows
    assert all(point.value == 0 for point in (*flows, *tasks)), (flows, tasks)


@pytest.fixture
def with_objective(prefect_server: str, metrics: RecordedMetrics) -> Iterator[RecordedMetrics]:
    """Instrument with an objective that every flow called main violates."""
    settings = Settings(slo={"main": Objectives(max_duration=1e-6)})
    flowspan.instrument(
        tracer_provider=TracerProvider(), meter_provider=metrics.provider, settings=settings
    )
    try:
        yield metrics
    finally:
        flowspan.uninstrument()


def test_every_metric_is_as_the_contract_says(
    with_objective: RecordedMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check name, kind, unit, buckets and attribute keys of all metrics of an eventful flow."""
    metrics = with_objective

    @task(retries=1, retry_delay_seconds=0.01)
    def recover(rows: list[dict[str, int]]) -> list[dict[str, int]]:
        if not recovered:
            recovered.append(True)
            raise ConnectionError("once")
        flowspan.record_metric("speed", 1.5, "s", {"table": "orders"})
        return rows

    @task
    def fail(after: Any) -> None:
        raise ValueError("no")

    @flow(name="main")
    def main() -> list[dict[str, int]]:
        rows = recover.submit([{"a": 1}])
        fail.submit(rows).wait()
        return rows.result()

    recovered: list[bool] = []
    main()
    monkeypatch.setattr("flowspan.recording.recorder.RunRecorder.begin_execution", None)
    recovered.clear()
    main()

    emitted = metrics.all
    assert emitted.keys() == TABLE.keys()
    for name, metric in emitted.items():
        kind, unit, keys = TABLE[name]
        assert (_kind(metric.data), metric.unit) == (kind, unit), name
        assert metric.description, name
        for point in metric.data.data_points:
            assert set(point.attributes or {}) <= keys | NAMES, name
        if kind == "histogram":
            bounds = ROW_BUCKETS if unit == "{row}" else DURATION_BUCKETS
            assert {tuple(p.explicit_bounds) for p in metric.data.data_points} == {bounds}
    assert (DURATION_BUCKETS[0], DURATION_BUCKETS[-1]) == (0.01, 24 * 60 * 60)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", ["flow", "task"])
def test_every_path_counts_its_runs(
    spans: RecordedSpans, metrics: RecordedMetrics, level: str, kind: str
) -> None:
    """A success and a failure are one run each, timed, with a result, and no longer active."""

    def fail() -> None:
        raise ValueError("no")

    make(level, kind, lambda: 1)()
    run(make(level, kind, fail), ValueError)

    runs = f"prefect.{level}.runs"
    duration = "cicd.pipeline.run.duration" if level == "flow" else "prefect.task.run.duration"
    more = {"phase": "executing"} if level == "flow" else {}
    assert metrics.count(runs) == 2
    assert metrics.count(runs, state="Completed", result="success") == 1
    assert metrics.count(runs, state="Failed", result="failure") == 1
    assert metrics.count(duration, result="success", **more) == 1
    assert metrics.count(duration, result="failure", error="ValueError", **more) == 1
    assert metrics.count("cicd.pipeline.run.errors", error="ValueError") == 1
    assert_nothing_is_active(metrics)


def _cancel() -> Any:
    return Cancelled(message="enough")


def _fail() -> Any:
    raise ValueError("no")


def _crash() -> Any:
    raise Outage("power cut")


def _sleep() -> Any:
    for _ in range(int(PATIENCE * 100)):
        time.sleep(0.01)


ENDINGS: dict[str, tuple[Callable[[], Any], dict[str, Any], str, str, str | None]] = {
    "success": (lambda: 1, {}, "Completed", "success", None),
    "failure": (_fail, {}, "Failed", "failure", "ValueError"),
    "returned failure": (lambda: Failed(message="so"), {}, "Failed", "failure", "Failed"),
    "timeout": (_sleep, {"timeout_seconds": 0.05}, "TimedOut", "timeout", None),
    "cancellation": (_cancel, {}, "Cancelled", "cancellation", None),
    "crash": (_crash, {}, "Crashed", "error", f"{__name__}.Outage"),
}


@pytest.mark.parametrize("level", ["flow", "task"])
@pytest.mark.parametrize("ending", list(ENDINGS))
def test_every_ending_is_counted_and_timed(
    spans: RecordedSpans, metrics: RecordedMetrics, level: str, ending: str
) -> None:
    """State, result and error type show how a run ended, and no run stays active."""
    body, options, state, result, error = ENDINGS[ending]
    run(make(level, "sync", body, **options), Exception, Outage)

    duration = "cicd.pipeline.run.duration" if level == "flow" else "prefect.task.run.duration"
    more = {"phase": "executing"} if level == "flow" else {"state": state}
    assert metrics.count(f"prefect.{level}.runs", state=state, result=result) == 1
    (point,) = metrics.points(duration, result=result, **more)
    if error is not None or result in {"success", "cancellation"}:
        assert point.attributes.get("error.type") == error
    else:
        assert "Timeout" in point.attributes["error.type"]
    assert_nothing_is_active(metrics)


def test_the_success_rate_follows_from_the_counters(
    spans: RecordedSpans, metrics: RecordedMetrics
) -> None:
    """It is the successes divided by all runs, for flows and for tasks."""

    @task
    def step(number: int) -> int:
        if number == 0:
            raise ValueError("no")
        return number

    @flow(name="main")
    def main() -> None:
        for future in step.map(range(4)):
            future.wait()

    for _ in range(2):
        main()
    runs = metrics.count("prefect.task.runs", task="step")
    assert metrics.count("prefect.task.runs", result="success") / runs == 0.75
    assert metrics.count("prefect.flow.runs", result="success") == 2


def test_a_retried_run_is_one_run(spans: RecordedSpans, metrics: RecordedMetrics) -> None:
    """Two retries are counted with the error that caused each, and the run once."""
    attempts: list[int] = []

    @task(retries=3)
    def step() -> int:
        attempts.append(1)
        if len(attempts) == 1:
            raise ConnectionError("first")
        if len(attempts) == 2:
            raise ValueError("second")
        return 1

    @flow(name="main")
    def main() -> int:
        return step()

    main()
    assert metrics.count("prefect.task.runs") == 1
    assert metrics.count("prefect.task.run.retries") == 2
    assert metrics.count("prefect.task.run.retries", error="ConnectionError") == 1
    assert metrics.count("prefect.task.run.retries", error="ValueError") == 1
    assert metrics.count("prefect.task.run.duration", result="success") == 1
    # The convention also counts errors that were not fatal.
    assert metrics.count("cicd.pipeline.run.errors") == 2


def test_a_run_that_returns_a_failed_state_is_retried_like_others(
    spans: RecordedSpans, metrics: RecordedMetrics
) -> None:
    """A retry without an exception is counted too, with the state as its error."""
    run(make("task", "sync", lambda: Failed(message="so"), retries=2), Exception)
    assert metrics.count("prefect.task.runs") == 1
    assert metrics.count("prefect.task.run.retries", error="Failed") == 2
    assert metrics.count("cicd.pipeline.run.errors", error="Failed") == 3


def test_caught_errors_count_each(spans: RecordedSpans, metrics: RecordedMetrics) -> None:
    """Each error that a flow catches counts once, and so does the one that it ends with."""

    @task
    def step() -> None:
        raise ValueError("caught")

    @flow(name="main")
    def main() -> None:
        for _ in range(20):
            with contextlib.suppress(ValueError):
                step()
        raise KeyError("its own")

    run(main, KeyError)
    assert metrics.count("cicd.pipeline.run.errors", error="ValueError") == 20
    assert metrics.count("cicd.pipeline.run.errors", error="KeyError") == 1


def test_a_flow_that_fails_by_what_it_returns_adds_no_error(
    spans: RecordedSpans, metrics: RecordedMetrics
) -> None:
    """If a flow fails because it returns a failed future, that is one error."""

    @task
    def step() -> None:
        raise ValueError("once")

    @flow(name="main")
    def main() -> Any:
        return step.submit()

    run(main, ValueError)
    assert metrics.count("prefect.flow.runs", result="failure") == 1
    assert metrics.count("cicd.pipeline.run.errors") == 1


def test_a_run_that_never_ran_has_no_duration(
    spans: RecordedSpans, metrics: RecordedMetrics
) -> None:
    """A flow run refused before it is Running is counted, but not timed."""

    @flow(name="main")
    def main(number: int) -> None: ...

    run(lambda: main("no number"), Exception)
    assert metrics.count("prefect.flow.runs", result="failure") == 1
    assert metrics.count("cicd.pipeline.run.duration", phase="executing") == 0
    assert_nothing_is_active(metrics)


def test_a_run_that_is_begun_anew_adds_what_is_new(
    spans: RecordedSpans, metrics: RecordedMetrics
) -> None:
    """Durations of a run that failed and was run again add up to Prefect's total run time."""

    @flow(name="main")
    def main() -> None:
        time.sleep(0.3)
        if not begun:
            begun.append(True)
            raise ValueError("no")

    begun: list[bool] = []
    with get_client(sync_client=True) as client:
        created = client.create_flow_run(main)
        with contextlib.suppress(ValueError):
            run_flow(main, flow_run=created)
        client.set_flow_run_state(created.id, Scheduled(), force=True)
        run_flow(main, flow_run=client.read_flow_run(created.id))
        total = client.read_flow_run(created.id).total_run_time.total_seconds()
    measured = metrics.total("cicd.pipeline.run.duration", phase="executing")
    assert measured == pytest.approx(total, rel=0.01)
    assert metrics.count("cicd.pipeline.run.duration", phase="pending") == 1


def test_an_error_that_comes_up_counts_once(spans: RecordedSpans, metrics: RecordedMetrics) -> None:
    """An error that ends a task, its subflow and the flow is one; mapped tasks have one each."""

    @task
    def step(number: int) -> None:
        raise ValueError(number)

    @flow
    def below() -> None:
        step(1)

    @flow(name="main")
    def main() -> None:
        for future in step.map([2, 3]):
            future.wait()
        below()

    run(main, ValueError)
    assert metrics.count("cicd.pipeline.run.errors") == 3
    assert metrics.count("cicd.pipeline.run.errors", flow="below") == 1
    assert metrics.count("cicd.pipeline.run.errors", flow="main") == 2


def test_a_skipped_run_is_counted_as_such(spans: RecordedSpans, metrics: RecordedMetrics) -> None:
    """A run whose upstream failed has the result skip, and no error of its own."""

    @task
    def fail() -> None:
        raise ValueError("no")

    @task
    def after(_: Any) -> None: ...

    @flow(name="main")
    def main() -> None:
        after.submit(fail.submit()).wait()

    main()
    (point,) = metrics.points("prefect.task.runs", task="after")
    assert point.attributes["cicd.pipeline.task.run.result"] == "skip"
    assert point.attributes["prefect.run.state.name"] == "NotReady"
    assert metrics.count("cicd.pipeline.run.errors") == 1
    assert_nothing_is_active(metrics)


def test_a_mapped_task_makes_no_more_series_by_being_longer(
    spans: RecordedSpans, metrics: RecordedMetrics
) -> None:
    """The number of series is the same after 10 and after 200 runs, and none has an id."""

    @task
    def step(number: int) -> list[dict[str, int]]:
        return [{"n": number}]

    @flow(name="main", task_runner=ThreadPoolTaskRunner(max_workers=4))
    def main(count: int) -> None:
        for future in step.map(range(count)):
            future.wait()

    def series() -> list[str]:
        return [
            f"{name} {sorted(point.attributes.items())}"
            for name in metrics.all
            for point in metrics.points(name)
        ]

    main(10)
    first = series()
    main(200)
    second = series()
    assert len(second) == len(first)
    assert metrics.count("prefect.task.runs") == 210
    for span in spans.runs:
        of_this_run = {attributes(span)[key] for key in (semconv.RUN_ID, semconv.RUN_NAME)}
        assert not [line for line in second if any(str(name) in line for name in of_this_run)]


def test_duration_is_the_time_in_running_states(
    spans: RecordedSpans, metrics: RecordedMetrics
) -> None:
    """A task's waits for upstream runs or a retry are not part of its duration."""
    attempts: list[Timed] = []
    is_awaited = threading.Event()

    @task
    def slow() -> int:
        assert is_awaited.wait(PATIENCE)
        time.sleep(0.1)
        return 1

    @task(retries=1, retry_delay_seconds=0.3)
    def step(_: int) -> int:
        attempts.append(Timed())
        with attempts[-1]:
            time.sleep(0.1)
        if len(attempts) == 1:
            raise ConnectionError("first")
        return 2

    waits: list[Timed] = []

    @flow(name="main")
    def main() -> None:
        upstream = slow.submit()
        waits.append(timed_wait(upstream))
        last = step.submit(upstream)
        assert waits[0].begun.wait(PATIENCE)
        is_awaited.set()
        last.wait()

    main()
    named, span = {"task": "step"}, spans.one("step")
    entered = [
        time_of(span, state) / 1e9
        for state in ("Running", "AwaitingRetry", "Retrying", "Completed")
    ]
    duration = metrics.total("prefect.task.run.duration", **named)
    assert duration == pytest.approx(entered[1] - entered[0] + entered[3] - entered[2], abs=1e-6)
    assert duration >= sum(attempt.seconds for attempt in attempts)
    waited = metrics.total("prefect.task.run.wait", wait="dependencies", **named)
    assert waits[0].seconds <= waited <= entered[0] - (span.start_time or 0) / 1e9
    waited = metrics.total("prefect.task.run.wait", wait="retry", **named)
    assert waited == pytest.approx(entered[2] - entered[1], abs=1e-6)
    flow_run_id = attributes(spans.one("RUN main"))[semconv.RUN_ID]
    assert reconcile(spans.all, flow_run_id, totals=Totals.of(metrics)) == []
    for span in spans.named("step"):
        for wait in ("dependencies", "retry"):
            waited = attributes(span)[f"prefect.wait.{wait}"]
            assert metrics.total("prefect.task.run.wait", wait=wait, **named) == waited


def test_waits_for_workers_and_slots_are_measured(
    spans: RecordedSpans, metrics: RecordedMetrics
) -> None:
    """A queue for a pool of one thread and a taken concurrency slot have their own types."""
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name("metrics-slot", limit=1)

    both_are_submitted = threading.Event()
    steps: list[Timed] = []

    @task
    def step() -> None:
        assert both_are_submitted.wait(PATIENCE)
        steps.append(Timed())
        with steps[-1]:
            time.sleep(0.1)

    @task
    def with_slot() -> None:
        with concurrency("metrics-slot"):
            time.sleep(0.05)

    @flow(name="queue", task_runner=ThreadPoolTaskRunner(max_workers=1))
    def queue() -> None:
        futures = [step.submit() for _ in range(2)]
        both_are_submitted.set()
        for future in futures:
            future.wait()

    @flow(name="slots")
    def slots() -> None:
        for future in [with_slot.submit() for _ in range(2)]:
            future.wait()

    queue()
    slots()
    in_queue = metrics.total("prefect.task.run.wait", wait="queue", task="step")
    assert in_queue > steps[0].seconds
    on_spans = [attributes(span).get(semconv.WAIT_QUEUE, 0) for span in spans.named("step")]
    assert in_queue == pytest.approx(sum(on_spans))
    assert metrics.count("prefect.task.run.wait", wait="concurrency", task="with_slot") >= 1


def test_pending_is_a_series_of_its_own(spans: RecordedSpans, metrics: RecordedMetrics) -> None:
    """The time before a flow run executes and the time in which it does are separate."""
    slept = Timed()

    @flow(name="main")
    def main() -> None:
        with slept:
            time.sleep(0.1)

    main()
    (pending,) = metrics.points("cicd.pipeline.run.duration", phase="pending")
    (executing,) = metrics.points("cicd.pipeline.run.duration", phase="executing")
    span = spans.one("RUN main")
    running, ended = time_of(span, "Running"), time_of(span, "Completed")
    assert pending.value == pytest.approx((running - (span.start_time or 0)) / 1e9, abs=1e-6)
    assert executing.value == pytest.approx((ended - running) / 1e9, abs=1e-6)
    assert executing.value > slept.seconds
    assert reconcile(spans.all, attributes(span)[semconv.RUN_ID]) == []
    assert "cicd.pipeline.result" not in pending.attributes


def test_runs_are_active_while_they_are_active(
    spans: RecordedSpans, metrics: RecordedMetrics
) -> None:
    """Inside a task one flow run is executing and one task run is active."""
    inside: dict[str, float] = {}

    @task
    def step() -> None:
        for phase in ("pending", "executing"):
            inside[phase] = metrics.total("cicd.pipeline.run.active", phase=phase)
        inside["task"] = metrics.total("prefect.task.run.active")

    @flow(name="main")
    def main() -> None:
        step()

    main()
    assert inside == {"pending": 0, "executing": 1, "task": 1}
    assert_nothing_is_active(metrics)


def test_rows_are_a_histogram_by_direction(spans: RecordedSpans, metrics: RecordedMetrics) -> None:
    """Input and output rows of tasks are measured once, and not for cached results."""

    @task(cache_policy=INPUTS, persist_result=True)
    def double(rows: list[dict[str, int]], key: str) -> list[dict[str, int]]:
        return rows * 2

    @flow(name="main")
    def main(key: str) -> None:
        for _ in range(3):
            double([{"a": 1}] * 4, key)

    main(str(time.time_ns()))
    assert metrics.count("prefect.task.runs", state="Cached", result="success") == 2
    assert metrics.count("prefect.task.rows", direction="input") == 1
    assert metrics.total("prefect.task.rows", direction="input") == 4
    assert metrics.total("prefect.task.rows", direction="output") == 8
    assert attributes(spans.one("RUN main")).get(semconv.ROWS_OUTPUT) is not None


def test_exemplars_lead_to_the_trace(spans: RecordedSpans, metrics: RecordedMetrics) -> None:
    """A histogram's exemplars have the trace id and span id of a run that it counts."""

    @task
    def step() -> None: ...

    flow(name="main")(lambda: step())()
    (exemplar,) = metrics.exemplars("prefect.task.run.duration")
    span = context(spans.one("step"))
    assert (exemplar.trace_id, exemplar.span_id) == (span.trace_id, span.span_id)


def test_runs_that_are_not_sampled_are_measured(
    prefect_server: str, metrics: RecordedMetrics
) -> None:
    """Sampling affects only spans: every run is counted and timed, with its result."""
    flowspan.instrument(
        tracer_provider=TracerProvider(sampler=ALWAYS_OFF), meter_provider=metrics.provider
    )
    try:
        run(make("task", "sync", _fail, retries=1), ValueError)
    finally:
        flowspan.uninstrument()
    assert metrics.count("prefect.task.runs", result="failure", state="Failed") == 1
    assert metrics.count("prefect.task.run.retries", error="ValueError") == 1
    assert metrics.count("cicd.pipeline.run.duration", phase="executing", result="failure") == 1
    assert_nothing_is_active(metrics)


def test_a_run_that_awaits_its_transaction_is_not_active(
    spans: RecordedSpans, metrics: RecordedMetrics
) -> None:
    """A task run whose transaction is open is no longer active, and counted at its end."""
    from prefect.transactions import transaction

    inside: list[float] = []

    @task
    def step() -> None: ...

    @flow(name="main")
    def main() -> None:
        with transaction():
            step()
            inside.append(metrics.total("prefect.task.run.active"))

    main()
    assert inside == [0]
    assert metrics.count("prefect.task.runs", result="success") == 1
    assert_nothing_is_active(metrics)


def test_parallel_async_runs_are_all_counted(
    spans: RecordedSpans, metrics: RecordedMetrics
) -> None:
    """Concurrent coroutines lose no counts."""

    @task
    async def step(number: int) -> int:
        await asyncio.sleep(0.01)
        return number

    @flow(name="main")
    async def main() -> None:
        await asyncio.gather(*(step(number) for number in range(20)))

    asyncio.run(main())
    assert metrics.count("prefect.task.runs", result="success") == 20
    assert metrics.count("prefect.task.run.duration") == 20
    assert_nothing_is_active(metrics)


# Metrics of the user's own


@pytest.fixture
def gauges(metrics: RecordedMetrics) -> Callable[..., None]:
    """Return a function that sets a gauge in a run of the task ``load`` in the flow ``etl``."""
    measured = RunMetrics(metrics.provider)
    run = Run(
        id="1",
        flow_name="etl",
        task_name="load",
        kind=SpanKind.INTERNAL,
        start=0,
        trace_id=1,
        parent=None,
        run_count=0,
        allows_retries=False,
        upstream=(),
    )

    def set_gauge(name: str, value: float, unit: str = "1", **attributes: Any) -> None:
        measured.measured(run, name, value, unit, attributes, context=Context())

    return set_gauge


def test_the_last_value_counts(metrics: RecordedMetrics, gauges: Callable[..., None]) -> None:
    """A gauge has its last value by flow, task and attributes; these cannot hide flow and task."""
    gauges("rows", 1, table="a")
    gauges("rows", 2, table="a")
    gauges("rows", 7, table="b", **{"prefect.flow.name": "another"})
    names = {"prefect.flow.name": "etl", "prefect.task.name": "load"}
    points = metrics.points("prefect.metric.rows")
    assert [(dict(p.attributes), p.value) for p in points] == [
        ({"table": "a", **names}, 2),
        ({"table": "b", **names}, 7),
    ]


def test_names_are_bounded(
    metrics: RecordedMetrics, gauges: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """After 200 names, new ones are left out with one warning; known ones still work."""
    for number in range(250):
        gauges(f"name{number}", number)
    gauges("NAME3", 33)
    assert len(metrics.all) == 200
    assert [p.value for p in metrics.points("prefect.metric.name3")] == [33]
    (record,) = [record for record in caplog.records if record.name == "flowspan"]
    assert "200 metrics" in record.getMessage()


def test_what_hears_our_warnings_may_measure(
    metrics: RecordedMetrics, gauges: Callable[..., None]
) -> None:
    """A log handler that counts warnings as a metric does not hang the process."""

    class Counting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            gauges("warnings", 1)

    handler = Counting()
    logging.getLogger("flowspan").addHandler(handler)
    try:
        gauges("warnings", 0)
        for number in range(250):
            gauges(f"name{number}", number)
    finally:
        logging.getLogger("flowspan").removeHandler(handler)
    assert metrics.total("prefect.metric.warnings") == 1


def test_series_are_bounded(
    metrics: RecordedMetrics, gauges: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """Once there are too many series, an attribute that always differs is dropped."""
    for number in range(3000):
        gauges("rows", number, order=str(number))
    points = metrics.points("prefect.metric.rows")
    assert len(points) == 2001
    assert points[-1].value == 2999
    assert "order" not in points[-1].attributes
    (record,) = [record for record in caplog.records if record.name == "flowspan"]
    assert "combinations of attributes" in record.getMessage()


def test_a_metric_has_one_unit(
    metrics: RecordedMetrics, gauges: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """A value in another unit is left out with a warning; without a unit, the known one applies."""
    gauges("took", 3, "s")
    gauges("took", 4)
    for _ in range(2):
        gauges("took", 5, "By")
    assert [p.value for p in metrics.points("prefect.metric.took")] == [4]
    assert metrics.all["prefect.metric.took"].unit == "s"
    (record,) = [record for record in caplog.records if record.name == "flowspan"]
    assert "measured in s" in record.getMessage()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", ["flow", "task"])
def test_a_log_line_becomes_a_metric(
    spans: RecordedSpans, metrics: RecordedMetrics, level: str, kind: str
) -> None:
    """A run's logger, structlog, any logger and record_metric() work on every path."""

    def body() -> None:
        get_run_logger().warning("METRIC: by_run=1 table=orders")
        structlog.get_logger().warning("METRIC", by_structlog=2, table="orders")
        logging.getLogger("elsewhere").warning("METRIC: by_%s=3 table=orders", "logging")
        flowspan.record_metric("by_call", 4, attributes={"table": "orders"})

    make(level, kind, body)()
    structlog.get_logger().warning("METRIC: outside=1")
    expected = {"prefect.flow.name": "main", "table": "orders"}
    if level == "task":
        expected["prefect.task.name"] = "step"
    for value, name in enumerate(("by_run", "by_structlog", "by_logging", "by_call"), start=1):
        (point,) = metrics.points(f"prefect.metric.{name}")
        assert (dict(point.attributes), point.value) == (expected, value)
    assert "prefect.metric.outside" not in metrics.all


def test_a_captured_print_becomes_a_metric(spans: RecordedSpans, metrics: RecordedMetrics) -> None:
    """With log_prints, print works as a logger, also in a subflow and in a pool's thread."""
    level = logging.getLogger("prefect").level
    logging.getLogger("prefect").setLevel(logging.INFO)
    try:

        @task(log_prints=True)
        def step() -> None:
            print("METRIC: printed=1.5s")

        @flow(name="below")
        def below() -> None:
            step.submit().wait()

        @flow(name="main")
        def main() -> None:
            below()

        main()
    finally:
        logging.getLogger("prefect").setLevel(level)
    (point,) = metrics.points("prefect.metric.printed")
    assert dict(point.attributes) == {"prefect.flow.name": "below", "prefect.task.name": "step"}
    assert (point.value, metrics.all["prefect.metric.printed"].unit) == (1.5, "s")
