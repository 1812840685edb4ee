"""Engines, contexts and transactions that end in unusual ways: no span is lost or left open."""

import asyncio
import contextlib
import gc
import inspect
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import duckdb
import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as context_api
from opentelemetry.sdk.trace import Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import concurrency as aconcurrency
from prefect.exceptions import Pause
from prefect.settings import PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY, temporary_settings
from prefect.transactions import transaction

import flowspan
from clocks import Timed
from flowspan import semconv
from flowspan.instrumentor import PrefectInstrumentor
from flowspan.settings import Settings
from processes import PATIENCE
from reconcile import reconcile
from support import RecordedSpans, attributes, context, result, seconds, states


def active() -> dict[str, Any]:
    observer = PrefectInstrumentor()._observer
    assert observer is not None
    return observer.tracer.active


def recording(**options: Any) -> tuple[TracerProvider, RecordedSpans]:
    provider = TracerProvider(**options)
    spans = RecordedSpans(provider)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return provider, spans


class Meeting:
    """A point where a number of coroutines wait for one another."""

    def __init__(self, size: int) -> None:
        self.missing = size
        self.all_came = asyncio.Event()

    def come(self) -> None:
        self.missing -= 1
        if not self.missing:
            self.all_came.set()

    async def wait(self) -> None:
        await asyncio.wait_for(self.all_came.wait(), PATIENCE)


def assert_true_to_api(spans: RecordedSpans) -> None:
    differences = reconcile(spans.all, attributes(spans.one("RUN main"))[semconv.RUN_ID])
    assert not differences, "\n".join([*differences, spans.tree()])
    assert not active()


@task
def slow(x: int = 0) -> int:
    time.sleep(0.3)
    return x


def test_run_that_outlives_its_transaction(spans: RecordedSpans) -> None:
    """A run submitted in a transaction that ends before the run does has its span."""
    is_over = threading.Event()
    submitted: list[Any] = []

    @task
    def outlives() -> None:
        assert is_over.wait(PATIENCE)

    @task
    def submits() -> None:
        submitted.append(outlives.submit())

    def end_it() -> None:
        is_over.set()
        submitted[-1].wait()
        is_over.clear()

    @flow
    def main() -> None:
        with transaction():
            submitted.append(outlives.submit())
        end_it()
        submits()
        end_it()

    main()
    assert len(spans.named("outlives")) == 2
    assert_true_to_api(spans)


def test_rollback_hook_that_raises(spans: RecordedSpans) -> None:
    """If a user's rollback hook breaks off the rollback, the run's span still ends."""

    @task
    def write() -> None:
        pass

    @write.on_rollback
    def broken(_: Any) -> None:
        raise RuntimeError("hook")

    @flow
    def main() -> None:
        with contextlib.suppress(ValueError), transaction():
            write()
            raise ValueError

    main()
    assert_true_to_api(spans)


def test_subflow_whose_result_is_reused(spans: RecordedSpans) -> None:
    """A retried flow that reads a finished subflow's result makes no span for it."""
    attempts: list[int] = []

    @flow(persist_result=True)
    def inner() -> int:
        return 1

    @flow(retries=1)
    def main() -> None:
        inner()
        attempts.append(1)
        if len(attempts) == 1:
            raise ConnectionError

    main()
    assert len(spans.named("RUN inner")) == 1
    assert_true_to_api(spans)


