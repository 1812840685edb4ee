"""Objectives of real flows: who is notified when one is violated, and when."""

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from prefect import Flow, flow, get_client, task
from prefect.automations import Automation
from prefect.events.actions import PauseDeployment
from prefect.events.schemas.automations import EventTrigger
from prefect.flow_engine import run_flow
from prefect.states import Pending, Scheduled

import flowspan
from clocks import Timed
from flowspan import semconv
from flowspan.objectives.promises import Objectives, Violation
from flowspan.objectives.watch import Watch
from flowspan.settings import Settings
from processes import PATIENCE, eventually
from support import RecordedMetrics, RecordedSpans, attributes, time_of

Begin = Callable[..., RecordedSpans]


@pytest.fixture
def begin(prefect_server: str, spans: RecordedSpans, metrics: RecordedMetrics) -> Iterator[Begin]:
    """Instrument with objectives, written as in a file."""

    def begin(
        provider: TracerProvider | None = None, flush_timeout: float = 5.0, **slo: Any
    ) -> RecordedSpans:
        flowspan.uninstrument()
        flowspan.instrument(
            tracer_provider=provider or spans.provider,
            meter_provider=metrics.provider,
            settings=Settings(
                slo={key.replace("__", ":"): table for key, table in slo.items()},
                flush_timeout=flush_timeout,
            ),
        )
        return spans

    yield begin
    flowspan.uninstrument()


def violations(span: ReadableSpan) -> list[str]:
    """Return the objectives that a flow run's span reports as violated, in order of time."""
    events = [event for event in span.events if event.name == "slo.violated"]
    return [str((event.attributes or {})["prefect.slo.objective"]) for event in events]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record for record in caplog.records if record.levelno == logging.WARNING]
    return [r.getMessage() for r in found if r.name in {"prefect.flow_runs", "flowspan"}]


def unique(name: str) -> str:
    return f"{name}-{time.time_ns()}"


@task
def sleep(seconds: float) -> list[dict[str, int]]:
    time.sleep(seconds)
    return [{"a": 1}] * 3


