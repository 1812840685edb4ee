"""Every behaviour of Prefect's engines, on all eight of their paths, compared with the API."""

import asyncio
import contextlib
import threading
import time
from typing import Any
from uuid import UUID

import prefect.flow_runs
import pytest
from prefect import allow_failure, flow, get_run_logger, pause_flow_run, resume_flow_run, task
from prefect.cache_policies import INPUTS
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.states import Cancelled, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.transactions import transaction

from clocks import Timed, timed_wait
from flowspan import semconv
from flowspan.identity import derive_attempt_span_id, derive_span_id, derive_trace_id
from kinds import KINDS, flow_around, make, make_flow, make_task, span_name
from processes import PATIENCE, eventually
from reconcile import reconcile
from support import RecordedSpans, attributes, context, exceptions, result, seconds, states, time_of

LEVELS = ["flow", "task"]
each_path = pytest.mark.parametrize(
    ("level", "kind"), [(level, kind) for level in LEVELS for kind in KINDS]
)


def flow_run_id(spans: RecordedSpans, name: str = "main") -> str:
    return str(attributes(spans.one(f"RUN {name}"))[semconv.RUN_ID])


def assert_true_to_api(spans: RecordedSpans, name: str = "main") -> None:
    differences = reconcile(spans.all, flow_run_id(spans, name))
    assert not differences, "\n".join([*differences, spans.tree()])


class Outage(BaseException):
    """An exception that is not an `Exception`, like KeyboardInterrupt."""


@each_path
def test_success(spans: RecordedSpans, level: str, kind: str) -> None:
    """A run that completes is one span with result success, its status left unset."""
    slept = Timed()

    def body() -> None:
        with slept:
            time.sleep(0.05)

    make(level, kind, body)()
    span = spans.one(span_name(level))
    assert states(span) == ["Pending", "Running", "Completed"]
    assert result(span) == "success"
    assert span.status.status_code.name == "UNSET"
    assert semconv.ERROR_TYPE not in attributes(span)
    assert slept.seconds <= attributes(span)[semconv.EXECUTION] < seconds(span)
    assert not [key for key in attributes(span) if key.startswith(semconv.WAIT_PREFIX)]
    assert_true_to_api(spans)


@each_path
def test_the_thread_that_runs_it(spans: RecordedSpans, level: str, kind: str) -> None:
    """A run has the thread in which its function was called."""
    threads: list[threading.Thread] = []
    make(level, kind, lambda: threads.append(threading.current_thread()))()
    found = attributes(spans.one(span_name(level)))
    (thread,) = threads
    assert found[semconv.THREAD_ID] == thread.ident
    assert found[semconv.THREAD_NAME] == thread.name


@each_path
def test_failure(spans: RecordedSpans, level: str, kind: str) -> None:
    """A run that raises is a failure with the exception and the state's message."""

    def fail() -> None:
        raise KeyError("no such carrier")

    with pytest.raises(KeyError):
        make(level, kind, fail)()
    span = spans.one(span_name(level))
    assert states(span)[-1] == "Failed"
    assert result(span) == "failure"
    assert span.status.status_code.name == "ERROR"
    assert "no such carrier" in (span.status.description or "")
    assert attributes(span)[semconv.ERROR_TYPE] == "KeyError"
    assert exceptions(span) == ["KeyError"]
    assert_true_to_api(spans)