def test_instrument_from_many_threads(prefect_server: str) -> None:
    """instrument() patches once, however many threads call it at once."""
    options = {"tracer_provider": TracerProvider()}
    threads = [threading.Thread(target=flowspan.instrument, kwargs=options) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    try:
        patched = PrefectInstrumentor().patched
        assert len(patched) == len(set(patched))
    finally:
        flowspan.uninstrument()


def test_adoption_of_a_second_flow(prefect_server: str) -> None:
    """Two concurrent flows that both start with instrument() are both adopted."""
    provider, spans = recording()
    begun, instrumented = Meeting(2), Meeting(2)

    @flow
    async def main() -> None:
        begun.come()
        await begun.wait()
        flowspan.instrument(tracer_provider=provider)
        instrumented.come()
        await instrumented.wait()

    async def both() -> None:
        await asyncio.gather(main(), main())

    try:
        asyncio.run(both())
        assert not active()
    finally:
        flowspan.uninstrument()
    assert [result(span) for span in spans.named("RUN main")] == ["success", "success"]


@pytest.mark.parametrize("native", [True, False])
def test_adoption_leaves_no_context_behind(prefect_server: str, *, native: bool) -> None:
    """An adopted flow that was retried leaves nothing in the caller's context."""
    provider, spans = recording()

    @flow(retries=1)
    def main() -> None:
        flowspan.instrument(tracer_provider=provider)
        raise ValueError("no")

    before = context_api.get_current()
    try:
        with temporary_settings({PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY: native}):
            with pytest.raises(ValueError, match="no"):
                main()
            assert context_api.get_current() == before
            flow(name="later")(lambda: 1)()
        assert not active()
    finally:
        flowspan.uninstrument()
    assert spans.one("RUN later").parent is None


def test_adoption_of_a_task_that_times_out(prefect_server: str) -> None:
    """An adopted task run ends with its state even if Prefect's telemetry is not told."""
    provider, spans = recording()

    @task(timeout_seconds=5)  # instrument() asks the API meanwhile
    def step() -> None:
        flowspan.instrument(tracer_provider=provider)
        for _ in range(int(PATIENCE * 100)):
            time.sleep(0.01)

    @flow
    def main() -> None:
        with contextlib.suppress(TimeoutError):
            step()

    try:
        main()
        assert not active()
    finally:
        flowspan.uninstrument()
    assert spans.tree().splitlines() == ["RUN main", "  step"]
    assert result(spans.one("step")) == "timeout"


def test_adoption_from_a_subflow(prefect_server: str) -> None:
    """instrument() in a subflow also adopts the flow that called it.

    The time that it takes itself is no execution.
    """
    provider, spans = recording()
    instrumenting, inside = Timed(), Timed()

    @flow
    def inner() -> None:
        with inside:
            with instrumenting:
                flowspan.instrument(tracer_provider=provider)
            slow()

    @flow
    def main() -> None:
        inner()

    try:
        main()
        assert not active()
    finally:
        flowspan.uninstrument()
    assert spans.tree().splitlines() == ["RUN main", "  RUN inner", "    slow"]
    assert [span.kind.name for span in spans.all] == ["SERVER", "INTERNAL", "INTERNAL"]
    inner_run, step = spans.one("RUN inner"), spans.one("slow")
    executed = attributes(inner_run)[semconv.EXECUTION]
    after = (inside.end - instrumenting.end) / 1e9 - attributes(step)[semconv.ENGINE_EXIT]
    assert after <= executed <= seconds(inner_run) - instrumenting.seconds


def test_adopted_async_flow_writes_its_label(prefect_server: str) -> None:
    """Adopted flows also write the label that lets other processes join the trace."""
    provider, spans = recording()

    @flow
    async def main() -> None:
        flowspan.instrument(tracer_provider=provider)

    try:
        asyncio.run(main())
    finally:
        flowspan.uninstrument()
    root = spans.one("RUN main")
    with get_client(sync_client=True) as client:
        labels = client.read_flow_run(attributes(root)[semconv.RUN_ID]).labels
    assert f"{context(root).span_id:016x}" in str(labels["__OTEL_TRACEPARENT"])


def test_cancellation_while_the_engine_is_entered(spans: RecordedSpans) -> None:
    """A flow that is cancelled at any moment of its start leaves no span open."""

    @flow
    async def main() -> None:
        await asyncio.sleep(1)

    async def cancel_after(delay: float) -> None:
        running = asyncio.ensure_future(main())
        await asyncio.sleep(delay)
        running.cancel()
        with contextlib.suppress(BaseException):
            await running

    for hundredths in range(0, 24, 2):
        asyncio.run(cancel_after(hundredths / 100))
    assert not active()


def test_overlapping_waits_count_once(spans: RecordedSpans) -> None:
    """Simultaneous waits of several coroutines of one flow are not added up."""
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name("narrow-gate", limit=1)

    asked: list[int] = []
    asking = Meeting(3)
    held: list[Timed] = []

    async def enter() -> None:
        asked.append(time.time_ns())
        asking.come()
        async with aconcurrency("narrow-gate", occupy=1):
            await asking.wait()
            slept = Timed()
            held.append(slept)
            with slept:
                await asyncio.sleep(0.2)

    @flow
    async def main() -> None:
        await asyncio.gather(*(enter() for _ in range(3)))

    asyncio.run(main())
    a = attributes(spans.one("RUN main"))
    assert 0 <= a[semconv.EXECUTION] < seconds(spans.one("RUN main"))
    # The last one waited while the second had the slot; others waited until the last one had it.
    assert held[1].seconds < a[semconv.WAIT_CONCURRENCY] < (held[2].start - min(asked)) / 1e9
    assert_true_to_api(spans)


class _Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


def test_parameters_that_cannot_be_rendered(prefect_server: str) -> None:
    """A parameter that fails, contains itself, is huge or lazy costs the span nothing else."""
    provider, spans = recording()
    loop: list[Any] = []
    loop.append(loop)

    @task(cache_policy=NO_CACHE)  # a key would be made from the parameters
    def step(bad: Any, nested: Any, huge: Any, query: Any) -> None:
        pass

    flowspan.instrument(tracer_provider=provider, settings=Settings(capture_parameters="values"))
    try:
        step(_Unprintable(), loop, list(range(100_000)), duckdb.sql("SELECT error('computed')"))
    finally:
        flowspan.uninstrument()
    a = attributes(spans.one("step"))
    assert result(spans.one("step")) == "success"
    assert a["prefect.run.parameter.bad"] == "<test_edges._Unprintable>"
    assert a["prefect.run.parameter.query"] == "<duckdb._relation.DuckDBPyRelation>"
    assert a["prefect.run.parameter.nested"].endswith("]")
    assert a["prefect.run.parameter.huge"].startswith("[0, 1, 2")


def test_baggage_reaches_span_processors(prefect_server: str) -> None:
    """A span processor sees the caller's baggage on run spans, as on any other span."""
    seen: dict[str, Any] = {}

    class Baggage(SpanProcessor):
        def on_start(self, span: Span, parent_context: context_api.Context | None = None) -> None:
            seen[span.name] = baggage.get_all(parent_context).get("tenant")

    provider = TracerProvider()
    provider.add_span_processor(Baggage())
    flowspan.instrument(tracer_provider=provider)
    token = context_api.attach(baggage.set_baggage("tenant", "acme"))
    try:
        flow(name="main")(lambda: slow())()
    finally:
        context_api.detach(token)
        flowspan.uninstrument()
    assert seen == {"RUN main": "acme", "slow": "acme"}


def test_spans_made_while_waiting_for_upstream_runs(spans: RecordedSpans) -> None:
    """Spans made while a run waits for a future are inside that run."""
    tracer = spans.provider.get_tracer("user")

    @flow
    def main() -> None:
        future = slow.submit(2)
        wait = future.wait

        def poll(timeout: float | None = None) -> None:
            with tracer.start_as_current_span("poll"):
                wait(timeout)

        future.wait = poll  # type: ignore[method-assign]
        slow(future)  # type: ignore[call-overload]

    main()
    poll = spans.one("poll")
    assert poll.parent is not None
    assert poll.parent.span_id in {context(span).span_id for span in spans.named("slow")}


def test_deferred_task(spans: RecordedSpans, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task run that is deferred and served later has its whole history and its queue wait.

    The server's TRACEPARENT is not its parent.
    """
    from prefect.task_engine import run_task_sync

    remote_parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    monkeypatch.setenv("TRACEPARENT", remote_parent)
    waiting, delayed = Timed(), Timed()
    with delayed:
        future = slow.delay(3)
        with get_client(sync_client=True) as client, waiting:
            task_run = client.read_task_run(future.task_run_id)
        run_task_sync(slow, task_run=task_run, parameters={"x": 3})
    span = spans.one("slow")
    assert states(span)[0] == "Scheduled"
    assert waiting.seconds <= attributes(span)[semconv.WAIT_QUEUE] < delayed.seconds
    assert span.parent is None


def test_observer_forgets(spans: RecordedSpans) -> None:
    """A process that runs flows forever keeps nothing of those that have ended."""

    @flow
    def inner() -> int:
        return 1

    @flow
    def main() -> None:
        inner()

    main()
    observer = PrefectInstrumentor()._observer
    assert observer is not None
    assert not observer.tracer.active
    assert not observer._subflows


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_ended_runs_hold_no_memory(spans: RecordedSpans, kind: str) -> None:
    """A task's argument and result are freed when the task ends, without garbage collection."""

    class Frame:
        pass

    @task(cache_policy=NO_CACHE)
    def step(_: Frame) -> Frame:
        return Frame()

    @task(cache_policy=NO_CACHE)
    async def async_step(_: Frame) -> Frame:
        return Frame()

    refs: list[weakref.ref[Frame]] = []

    def look(argument: Frame, outcome: Frame) -> None:
        refs.extend((weakref.ref(argument), weakref.ref(outcome)))

    @flow
    def main() -> None:
        for _ in range(3):
            argument = Frame()
            look(argument, step(argument))

    @flow(name="main")
    async def async_main() -> None:
        for _ in range(3):
            argument = Frame()
            look(argument, await async_step(argument))

    gc.collect()
    gc.disable()
    try:
        main() if kind == "sync" else asyncio.run(async_main())
    finally:
        alive = [ref() for ref in refs if ref() is not None]
        gc.enable()
    assert len(refs) == 6
    assert not alive


def test_suspension_of_an_unserved_flow(spans: RecordedSpans) -> None:
    """A run without a final state ends when its engine leaves it, without a result."""

    @flow
    def main() -> None:
        raise Pause

    with pytest.raises(Pause):
        main()
    span = spans.one("RUN main")
    assert result(span) is None
    assert span.status.status_code.name == "UNSET"
    assert not active()
    assert not trace.get_current_span().get_span_context().is_valid


def test_flush_of_an_async_flow_lets_others_run(prefect_server: str) -> None:
    """The event loop continues while the end of an asynchronous flow is exported."""
    flushing, ticked = threading.Event(), threading.Event()
    ticked_meanwhile: list[bool] = []

    class Slow(SpanProcessor):
        def force_flush(self, timeout_millis: int = 30000) -> bool:
            flushing.set()
            ticked_meanwhile.append(ticked.wait(PATIENCE))
            return True

    provider = TracerProvider()
    provider.add_span_processor(Slow())
    flowspan.instrument(tracer_provider=provider)

    @flow
    async def main() -> None:
        pass

    async def watch() -> None:
        ticker = asyncio.ensure_future(tick())
        await main()
        ticker.cancel()

    async def tick() -> None:
        while True:
            await asyncio.sleep(0.01)
            if flushing.is_set():
                ticked.set()

    try:
        asyncio.run(watch())
    finally:
        flowspan.uninstrument()
    assert all(ticked_meanwhile)
    assert ticked_meanwhile


@pytest.fixture
def limited(prefect_server: str) -> Iterator[RecordedSpans]:
    """Record with an application's provider that keeps two links and 40 attributes of a span."""
    limits = SpanLimits(max_links=2, max_span_attributes=40)
    provider, recorded = recording(span_limits=limits)
    flowspan.instrument(tracer_provider=provider)
    yield recorded
    flowspan.uninstrument()


def test_link_limit_of_a_provider(limited: RecordedSpans) -> None:
    """If a provider drops links, those to the upstream runs that ended last stay."""
    may_end = threading.Event()

    @task
    def hold() -> None:
        may_end.wait(60)

    @task
    def step() -> None:
        pass

    @task
    def collect(*_: object) -> None:
        pass

    @flow
    def main() -> None:
        held = hold.submit()
        steps = [step.submit() for _ in range(4)]
        collected = collect.submit(held, *steps)
        for one in steps:
            one.wait()
        may_end.set()
        collected.wait()

    main()
    upstream = [*limited.named("step"), limited.one("hold")]
    ended = sorted(upstream, key=lambda span: span.end_time or 0)
    collect_span = limited.one("collect")
    linked = [link.context.span_id for link in collect_span.links]
    assert linked == [context(span).span_id for span in ended[-2:]]
    assert ended[-1].name == "hold"
    assert attributes(collect_span)[semconv.LINKS_DROPPED] == collect_span.dropped_links == 3
    assert semconv.LINKS_DROPPED not in attributes(limited.one("hold"))


def test_attribute_limit_of_a_provider(limited: RecordedSpans) -> None:
    """If a provider drops attributes, those that say what the run was and how it ended stay."""

    def count(**parameters: int) -> int:
        return len(parameters)

    names = [f"p{number}" for number in range(60)]
    wide = inspect.Signature([inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in names])
    count.__signature__ = wide  # type: ignore[attr-defined]
    flow(name="main", validate_parameters=False)(count)(**dict.fromkeys(names, 1))
    root = limited.one("RUN main")
    told = {key for key in attributes(root) if not key.startswith(semconv.RUN_PARAMETER_PREFIX)}
    assert root.dropped_attributes > 0
    assert told >= {
        *(semconv.FLOW_NAME, semconv.RUN_TYPE, semconv.RUN_ID, semconv.FLOW_RUN_ID),
        *(semconv.PIPELINE_RESULT, semconv.RUN_STATE_NAME, semconv.EXECUTION, semconv.THREAD_ID),
    }
