"""Runs that have not ended are reported, as log records, by one thread for the whole process."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from opentelemetry._logs import LogRecord
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency

import flowspan
from flowspan import semconv
from flowspan.identity import derive_span_id, derive_trace_id
from flowspan.settings import Settings
from processes import PATIENCE, environment, eventually, run_script
from support import RecordedLogs, RecordedSpans, attributes, context, embedded_spans

THREAD = "flowspan-heartbeat"
SOON = 0.3
"""A heartbeat for tests, in seconds."""


class Recorded:
    """The spans and the reports of one test."""

    def __init__(self) -> None:
        self.spans = RecordedSpans(TracerProvider())
        self.spans.provider.add_span_processor(SimpleSpanProcessor(self.spans))
        self.logs = RecordedLogs()

    def instrument(self, **settings: Any) -> None:
        flowspan.instrument(
            tracer_provider=self.spans.provider,
            logger_provider=self.logs.provider,
            settings=Settings(**{"heartbeat": SOON, **settings}),
        )

    def reports(self, name: str, event: str = "") -> list[LogRecord]:
        """The reports of runs of a flow or task, or only those with an event name."""
        return [
            report
            for report in self.logs.reports
            if values(report).get(semconv.TASK_NAME, values(report)[semconv.FLOW_NAME]) == name
            and event in ("", report.event_name)
        ]

    def wait_for(self, name: str, **wanted: Any) -> LogRecord:
        """Return the first report of a run with these attributes, by short names."""
        names = {"activity": semconv.RUN_ACTIVITY, "attempt": semconv.ATTEMPT}

        def found() -> LogRecord | None:
            for report in self.reports(name):
                if all(values(report).get(names[key]) == value for key, value in wanted.items()):
                    return report
            return None

        report: LogRecord = eventually(found, f"a report of {name} with {wanted}")
        return report


def values(report: LogRecord) -> Mapping[str, Any]:
    return report.attributes or {}


@pytest.fixture
def recorded(prefect_server: str) -> Iterator[Recorded]:
    """Instrument Prefect for one test, with a quick heartbeat."""
    found = Recorded()
    found.instrument()
    try:
        yield found
    finally:
        flowspan.uninstrument()


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


def test_a_flow_run_is_reported_from_its_start(recorded: Recorded) -> None:
    """The report has the ids of the run's span, and what is known of the run by then."""

    @flow
    def inner() -> None:
        recorded.wait_for("inner")

    @flow
    def main(table: str) -> None:
        recorded.wait_for("main")
        inner()

    main("flights")
    for name in ("main", "inner"):
        span = recorded.spans.one(f"RUN {name}")
        (report,) = recorded.reports(name, semconv.RUN_STARTED)
        assert (report.trace_id, report.span_id) == (context(span).trace_id, context(span).span_id)
        told = values(report)
        parent = f"{span.parent.span_id:016x}" if span.parent is not None else None
        assert told.get(semconv.RUN_PARENT_SPAN_ID) == parent
        assert told[semconv.RUN_START] == span.start_time
        assert told[semconv.RUN_SPAN_KIND] == span.kind.name
        assert told[semconv.RUN_HEARTBEAT] == SOON
        for key in (semconv.RUN_ID, semconv.RUN_NAME, semconv.RUN_TYPE, semconv.FLOW_NAME):
            assert told[key] == attributes(span)[key]
    (report,) = recorded.reports("main", semconv.RUN_STARTED)
    assert values(report)[semconv.RUN_PARAMETER_PREFIX + "table"] == "str"


def test_only_task_runs_that_last_are_reported(recorded: Recorded) -> None:
    """A task run is reported once it has been open for a second."""
    is_seen = threading.Event()

    @task
    def short() -> None: ...

    @task
    def long() -> None:
        is_seen.wait(PATIENCE)

    @flow
    def main() -> None:
        short()
        future = long.submit()
        try:
            report = recorded.wait_for("long")
            assert (report.timestamp or 0) - values(report)[semconv.RUN_START] >= 1_000_000_000
        finally:
            is_seen.set()
        future.result()

    main()
    span = recorded.spans.one("long")
    (started,) = recorded.reports("long", semconv.RUN_STARTED)
    assert (started.trace_id, started.span_id) == (context(span).trace_id, context(span).span_id)
    assert recorded.reports("short") == []


def test_reports_go_on_while_the_run_is_open_and_end_with_it(recorded: Recorded) -> None:
    """The execution so far grows from one to the next, and none comes after the end."""

    @flow
    def main() -> None:
        eventually(lambda: len(recorded.reports("main", semconv.RUN_RUNNING)) > 3, "reports")

    main()
    running = recorded.reports("main", semconv.RUN_RUNNING)
    executed = [values(report)[semconv.EXECUTION] for report in running]
    assert executed == sorted(executed)
    assert executed[-1] - executed[0] >= 2 * SOON
    span = recorded.spans.one("RUN main")
    assert executed[-1] <= attributes(span)[semconv.EXECUTION]
    assert not [r for r in running if (r.timestamp or 0) > (span.end_time or 0) + 1_000_000_000]


