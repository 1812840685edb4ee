"""Differences in how Prefect 3.9.1 runs, fails and rolls back, compared with earlier releases.

The tests pass on every release: they expect the new behaviour from 3.9.1 on, the old one before.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from packaging.version import Version
from prefect import flow
from prefect.context import TaskRunContext
from prefect.states import Failed
from prefect.transactions import transaction

from flowspan import semconv
from flowspan.instrumentor import PrefectInstrumentor
from kinds import call, make, make_task, span_name
from reconcile import reconcile
from support import (
    RecordedMetrics,
    RecordedSpans,
    attributes,
    context,
    exceptions,
    result,
    states,
    time_of,
)

IS_NEW = Version(version("prefect")) >= Version("3.9.1")
retries_returned_failures = pytest.mark.skipif(
    not IS_NEW, reason="leaves a flow run that returned Failed in AwaitingRetry"
)
RETRIED = [
    *(
        pytest.param("flow", kind, marks=retries_returned_failures)
        for kind in ("sync", "async", "generator")
    ),
    ("task", "sync"),
    ("task", "async"),
]


def assert_true_to_api(spans: RecordedSpans) -> None:
    differences = reconcile(spans.all, attributes(spans.one("RUN main"))[semconv.RUN_ID])
    assert not differences, "\n".join([*differences, spans.tree()])
    observer = PrefectInstrumentor()._observer
    assert observer is not None
    assert not observer.tracer.active


def make_returning(
    level: str, kind: str, body: Callable[[], Any], **options: Any
) -> Callable[[], Any]:
    """Return a function that returns the result of `body`; a generator does so at its end."""
    if kind != "generator":
        return make(level, kind, body, **options)

    @flow(**options)
    def main() -> Any:
        yield "something"
        return body()

    return lambda: list(main())


def in_turn(spans: RecordedSpans, *outcomes: str | Exception) -> Callable[[], Any]:
    """Return a function that at each call, in its own span, produces the next outcome.

    It raises an exception, returns Failed with a message, or returns another value for "done".
    """
    left = list(outcomes)

    def body() -> Any:
        with spans.provider.get_tracer("user").start_as_current_span("inside"):
            outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome if outcome == "done" else Failed(message=outcome)

    return body


def attempts(spans: RecordedSpans) -> list[ReadableSpan]:
    return [span for span in spans.all if span.name.startswith("attempt ")]


def assert_failed_by_return(attempt: ReadableSpan, message: str | None) -> None:
    assert attempt.status.status_code.name == "ERROR"
    assert attempt.status.description == message
    assert attributes(attempt)[semconv.ERROR_TYPE] == "Failed"
    assert exceptions(attempt) == []


@pytest.mark.parametrize(("level", "kind"), RETRIED)
def test_returned_failure_is_retried(
    spans: RecordedSpans, metrics: RecordedMetrics, level: str, kind: str
) -> None:
    """An attempt that returned Failed is marked as failed, and the next one follows."""
    body = in_turn(spans, "not yet", "done")
    make_returning(level, kind, body, retries=2, retry_delay_seconds=1)()
    span = spans.one(span_name(level))
    first, second = attempts(spans)
    resumed = "Running" if level == "flow" else "Retrying"
    assert states(span) == ["Pending", "Running", "AwaitingRetry", resumed, "Completed"]
    assert result(span) == "success"
    assert span.status.status_code.name == second.status.status_code.name == "UNSET"
    assert semconv.ERROR_TYPE not in {*attributes(span), *attributes(second)}
    assert exceptions(span) == exceptions(second) == []
    # Prefect keeps no message of a task's failed attempt.
    assert_failed_by_return(first, "not yet" if level == "flow" else None)
    assert attributes(span)[semconv.RUN_COUNT] == 2

    failed, again = time_of(span, "AwaitingRetry"), time_of(span, resumed)
    assert first.end_time == failed
    assert again <= (second.start_time or 0)
    assert attributes(span)[semconv.WAIT_RETRY] == pytest.approx((again - failed) / 1e9)
    parents = [inside.parent.span_id for inside in spans.named("inside") if inside.parent]
    assert parents == [context(first).span_id, context(second).span_id]

    assert metrics.total(f"prefect.{level}.runs", result="success") == 1
    assert metrics.total("prefect.task.run.retries", error="Failed") == (level == "task")
    assert metrics.total("cicd.pipeline.run.errors") == 1
    assert metrics.total("cicd.pipeline.run.errors", error="Failed") == 1
    assert_true_to_api(spans)


@pytest.mark.parametrize(("level", "kind"), RETRIED)
def test_returned_failures_exhaust_retries(
    spans: RecordedSpans, metrics: RecordedMetrics, level: str, kind: str
) -> None:
    """If its last attempt returns Failed, a run is a failure, and so is each attempt."""
    body = in_turn(spans, ValueError("raised"), "first", "last")
    with contextlib.suppress(Exception):
        make_returning(level, kind, body, retries=2)()
    span = spans.one(span_name(level))
    raised, returned, last = attempts(spans)
    assert exceptions(raised) == ["ValueError"]
    assert attributes(raised)[semconv.ERROR_TYPE] == "ValueError"
    assert_failed_by_return(returned, "first" if level == "flow" else None)
    assert_failed_by_return(last, "last")
    assert result(span) == "failure"
    assert span.status.description == "last"
    assert attributes(span)[semconv.ERROR_TYPE] == "Failed"
    assert exceptions(span) == []
    assert attributes(span)[semconv.RUN_COUNT] == 3
    assert metrics.total(f"prefect.{level}.runs", result="failure") == 1
    assert metrics.total("cicd.pipeline.run.errors", error="ValueError") == 1
    assert metrics.total("cicd.pipeline.run.errors", error="Failed") == 2
    assert_true_to_api(spans)


@pytest.mark.skipif(IS_NEW, reason="3.9.1 runs it again")
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_returned_failure_is_left_to_wait(spans: RecordedSpans, kind: str) -> None:
    """A flow run left in AwaitingRetry has no result; its attempt failed."""
    body = in_turn(spans, "not yet")
    with contextlib.suppress(Exception):
        make("flow", kind, body, retries=1)()
    span = spans.one("RUN main")
    assert states(span) == ["Pending", "Running", "AwaitingRetry"]
    assert result(span) is None
    assert_failed_by_return(spans.one("attempt 1"), "not yet")
    assert_true_to_api(spans)


@retries_returned_failures
def test_timeout_before_the_next_attempt(spans: RecordedSpans) -> None:
    """If a flow run times out while it waits for a retry, the run is a timeout, not an attempt."""

    @flow(retries=1, retry_delay_seconds=1, timeout_seconds=0.5)
    def main() -> Any:
        return Failed(message="not yet")

    with pytest.raises(TimeoutError):
        main()
    span = spans.one("RUN main")
    assert states(span) == ["Pending", "Running", "AwaitingRetry", "TimedOut"]
    assert result(span) == "timeout"
    assert exceptions(span) == ["prefect.flow_engine.FlowRunTimeoutError"]
    assert_failed_by_return(spans.one("attempt 1"), "not yet")
    assert_true_to_api(spans)


@pytest.mark.parametrize("around", ["nothing", "transaction", "transaction that fails"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_rollback_of_a_returned_failure(
    spans: RecordedSpans, metrics: RecordedMetrics, kind: str, around: str
) -> None:
    """A task that returns Failed is rolled back before it enters that state, and ends once."""
    state_at_rollback: list[str | None] = []
    step = make_task(kind, lambda: Failed(message="half done"))

    @step.on_rollback
    def undo(_: Any) -> None:
        run_context = TaskRunContext.get()
        state_at_rollback.append(run_context.task_run.state_name if run_context else None)
        time.sleep(0.01)

    @contextlib.contextmanager
    def surroundings() -> Iterator[None]:
        if around == "nothing":
            yield
            return
        with contextlib.suppress(ValueError), transaction():
            yield
            if around == "transaction that fails":
                raise ValueError

    @flow
    def main() -> None:
        with surroundings():
            step(return_state=True)

    @flow(name="main")
    async def async_main() -> None:
        with surroundings():
            await step(return_state=True)

    call(kind, main if kind == "sync" else async_main)
    span = spans.one("step")
    if IS_NEW:
        assert state_at_rollback == ["Running"]
    elif around != "transaction that fails":
        assert state_at_rollback == []
    if IS_NEW or around != "transaction that fails":
        assert states(span) == ["Pending", "Running", "Failed"]
        assert result(span) == "failure"
        assert span.status.description == "half done"
        assert span.end_time == time_of(span, "Failed")
        assert metrics.total("prefect.task.runs") == 1
        assert metrics.total("prefect.task.runs", result="failure") == 1
        assert metrics.total("cicd.pipeline.run.errors", error="Failed") == 1
    assert_true_to_api(spans)


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("kind", ["generator", "async_generator"])
def test_error_after_the_final_state(spans: RecordedSpans, kind: str, retries: int) -> None:
    """An error in a flow with a final state changes the run only if Prefect says so."""

    @flow(retries=retries)
    def main() -> Any:
        try:
            yield 1
        finally:
            raise ValueError("too late")

    @flow(name="main", retries=retries)
    async def async_main() -> Any:
        yield 1

    async def begin_and_close() -> None:
        items = async_main()
        await items.__anext__()
        # Prefect calls throw(), which an asynchronous generator does not have.
        await items.aclose()

    error = contextlib.suppress(ValueError, AttributeError)
    with pytest.raises((ValueError, AttributeError)) if IS_NEW else error:
        if kind == "generator":
            items = main()
            next(items)
            items.close()
        else:
            asyncio.run(begin_and_close())
    span = spans.one("RUN main")
    if IS_NEW:
        assert states(span) == ["Pending", "Running", "Completed"]
        assert result(span) == "success"
        assert exceptions(span) == []
    else:
        assert states(span) == ["Pending", "Running", "Completed", "Failed"]
        assert result(span) == "failure"
        assert len(exceptions(span)) == 1
    assert len(attempts(spans)) == retries
    assert all(attempt.status.status_code.name == "UNSET" for attempt in attempts(spans))
    assert_true_to_api(spans)