@each_path
def test_retry(spans: RecordedSpans, level: str, kind: str) -> None:
    """A run that succeeds on its second attempt shows both, and has no exception itself."""
    attempts: list[float] = []

    def fail_once() -> str:
        attempts.append(time.time())
        if len(attempts) == 1:
            raise ConnectionError("try again")
        return "done"

    delay = 1 if level == "flow" else 0.3  # Prefect's server counts a flow's delay in whole seconds
    make(level, kind, fail_once, retries=2, retry_delay_seconds=delay)()
    span = spans.one(span_name(level))
    first, second = spans.one("attempt 1"), spans.one("attempt 2")
    for attempt, number in ((first, 1), (second, 2)):
        assert attempt.parent is not None
        assert attempt.parent.span_id == context(span).span_id
        run_id = attributes(span)[semconv.RUN_ID]
        assert context(attempt).span_id == derive_attempt_span_id(run_id, number)
    assert exceptions(first) == ["ConnectionError"]
    assert first.status.status_code.name == "ERROR"
    assert attributes(first)[semconv.ERROR_TYPE] == "ConnectionError"
    assert exceptions(second) == exceptions(span) == []
    assert second.status.status_code.name == span.status.status_code.name == "UNSET"
    assert result(span) == "success"
    assert semconv.ERROR_TYPE not in attributes(span)
    assert attributes(span)[semconv.RUN_COUNT] == 2
    assert "AwaitingRetry" in states(span)
    # The states have the actual delay: Prefect counts it from a moment before the first state.
    again = time_of(span, "Running" if level == "flow" else "Retrying")
    waited = (again - time_of(span, "AwaitingRetry")) / 1e9
    assert attributes(span)[semconv.WAIT_RETRY] == pytest.approx(waited)
    assert 0 < waited <= attempts[1] - attempts[0]
    assert (second.start_time or 0) >= (first.end_time or 0)
    assert_true_to_api(spans)


@each_path
def test_retries_exhausted(spans: RecordedSpans, level: str, kind: str) -> None:
    """A run that fails on every attempt is a failure; each exception is on its attempt."""

    def fail() -> None:
        raise ValueError("always")

    with pytest.raises(ValueError, match="always"):
        make(level, kind, fail, retries=1)()
    span = spans.one(span_name(level))
    assert [exceptions(spans.one(f"attempt {n}")) for n in (1, 2)] == [["ValueError"]] * 2
    assert exceptions(span) == []
    assert attributes(span)[semconv.ERROR_TYPE] == "ValueError"
    assert result(span) == "failure"
    assert semconv.WAIT_RETRY not in attributes(span) or level == "flow"
    assert_true_to_api(spans)


@each_path
def test_crash(spans: RecordedSpans, level: str, kind: str) -> None:
    """A run that is ended by an exception that is no `Exception` is an error, and its span ends."""

    def crash() -> None:
        raise Outage("power")

    with pytest.raises(Outage):
        make(level, kind, crash)()
    span = spans.one(span_name(level))
    assert states(span)[-1] == "Crashed"
    assert result(span) == "error"
    assert span.status.status_code.name == "ERROR"
    assert attributes(span)[semconv.ERROR_TYPE] == "test_engine_paths.Outage"
    assert exceptions(span) == ["test_engine_paths.Outage"]
    assert_true_to_api(spans)


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("level", LEVELS)
def test_timeout(spans: RecordedSpans, level: str, kind: str) -> None:
    """A run that exceeds its time is a timeout, which ends when Prefect says so."""
    inside, outside = Timed(), Timed()
    if kind == "async":

        async def step() -> None:
            with inside:
                await asyncio.sleep(PATIENCE)

    else:

        def step() -> None:  # type: ignore[misc]
            with inside:
                for _ in range(int(PATIENCE * 100)):
                    time.sleep(0.01)

    if level == "flow":
        main = flow(name="main", timeout_seconds=0.2)(step)
        run: Any = main if kind == "sync" else lambda: asyncio.run(main())
    else:
        run = flow_around(kind, task(name="step", timeout_seconds=0.2)(step))
    with pytest.raises(TimeoutError), outside:
        run()
    span = spans.one(span_name(level))
    assert states(span)[-1] == "TimedOut"
    assert result(span) == "timeout"
    assert span.status.status_code.name == "ERROR"
    assert attributes(span)[semconv.ERROR_TYPE].endswith("RunTimeoutError")
    assert span.start_time is not None
    assert span.end_time is not None
    assert outside.start <= span.start_time < inside.start
    assert inside.end < span.end_time <= outside.end
    assert_true_to_api(spans)


def test_timeout_of_an_attempt(spans: RecordedSpans) -> None:
    """If an attempt times out and is retried, only the attempt has the exception."""
    attempts: list[int] = []

    @task(timeout_seconds=1, retries=1)
    async def step() -> None:
        attempts.append(1)
        await asyncio.sleep(PATIENCE if len(attempts) == 1 else 0)

    flow_around("async", step)()
    assert len(exceptions(spans.one("attempt 1"))) == 1
    assert result(spans.one("step")) == "success"
    assert_true_to_api(spans)