def test_a_report_says_what_the_run_waits_for(recorded: Recorded) -> None:
    """Waits that are under way are counted up to the report: a retry, upstream runs, a slot."""
    is_seen = threading.Event()

    @task(retries=1, retry_delay_seconds=3)
    def flaky() -> None:
        if not recorded.reports("flaky"):
            raise ValueError("once")

    @task
    def after(_: object) -> None: ...

    @task
    def limited() -> None:
        with concurrency("heartbeat", occupy=1):
            pass

    @flow
    def main() -> None:
        with get_client(sync_client=True) as client:
            client.create_global_concurrency_limit(
                GlobalConcurrencyLimitCreate(name="heartbeat", limit=1)
            )
        first = flaky.submit()
        second = after.submit(first)
        with concurrency("heartbeat", occupy=1):
            third = limited.submit()
            retry = values(recorded.wait_for("flaky", activity="retry"))
            awaiting = values(recorded.wait_for("after", activity="dependencies"))
            slot = values(recorded.wait_for("limited", activity="concurrency"))
            is_seen.set()
        for future in (first, second, third):
            future.result()
        assert retry[semconv.WAIT_RETRY] > 0
        assert retry[semconv.RUN_STATE_NAME] == "AwaitingRetry"
        assert awaiting[semconv.WAIT_DEPENDENCIES] > 0
        assert slot[semconv.WAIT_CONCURRENCY] > 0

    main()
    assert is_seen.is_set()


def test_a_report_names_the_attempt_and_its_span(recorded: Recorded) -> None:
    """While a run that allows retries executes, its attempt's span is open, too."""

    @task(retries=1)
    def flaky() -> None:
        report = values(recorded.wait_for("flaky", attempt=1 + len(failed)))
        attempts.append((report[semconv.ATTEMPT], report[semconv.ATTEMPT_SPAN_ID]))
        if not failed:
            failed.append(True)
            raise ValueError("once")

    @flow
    def main() -> None:
        flaky()

    failed: list[bool] = []
    attempts: list[tuple[int, str]] = []
    main()
    spans = [recorded.spans.one(f"attempt {number}") for number in (1, 2)]
    assert attempts == [(n, f"{context(span).span_id:016x}") for n, span in enumerate(spans, 1)]


def test_rows_so_far_are_reported(recorded: Recorded) -> None:
    """What the run itself has counted is in the next report."""

    @flow
    def main() -> None:
        flowspan.record_rows(7)
        eventually(
            lambda: any(semconv.ROWS_OUTPUT in values(r) for r in recorded.reports("main")), "rows"
        )

    main()
    assert values(recorded.reports("main")[-1])[semconv.ROWS_OUTPUT] == 7


def test_one_thread_serves_all_runs_and_ends_with_the_instrumentation(recorded: Recorded) -> None:
    """It is started by the first run."""
    assert threads() == []

    @flow
    def inner() -> None:
        assert len(threads()) == 1

    @flow
    def main() -> None:
        inner()
        inner()

    main()
    assert len(threads()) == 1
    flowspan.uninstrument()
    assert threads() == []


def _silent(record: Callable[[Recorded], None]) -> None:
    recorded = Recorded()
    record(recorded)

    @flow
    def main() -> None:
        time.sleep(3 * SOON)

    try:
        main()
        assert recorded.logs.reports == []
    finally:
        flowspan.uninstrument()


def test_a_heartbeat_of_zero_turns_everything_off(prefect_server: str) -> None:
    """There is neither a record nor a thread."""

    def instrument(recorded: Recorded) -> None:
        recorded.instrument(heartbeat=0)

    _silent(instrument)
    assert threads() == []


def test_a_run_that_is_not_sampled_is_not_reported(prefect_server: str) -> None:
    """Its span does not exist, so no trace lacks it."""

    def instrument(recorded: Recorded) -> None:
        recorded.spans = RecordedSpans(TracerProvider(sampler=ALWAYS_OFF))
        recorded.instrument()

    _silent(instrument)


def test_without_logs_nothing_is_reported(prefect_server: str) -> None:
    """The records go where the logs go, so nowhere if these are off."""

    def instrument(recorded: Recorded) -> None:
        recorded.instrument(logs=False)

    _silent(instrument)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_reports_its_own_runs(prefect_server: str, tmp_path: Path) -> None:
    """The thread of the parent does not exist there; the child starts its own."""
    done = run_script("reported.py", "fork", env=environment(tmp_path, FLOWSPAN_HEARTBEAT="0.3"))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    parent, child = done.stdout.split()
    assert parent != child
    pids = {
        span.attributes[semconv.PROCESS_ID]
        for span in embedded_spans(tmp_path).named("RUN reported")
        if span.attributes is not None
    }
    assert {*map(str, pids)} == {parent, child}


def test_a_process_that_exits_meanwhile_says_nothing(prefect_server: str, tmp_path: Path) -> None:
    """The thread ends silently with the interpreter, even amid a run."""
    env = environment(tmp_path, FLOWSPAN_HEARTBEAT="0.05")
    done = run_script("reported.py", "exit", env=env)
    assert done.returncode == 3
    assert "heartbeat" not in done.stderr  # neither in a traceback nor as the name of a thread


def test_ids_of_reports_are_derived(recorded: Recorded) -> None:
    """Another process can compute them, as those of spans."""
    ids: list[str] = []

    @flow
    def main() -> None:
        report = recorded.wait_for("main")
        ids.append(str(values(report)[semconv.RUN_ID]))
        assert report.trace_id == derive_trace_id(ids[0])
        assert report.span_id == derive_span_id(ids[0])

    main()
    assert len(ids) == 1