def test_an_automation_reacts_to_a_violation(
    begin: Begin, metrics: RecordedMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """Metric, span, run log and event report it, and Prefect's automation pauses a deployment."""

    @flow(name=unique("nightly"))
    def nightly() -> None:
        sleep(0.0)

    with get_client(sync_client=True) as client:
        flow_id = client.create_flow(nightly)
        deployment_id = client.create_deployment(flow_id, name="guarded")
        assert not client.read_deployment(deployment_id).paused
    automation: Any = Automation(
        name=nightly.name,
        trigger=EventTrigger(
            expect={"flowspan.slo.violated"},
            match={
                "prefect.resource.id": "prefect.flow-run.*",
                "prefect.slo.objective": "min_rows",
            },
            match_related={
                "prefect.resource.role": "flow",
                "prefect.resource.name": nightly.name,
            },
            threshold=1,
            within=timedelta(0),
        ),
        actions=[PauseDeployment(source="selected", deployment_id=deployment_id)],
    ).create()
    time.sleep(2)  # until the server's triggers know it
    spans = begin(**{nightly.name: {"min_rows": 1000}})
    try:
        nightly()
        with get_client(sync_client=True) as client:
            eventually(lambda: client.read_deployment(deployment_id).paused, "the automation")
    finally:
        automation.delete()
    (event,) = [e for e in spans.one(f"RUN {nightly.name}").events if e.name == "slo.violated"]
    assert dict(event.attributes or {}) == {
        "prefect.slo.objective": "min_rows",
        "prefect.slo.expected": 1000,
        "prefect.slo.actual": 3,
        "prefect.slo.detail": "min_rows: the run produced 3 rows, less than 1,000",
    }
    (point,) = metrics.points("prefect.slo.violations")
    assert point.value == 1
    assert dict(point.attributes) == {
        "prefect.flow.name": nightly.name,
        "prefect.slo.objective": "min_rows",
    }
    assert warnings(caplog) == [
        "Objective violated: min_rows: the run produced 3 rows, less than 1,000"
    ]


def test_too_long_a_run_is_noticed_while_it_runs(
    begin: Begin, metrics: RecordedMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """The violation is reported once, at the limit, and the run continues."""
    spans = begin(main={"max_duration": 0.2})
    noticed: list[int] = []

    def told() -> float:
        return metrics.total("prefect.slo.violations", objective="max_duration")

    @flow(name="main")
    def main() -> int:
        eventually(told, "the violation")
        noticed.append(time.time_ns())
        return 1

    assert main() == 1
    span = spans.one("RUN main")
    assert violations(span) == ["max_duration"]
    (event,) = [event for event in span.events if event.name == "slo.violated"]
    (running,) = [event for event in span.events if event.name == "Running"]
    assert running.timestamp + 0.2e9 <= event.timestamp < noticed[0]
    assert metrics.total("prefect.slo.violations") == 1
    (warning,) = warnings(caplog)
    told_of = event.attributes or {}
    assert warning == f"Objective violated: {told_of['prefect.slo.detail']!s}"
    assert "the run has been running for" in warning
    actual = told_of["prefect.slo.actual"]
    assert 0.2 < actual < (noticed[0] - running.timestamp) / 1e9  # type: ignore[operator]


def running_seconds(span: ReadableSpan) -> float:
    """Add up the time between each Running state and the next state."""
    entered = [event for event in span.events if semconv.STATE_TYPE in (event.attributes or {})]
    return sum(
        (after.timestamp - before.timestamp) / 1e9
        for before, after in pairwise(entered)
        if (before.attributes or {})[semconv.STATE_TYPE] == "RUNNING"
    )


def test_waiting_for_a_retry_is_not_running(begin: Begin) -> None:
    """The time between two attempts does not count; the time in both attempts does."""
    limit = 2.6
    spans = begin(patient={"max_duration": limit}, busy={"max_duration": limit})

    def make(name: str, seconds: float) -> Flow[Any, Any]:
        @flow(name=name, retries=1, retry_delay_seconds=limit + 0.1)
        def main() -> None:
            time.sleep(seconds)
            raise ValueError("no")

        return main

    for main in (make("patient", 0.0), make("busy", 1.4)):
        with pytest.raises(ValueError, match="no"):
            main()
    for name in ("patient", "busy"):
        span = spans.one(f"RUN {name}")
        # A busy machine may run even the patient one for so long.
        assert violations(span) == ["max_duration"] * (running_seconds(span) > limit)
    assert running_seconds(spans.one("RUN busy")) > limit


def test_a_kept_objective_is_silent(
    begin: Begin, metrics: RecordedMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """A run within its limits reports nothing."""
    spans = begin(
        main={
            "max_duration": 60,
            "min_rows": 3,
            "max_rows": 3,
            "min_success_rate": 0.5,
            "max_task_share": 1,
            "max_late": 60,
        }
    )
    flow(name="main")(lambda: sleep(0.0))()
    assert violations(spans.one("RUN main")) == []
    assert metrics.points("prefect.slo.violations") == []
    assert warnings(caplog) == []


@pytest.mark.parametrize("behind", [0, 3600])
def test_a_late_start_is_noticed_at_once(begin: Begin, behind: float) -> None:
    """A run that starts long after its schedule is reported late at its start."""
    name = unique("late")
    spans = begin(**{name: {"max_late": 600}})
    begun: list[datetime] = []

    @flow(name=name)
    def late() -> list[str]:
        begun.append(datetime.now(timezone.utc))
        return violations(spans_of_current_run())

    def spans_of_current_run() -> Any:
        from opentelemetry.trace import get_current_span

        return get_current_span()

    with get_client(sync_client=True) as client:
        due = datetime.now(timezone.utc) - timedelta(seconds=behind)
        run = client.create_flow_run(late, state=Scheduled(scheduled_time=due))
    assert run_flow(late, flow_run=run) == (["max_late"] if behind else [])
    if behind:
        (event,) = [e for e in spans.one(f"RUN {name}").events if e.name == "slo.violated"]
        actual = (event.attributes or {})["prefect.slo.actual"]
        assert behind <= actual < (begun[0] - due).total_seconds()  # type: ignore[operator]


def test_time_in_infrastructure_is_late_too(begin: Begin) -> None:
    """A worker may set Pending early: the start of the run counts."""
    name = unique("prefetched")
    spans = begin(**{name: {"max_late": 0.5}})
    prefetched = flow(name=name)(lambda: 1)
    with get_client(sync_client=True) as client:
        due = datetime.now(timezone.utc) + timedelta(seconds=0.5)
        run = client.create_flow_run(prefetched, state=Scheduled(scheduled_time=due))
        client.set_flow_run_state(run.id, Pending())
        time.sleep(1.6)
        run_flow(prefetched, flow_run=client.read_flow_run(run.id))
    assert violations(spans.one(f"RUN {name}")) == ["max_late"]


def test_a_run_that_calls_instrument_itself_is_judged(
    prefect_server: str, spans: RecordedSpans, metrics: RecordedMetrics
) -> None:
    """instrument() inside a flow reads what came before: schedule, deployment, time pending."""
    flowspan.uninstrument()
    name = unique("adopted")
    begun: list[datetime] = []

    @flow(name=name)
    def adopted() -> None:
        begun.append(datetime.now(timezone.utc))
        flowspan.instrument(
            tracer_provider=spans.provider,
            meter_provider=metrics.provider,
            settings=Settings(slo={name: Objectives(max_late=1)}),
        )

    with get_client(sync_client=True) as client:
        deployment_id = client.create_deployment(client.create_flow(adopted), name="daily")
        due = datetime.now(timezone.utc) - timedelta(seconds=5)
        run = client.create_flow_run_from_deployment(
            deployment_id, state=Scheduled(scheduled_time=due)
        )
        run_flow(adopted, flow_run=run)
    span = spans.one(f"RUN {name}")
    assert violations(span) == ["max_late"]
    assert attributes(span)["prefect.deployment.name"] == "daily"
    (pending,) = metrics.points("cicd.pipeline.run.duration", phase="pending")
    assert 5 <= pending.value < (begun[0] - due).total_seconds()
    assert metrics.count("prefect.flow.runs", deployment="daily", result="success") == 1


@pytest.mark.parametrize("window", [{"runs": 4}, {"days": 1}, {"runs": 450}])
def test_the_success_rate_is_that_of_the_api(begin: Begin, window: dict[str, int]) -> None:
    """A failed run violates it if too few earlier runs succeeded; a success never does."""
    name = unique("rated")
    spans = begin(**{name: {"min_success_rate": {"rate": 0.6, **window}}})

    @flow(name=name)
    def rated(*, fails: bool) -> None:
        if fails:
            raise ValueError("no")

    for fails in (False, False, True, False, True, True, False):
        if fails:
            with pytest.raises(ValueError, match="no"):
                rated(fails=True)
        else:
            rated(fails=False)
    found = spans.named(f"RUN {name}")
    assert [violations(span) for span in found] == [
        [],
        [],
        [],  # 2 of 3
        [],
        # 3 of 5 in all, but 2 of the last 4
        ["min_success_rate"] if window == {"runs": 4} else [],
        ["min_success_rate"],
        [],
    ]
    (event,) = [e for e in found[5].events if e.name == "slo.violated"]
    told = event.attributes or {}
    assert told["prefect.slo.actual"] == (0.25 if window == {"runs": 4} else 0.5)
    assert "Prefect's API" in str(told["prefect.slo.detail"])


def test_an_api_that_does_not_answer_costs_the_flow_nothing(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without history the success rate is not checked, and the user's failure is unchanged."""
    spans = begin(main={"min_success_rate": 1})

    @flow(name="main")
    def main() -> None:
        raise ValueError("the user's")

    def broken(*_: Any) -> Any:
        raise ConnectionError("no API today")

    monkeypatch.setattr("flowspan._prefect.objective_watch._read_history", broken)
    with pytest.raises(ValueError, match="the user's"):
        main()
    assert violations(spans.one("RUN main")) == []
    assert attributes(spans.one("RUN main"))["prefect.run.state.name"] == "Failed"
    (warning,) = warnings(caplog)
    assert "no API today" in warning


def test_a_slow_api_does_not_stop_other_coroutines(
    begin: Begin, metrics: RecordedMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an event loop nothing waits for the history; the violation is reported later."""
    # The time for which the end of a run may wait for the history is longer than that of `slow`.
    spans = begin(flush_timeout=2 * PATIENCE, below={"min_success_rate": 1})
    has_ended = threading.Event()
    ended_before: list[bool] = []

    def slow(*_: Any) -> tuple[int, int]:
        ended_before.append(has_ended.wait(PATIENCE))
        return 0, 0

    monkeypatch.setattr("flowspan._prefect.objective_watch._read_history", slow)

    @flow(name="below")
    async def below() -> None:
        raise ValueError("no")

    @flow(name="main")
    async def main() -> None:
        with contextlib.suppress(ValueError):
            await below()

    asyncio.run(main())
    assert violations(spans.one("RUN below")) == []
    has_ended.set()
    eventually(
        lambda: metrics.total("prefect.slo.violations", objective="min_success_rate"),
        "the violation",
    )
    assert ended_before == [True]


def watch(told: list[Violation], **objectives: Any) -> Watch:
    return Watch(
        Objectives(**objectives),
        "main",
        report=told.append,
        history=lambda _: (0, 0),
        patience=1,
    )


def test_what_was_told_in_an_earlier_process_is_not_told_again() -> None:
    """If a run was too long before it was suspended, that was reported there."""
    told: list[Violation] = []
    watched = watch(told, max_duration=1)
    watched.begin(told.append, nullcontext, late=None, time_running=2_000_000_000)
    watched.resume(2_000_000_000, time.time_ns())
    watched.end("success", 2.5, None)
    assert told == []


def test_an_objective_that_cannot_be_watched_costs_only_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If no thread can be started, the end of the run is still checked."""

    def refuse(*_: Any) -> Any:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    told: list[Violation] = []
    watched = watch(told, max_duration=1, min_success_rate=1)
    watched.begin(told.append, nullcontext, late=None, time_running=0)
    watched.resume(0, time.time_ns())
    watched.end("failure", 2.0, None)
    assert [violation.objective for violation in told] == ["max_duration"] * 2


def test_one_task_takes_too_much_of_the_run(begin: Begin) -> None:
    """The share counts the time in which any of a task's parallel runs was running."""
    spans = begin(main={"max_task_share": 0.01}, even={"max_task_share": 0.9})
    mapped = Timed()

    @flow(name="main")
    def main() -> None:
        for future in sleep.map([0.4, 0.4, 0.4]):
            future.wait()

    @flow(name="even")
    def even() -> None:
        with mapped:
            for future in sleep.map([0.4, 0.4, 0.4]):
                future.wait()
        time.sleep(mapped.seconds)

    main()
    runs = [(time_of(span, "Running"), time_of(span, "Completed")) for span in spans.named("sleep")]
    even()
    (event,) = [e for e in spans.one("RUN main").events if e.name == "slo.violated"]
    told = event.attributes or {}
    assert told["prefect.slo.objective"] == "max_task_share"
    whole = time_of(spans.one("RUN main"), "Completed") - time_of(spans.one("RUN main"), "Running")
    covered, until = 0, 0
    for start, end in sorted(runs):
        covered += max(0, end - max(start, until))
        until = max(until, end)
    assert told["prefect.slo.actual"] == pytest.approx(covered / whole)
    assert "'sleep'" in str(told["prefect.slo.detail"])
    assert violations(spans.one("RUN even")) == []


def test_tasks_of_a_subflow_count_for_both_flows(begin: Begin) -> None:
    """A task that takes most of a subflow also counts for the flow that calls it."""
    spans = begin(main={"max_task_share": 0.01}, below={"max_task_share": 0.01})

    @flow(name="below")
    def below() -> None:
        sleep(0.5)

    @flow(name="main")
    def main() -> None:
        below()

    main()
    assert violations(spans.one("RUN below")) == ["max_task_share"]
    assert violations(spans.one("RUN main")) == ["max_task_share"]


def test_rows_that_nobody_can_count_are_said_once(
    begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    """Unknown rows violate nothing, but one warning says what to do."""
    name = unique("uncounted")
    spans = begin(**{name: {"min_rows": 1}})
    main = flow(name=name)(lambda: 1)
    main()
    main()
    assert [violations(span) for span in spans.named(f"RUN {name}")] == [[], []]
    (warning,) = warnings(caplog)
    assert "flowspan.record_rows()" in warning


def test_objectives_of_a_tag(begin: Begin) -> None:
    """A tag's objectives apply to runs with the tag, and the flow's own override them."""
    spans = begin(tag__daily={"max_rows": 1}, generous={"max_rows": 10})
    body: Callable[[], Any] = lambda: sleep(0.0)  # noqa: E731
    flow(name="tagged")(body).with_options()()
    from prefect import tags

    with tags("daily"):
        flow(name="tagged")(body)()
        flow(name="generous")(body)()
    assert [violations(span) for span in spans.named("RUN tagged")] == [[], ["max_rows"]]
    assert violations(spans.one("RUN generous")) == []


def test_a_run_that_is_not_sampled_is_judged(
    begin: Begin, metrics: RecordedMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """Objectives do not depend on spans."""
    begin(TracerProvider(sampler=ALWAYS_OFF), main={"max_rows": 1})
    flow(name="main")(lambda: sleep(0.0))()
    assert metrics.total("prefect.slo.violations", objective="max_rows") == 1
    assert len(warnings(caplog)) == 1


SCRIPT = """
from flowspan import instrument
instrument()
from prefect import flow, task

@task
def extract():
    return [{"a": 1}]

@flow
def etl():
    extract()

etl()
"""


def run_with(folder: Path, file: str, text: str) -> "subprocess.CompletedProcess[str]":
    (folder / file).write_text(text)
    return subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=folder,
        env={**os.environ, "FLOWSPAN_DIR": str(folder / "telemetry")},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.mark.parametrize(
    ("file", "table"), [("flowspan.toml", "slo.etl"), ("pyproject.toml", "tool.flowspan.slo.etl")]
)
def test_objectives_from_a_file(prefect_server: str, tmp_path: Path, file: str, table: str) -> None:
    """Objectives in a file are watched, and a violation is in the log."""
    finished = run_with(tmp_path, file, f"[{table}]\nmin_rows = 10\n")
    assert finished.returncode == 0, finished.stderr
    assert "Objective violated: min_rows: the run produced 1 row, less than 10" in finished.stderr


def test_a_bad_file_fails_at_instrument(prefect_server: str, tmp_path: Path) -> None:
    """The user sees file, key and reason, and no flow has run."""
    finished = run_with(tmp_path, "flowspan.toml", "[slo.etl]\nmax_duration = -1\nmin_row = 10\n")
    assert finished.returncode != 0
    last = finished.stderr.strip().splitlines()[-2:]
    assert "flowspan.toml: slo.etl.max_duration: " in " ".join(last)
    assert "flowspan.toml: slo.etl.min_row: " in " ".join(last)
    assert not (tmp_path / "telemetry").exists()