@pytest.mark.parametrize("kind", ["generator", "async_generator"])
@pytest.mark.parametrize("level", LEVELS)
def test_generator_that_is_not_exhausted(spans: RecordedSpans, level: str, kind: str) -> None:
    """If a generator's consumer stops early, its span ends with the state from Prefect."""
    if kind == "generator":

        def numbers() -> Any:
            yield from range(10)

        def take_one(items: Any) -> int:
            generator = items()
            first: int = next(generator)
            generator.close()
            return first

        if level == "flow":
            take_one(flow(name="main")(numbers))
        else:
            step = task(name="step")(numbers)
            flow(name="main")(lambda: take_one(step))()
    else:

        async def async_numbers() -> Any:
            for number in range(10):
                yield number

        async def async_take_one(items: Any) -> int:
            generator = items()
            first: int = await generator.__anext__()
            with contextlib.suppress(Exception):
                await generator.aclose()
            return first

        if level == "flow":
            asyncio.run(async_take_one(flow(name="main")(async_numbers)))
        else:
            async_step = task(name="step")(async_numbers)

            @flow(name="main")
            async def main() -> int:
                return await async_take_one(async_step)

            asyncio.run(main())
    # An asynchronous one fails, because Prefect calls a method that it lacks. A synchronous one
    # completes, and its transaction is rolled back. The API decides what is right.
    assert result(spans.one(span_name(level))) in {"success", "failure"}
    assert_true_to_api(spans)


@pytest.mark.parametrize("kind", ["generator", "async_generator"])
def test_consumer_of_a_generator_is_not_inside_it(spans: RecordedSpans, kind: str) -> None:
    """Spans that a flow makes between two items of a generator task are the flow's."""
    tracer = spans.provider.get_tracer("user")

    def produce() -> None:
        with tracer.start_as_current_span("produce"):
            pass

    step = make_task(kind, produce)
    if kind == "generator":

        @flow
        def main() -> None:
            for _ in step():
                with tracer.start_as_current_span("consume"):
                    pass

        main()
    else:

        @flow(name="main")
        async def async_main() -> None:
            async for _ in step():
                with tracer.start_as_current_span("consume"):
                    pass

        asyncio.run(async_main())
    assert spans.tree().splitlines() == ["RUN main", "  step", "    produce", "  consume"]


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("level", LEVELS)
def test_returned_states(spans: RecordedSpans, level: str, kind: str) -> None:
    """A run that returns a Failed state is a failure; one that returns Cancelled is cancelled."""
    for make_state, expected in (
        (lambda: Failed(message="not today"), "failure"),
        (lambda: Cancelled(message="called off"), "cancellation"),
    ):
        with contextlib.suppress(Exception):
            make(level, kind, make_state)()
        span = spans.named(span_name(level))[-1]
        assert result(span) == expected
        assert span.status.status_code.name == ("ERROR" if expected == "failure" else "UNSET")
        if expected == "failure":
            assert span.status.description == "not today"
            assert attributes(span)[semconv.ERROR_TYPE] == "Failed"
    for root in spans.named("RUN main"):
        same_trace = [s for s in spans.all if context(s).trace_id == context(root).trace_id]
        assert reconcile(same_trace, attributes(root)[semconv.RUN_ID]) == []


def test_upstream_failure_is_a_skip(spans: RecordedSpans) -> None:
    """A run whose upstream failed never runs: it is skipped, linked, and not an error."""

    @task
    def bad() -> None:
        raise ValueError("bad")

    @task
    def after(x: Any) -> Any:
        return x

    @flow
    def main() -> None:
        failed = bad.submit()
        after.submit(failed).wait()
        after.submit(allow_failure(failed)).wait()

    main(return_state=True)
    skipped, allowed = spans.named("after")
    assert states(skipped) == ["Pending", "NotReady"]
    assert result(skipped) == "skip"
    assert skipped.status.status_code.name == "UNSET"
    assert semconv.EXECUTION not in attributes(skipped)
    assert result(allowed) == "success"
    assert len(skipped.links) == len(allowed.links) == 1
    assert_true_to_api(spans)


def test_links_name_the_inputs(spans: RecordedSpans) -> None:
    """A run is linked once to each upstream run, with the names of its inputs."""

    @task
    def make_list(n: int) -> list[int]:
        return [n]

    @task
    def merge(left: list[int], right: list[int], *, other: Any = None) -> list[int]:
        return left + right

    @flow(persist_result=True)
    def inner(rows: Any) -> list[int]:
        return make_list(len(rows))

    @flow
    def main() -> None:
        one, two = make_list.submit(1001), make_list.submit(1002)
        made = inner(one)
        merge.submit(one, one, wait_for=[two]).wait()
        merge(make_list(1003), made)
        merge([], [], other=inner([], return_state=True))

    main()
    first, second, third = spans.named("merge")
    names = {
        link.context.span_id: (link.attributes or {})[semconv.INPUT_NAME] for link in first.links
    }
    one, two = (context(span).span_id for span in spans.named("make_list")[:2])
    assert names == {one: "left,right", two: "wait_for"}
    for link in first.links:
        assert (link.attributes or {})[semconv.LINK_TYPE] == semconv.LINK_DEPENDENCY
        assert link.context.trace_id == context(first).trace_id
    assert len(second.links) == 2
    inner_ids = {context(span).span_id for span in spans.named("RUN inner")}
    assert len({link.context.span_id for link in (*second.links, *third.links)} & inner_ids) == 2
    assert len(spans.named("RUN inner")[0].links) == 1
    assert_true_to_api(spans)


def test_nested_and_mapped_runs(spans: RecordedSpans) -> None:
    """Nested tasks, subflows in tasks, mapped tasks: each is a child of the run that called it."""

    @task
    def leaf(x: int) -> int:
        return x

    @flow
    def inner() -> int:
        return leaf(1)

    @task
    def branch(x: int) -> int:
        return leaf(x) + inner()

    @flow
    def main() -> None:
        branch(1)
        leaf.map([1, 2, 3]).wait()
        inner()

    main()
    assert spans.tree().splitlines() == [
        "RUN main",
        "  branch",
        "    leaf",
        "    RUN inner",
        "      leaf",
        "  leaf",
        "  leaf",
        "  leaf",
        "  RUN inner",
        "    leaf",
    ]
    assert spans.one("RUN main").kind.name == "SERVER"
    assert {span.kind.name for span in spans.all if span.name != "RUN main"} == {"INTERNAL"}
    assert len({context(span).trace_id for span in spans.all}) == 1
    assert_true_to_api(spans)


def test_async_concurrency(spans: RecordedSpans) -> None:
    """Concurrent tasks in one event loop do not mix up their spans."""
    tracer = spans.provider.get_tracer("user")

    @task
    async def step(x: int) -> int:
        await asyncio.sleep(0.05 * (3 - x))
        with tracer.start_as_current_span(f"inside {x}"):
            await asyncio.sleep(0.05)
        return x

    @flow
    async def inner(x: int) -> int:
        return await step(x)

    @flow
    async def main() -> None:
        await asyncio.gather(step(0), inner(1), step(2))
        step.submit(0).wait()

    asyncio.run(main())
    for number, count in ((0, 2), (1, 1), (2, 1)):
        inside = spans.named(f"inside {number}")
        assert len(inside) == count
        for span in inside:
            assert span.parent is not None
            parent = next(s for s in spans.all if context(s).span_id == span.parent.span_id)
            assert parent.name == "step"
    assert_true_to_api(spans)


def test_cached_result(spans: RecordedSpans) -> None:
    """A cached run is a success that did not execute."""

    @task(cache_policy=INPUTS, persist_result=True)
    def square(x: float) -> float:
        return x * x

    @flow
    def main(x: float) -> None:
        square(x)
        square(x)

    main(time.time())
    first, second = spans.named("square")
    assert attributes(first)[semconv.TASK_CACHED] is False
    assert attributes(second)[semconv.TASK_CACHED] is True
    assert result(second) == "success"
    assert states(second)[-1] == "Cached"
    assert semconv.EXECUTION in attributes(first)
    assert semconv.EXECUTION not in attributes(second)
    assert_true_to_api(spans)


def test_rollback(spans: RecordedSpans) -> None:
    """A run that a transaction rolls back later ends in that state; others do not."""

    @task
    def write(x: int) -> int:
        return x

    @write.on_rollback
    def undo(_transaction: Any) -> None:
        time.sleep(0.01)

    @task
    def fail() -> None:
        raise RuntimeError("no")

    @task
    def outer() -> None:
        write(3)
        fail()

    @flow
    def main() -> None:
        with transaction():
            write(1)
        with contextlib.suppress(RuntimeError), transaction():
            write(2)
            fail()
        with contextlib.suppress(RuntimeError):
            outer()

    main()
    kept, *undone = spans.named("write")
    assert states(kept)[-1] == "Completed"
    assert [states(span)[-1] for span in undone] == ["RolledBack", "RolledBack"]
    assert [result(span) for span in undone] == ["success", "success"]
    assert_true_to_api(spans)


def test_rollback_in_async_tasks(spans: RecordedSpans) -> None:
    """The same holds for asynchronous tasks nested in an asynchronous task."""

    @task
    async def write(x: int) -> int:
        return x

    @task
    async def outer(*, fails: bool) -> None:
        await write(1)
        if fails:
            raise RuntimeError("no")

    @flow
    async def main() -> None:
        await outer(fails=False)
        with contextlib.suppress(RuntimeError):
            await outer(fails=True)

    asyncio.run(main())
    assert sorted(states(span)[-1] for span in spans.named("write")) == ["Completed", "RolledBack"]
    assert_true_to_api(spans)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_pause_and_resume(spans: RecordedSpans, kind: str) -> None:
    """A pause inside the process is a wait, not execution, and has both transitions."""

    def is_paused() -> bool:
        with get_client(sync_client=True) as client:
            run = client.read_flow_run(UUID(started[0]))
        return run.state is not None and run.state.is_paused()

    def resume() -> None:
        eventually(is_paused, "the pause")
        resume_flow_run(UUID(started[0]))

    started: list[str] = []
    resumer = threading.Thread(target=resume)

    def note() -> None:
        from prefect.runtime import flow_run

        started.append(str(flow_run.id))
        resumer.start()

    if kind == "sync":

        @flow
        def main() -> None:
            note()
            pause_flow_run(timeout=int(PATIENCE), poll_interval=1)

        main()
    else:
        # Before Prefect 3.6.11 there was one function for both.
        pause: Any = getattr(prefect.flow_runs, "apause_flow_run", pause_flow_run)

        @flow(name="main")
        async def async_main() -> None:
            note()
            await pause(timeout=int(PATIENCE), poll_interval=1)

        asyncio.run(async_main())
    resumer.join(PATIENCE)
    span = spans.one("RUN main")
    assert states(span) == ["Pending", "Running", "Paused", "Running", "Completed"]
    paused = (time_of(span, "Running") - time_of(span, "Paused")) / 1e9
    assert attributes(span)[semconv.WAIT_PAUSE] == pytest.approx(paused)
    assert 0 < paused < seconds(span)
    assert (
        attributes(span)[semconv.EXECUTION] < seconds(span) - attributes(span)[semconv.WAIT_PAUSE]
    )
    assert_true_to_api(spans)


def test_waits_of_tasks(spans: RecordedSpans) -> None:
    """Waits for a worker thread, an upstream result and a retry are separate."""
    goes_on = threading.Event()
    is_busy, submitted, began, outside = Timed(), Timed(), Timed(), Timed()
    waits: list[Timed] = []

    @task
    def slow(x: int) -> int:
        assert goes_on.wait(PATIENCE)
        with is_busy:
            time.sleep(0.1)
        return x

    def after(x: Any) -> Any:
        with began if x == "queued" else Timed():
            return x

    waiting, queued, direct = (task(name=name)(after) for name in ("waiting", "queued", "direct"))

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
    def main() -> None:
        first = slow.submit(1)
        waits.append(timed_wait(first))
        second = waiting.submit({"nested": [first]})
        assert waits[0].begun.wait(PATIENCE)
        with submitted:
            third = queued.submit("queued")
        direct(3)
        goes_on.set()
        second.wait()
        third.wait()

    with outside:
        main()
    waited = attributes(spans.one("waiting"))[semconv.WAIT_DEPENDENCIES]
    assert is_busy.seconds < waits[0].seconds <= waited < outside.seconds
    in_queue = attributes(spans.one("queued"))[semconv.WAIT_QUEUE]
    # Prefect's run id has the time in milliseconds.
    assert is_busy.seconds < in_queue <= (began.start - submitted.start) / 1e9 + 0.001
    assert semconv.WAIT_DEPENDENCIES not in attributes(spans.one("queued"))
    assert not [
        key for key in attributes(spans.one("direct")) if key.startswith(semconv.WAIT_PREFIX)
    ]
    assert_true_to_api(spans)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_time_until_a_call_returns_is_the_engines(
    spans: RecordedSpans, level: str, kind: str
) -> None:
    """What the engine does after the final state of a called run is not the caller's work."""
    hook, inside = Timed(), Timed()

    def completed(*_: Any) -> None:
        with hook:
            time.sleep(0.2)

    called: Any = (make_task if level == "task" else make_flow)(
        kind, lambda: None, "called", on_completion=[completed]
    )

    def sync_step() -> None:
        with inside:
            called()

    async def async_step() -> None:
        with inside:
            await called()

    step: Any = sync_step if kind == "sync" else async_step
    flow_around(kind, step)()
    after = attributes(spans.one("called" if level == "task" else "RUN called"))
    caller = attributes(spans.one("RUN main"))
    assert hook.seconds <= after[semconv.ENGINE_EXIT] < inside.seconds
    assert caller[semconv.EXECUTION] < inside.seconds
    assert caller[semconv.EXECUTION] + after[semconv.ENGINE_EXIT] >= inside.seconds
    assert_true_to_api(spans)


def test_concurrent_calls_leave_the_caller_its_time(spans: RecordedSpans) -> None:
    """While one call returns, its caller may work or wait for another: that is still its time."""
    inside = Timed()

    @task
    def submitted() -> None:
        pass

    @task
    async def gathered() -> None:
        await asyncio.sleep(0.01)

    @flow
    async def main() -> None:
        with inside:
            future = submitted.submit()
            await asyncio.gather(gathered(), gathered())
            future.wait()

    asyncio.run(main())
    called = [attributes(span) for span in spans.children(spans.one("RUN main"))]
    assert len(called) == 3
    assert not any(semconv.ENGINE_EXIT in found for found in called)
    assert attributes(spans.one("RUN main"))[semconv.EXECUTION] >= inside.seconds


def test_concurrency_waits(spans: RecordedSpans, refused: dict[str, threading.Event]) -> None:
    """A wait for a slot counts, for a tag or in the function; a tag without a limit has none."""
    with get_client(sync_client=True) as client:
        client.create_concurrency_limit(tag="narrow", concurrency_limit=1)
        client.upsert_global_concurrency_limit_by_name("pool", limit=1)
    held: dict[str, list[Timed]] = {"tagged": [], "inside": []}

    def hold(name: str, limit: str) -> None:
        """Keep the slot until someone else has been refused it, and a little longer."""
        assert held[name] or refused[limit].wait(PATIENCE)
        slept = Timed()
        held[name].append(slept)
        with slept:
            time.sleep(0.2)

    @task(tags=["narrow"])
    def tagged(x: int) -> int:
        hold("tagged", "tag:narrow")
        return x

    @task(tags=["unlimited"])
    def free(x: int) -> int:
        return x

    @task
    def inside(x: int) -> int:
        with concurrency("pool", occupy=1):
            hold("inside", "pool")
        return x

    @flow
    def main() -> None:
        for future in [*tagged.map([1, 2]), free.submit(1)]:
            future.wait()
        for future in inside.map([1, 2]):
            future.wait()

    main()
    for name in ("tagged", "inside"):
        first, second = sorted(spans.named(name), key=lambda span: span.end_time or 0)
        assert attributes(second)[semconv.WAIT_CONCURRENCY] > held[name][0].seconds
        for span, slept in zip((first, second), held[name], strict=True):
            waited = attributes(span).get(semconv.WAIT_CONCURRENCY, 0.0)
            assert slept.seconds <= attributes(span)[semconv.EXECUTION] <= seconds(span) - waited
    assert semconv.WAIT_CONCURRENCY not in attributes(spans.one("free"))
    assert_true_to_api(spans)


def test_hooks_do_not_move_the_end(spans: RecordedSpans) -> None:
    """A span ends at the final state, not after the hooks that it triggers."""
    began: list[int] = []

    def hook(*_: Any) -> None:
        began.append(time.time_ns())

    def broken_hook(*_: Any) -> None:
        raise RuntimeError("hook")

    @task(on_completion=[hook, broken_hook])
    def step() -> None:
        pass

    @flow(on_completion=[hook], on_running=[broken_hook])
    def main() -> None:
        step()

    main()
    ends = [spans.one(name).end_time or 0 for name in ("step", "RUN main")]
    assert all(end <= start for end, start in zip(ends, began, strict=True))
    assert_true_to_api(spans)


def test_run_attributes(spans: RecordedSpans) -> None:
    """Run spans identify their run, by names that dashboards rely on."""

    @task(tags=["extract"], task_run_name="load-{table}")
    def load(table: str, rows: list[int]) -> None:
        get_run_logger().debug("loading")

    @flow(flow_run_name="nightly-{day}", version="7", log_prints=True)
    def main(day: str = "monday") -> None:
        load("flights", [1, 2])

    main()
    parent, child = spans.one("RUN main"), spans.one("load")
    a = attributes(parent)
    assert a[semconv.RUN_NAME] == "nightly-monday"
    assert a[semconv.RUN_TYPE] == "flow"
    assert a[semconv.FLOW_NAME] == a[semconv.PIPELINE_NAME] == "main"
    assert a[semconv.RUN_ID] == a[semconv.FLOW_RUN_ID] == a[semconv.PIPELINE_RUN_ID]
    assert a[semconv.FLOW_VERSION] == "7"
    assert UUID(a[semconv.FLOW_ID])
    assert a[semconv.RUN_COUNT] == 1
    assert a["prefect.run.parameter.day"] == "str"
    assert a[semconv.PIPELINE_RUN_URL].endswith(f"/runs/flow-run/{a[semconv.RUN_ID]}")
    assert context(parent).trace_id == derive_trace_id(a[semconv.RUN_ID])
    b = attributes(child)
    assert b[semconv.RUN_NAME] == "load-flights"
    assert b[semconv.RUN_TYPE] == "task"
    assert b[semconv.TASK_NAME] == b[semconv.PIPELINE_TASK_NAME] == "load"
    assert b[semconv.RUN_ID] == b[semconv.PIPELINE_TASK_RUN_ID]
    assert b[semconv.FLOW_NAME] == "main"
    assert b[semconv.FLOW_RUN_ID] == a[semconv.RUN_ID]
    assert b[semconv.TASK_KEY].startswith("load-")
    assert b[semconv.TAGS] == ("extract",)
    assert b["prefect.run.parameter.table"] == "str"
    assert b["prefect.run.parameter.rows"] == "list"
    assert b[semconv.PIPELINE_TASK_RUN_URL].endswith(f"/runs/task-run/{b[semconv.RUN_ID]}")
    assert b[semconv.TASK_CACHED] is False
    assert context(child).span_id == derive_span_id(b[semconv.RUN_ID])
    assert not [key for key in (*a, *b) if key.startswith("__")]
    assert_true_to_api(spans)


def test_task_without_a_flow(spans: RecordedSpans) -> None:
    """A task that is called outside any flow is the root of its own trace."""

    @task
    def inner() -> int:
        return 1

    @task
    def alone() -> int:
        return inner()

    alone()
    assert spans.tree().splitlines() == ["alone", "  inner"]
    root = spans.one("alone")
    assert context(root).trace_id == derive_trace_id(attributes(root)[semconv.RUN_ID])
    assert semconv.FLOW_NAME not in attributes(root)
