"""instrument() in all places: modules, running flows, with and without a provider."""

import asyncio
import logging
import subprocess
import sys
import time
from typing import Any

import pydantic
import pytest
from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, Sampler, SamplingResult
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY, temporary_settings

import flowspan
from clocks import Timed
from flowspan import semconv
from flowspan.identity import derive_span_id, derive_trace_id
from flowspan.settings import Settings
from reconcile import reconcile
from support import RecordedSpans, attributes, context, result, seconds, states


@task
def step(x: int = 0) -> int:
    return x + 1


def test_public_names() -> None:
    """The package offers exactly the names in its __all__."""
    assert sorted(flowspan.__all__) == [
        "PrefectInstrumentor",
        "__version__",
        "flush",
        "instrument",
        "record_metric",
        "record_rows",
        "register_rows",
        "trace_url",
        "uninstrument",
    ]
    for name in flowspan.__all__:
        assert getattr(flowspan, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = flowspan.nothing


def test_entry_point() -> None:
    """opentelemetry-instrument finds flowspan under the name prefect."""
    from importlib.metadata import entry_points

    (entry,) = entry_points(group="opentelemetry_instrumentor", name="prefect")
    assert entry.load() is flowspan.PrefectInstrumentor


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_adoption_of_a_running_flow(
    prefect_server: str, kind: str, monkeypatch: pytest.MonkeyPatch, *, native: bool
) -> None:
    """instrument() in the first line of a running flow records that run with its real start."""
    provider = TracerProvider()
    spans = RecordedSpans(provider)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    # With a global provider Prefect has started its own span, which must not stay the parent.
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider if native else None)
    before = context_api.get_current()
    slept = Timed()
    if kind == "sync":

        @flow
        def main() -> int:
            with slept:
                time.sleep(0.2)
            flowspan.instrument(tracer_provider=provider)
            return step(1)

        run: Any = main
    else:

        @flow(name="main")
        async def async_main() -> int:
            with slept:
                await asyncio.sleep(0.2)
            flowspan.instrument(tracer_provider=provider)
            return step(1)

        run = lambda: asyncio.run(async_main())  # noqa: E731
    try:
        assert run() == 2
    finally:
        flowspan.uninstrument()
    assert spans.tree().splitlines() == ["RUN main", "  step"]
    root = spans.one("RUN main")
    assert result(root) == "success"
    assert seconds(root) > attributes(root)[semconv.EXECUTION] > slept.seconds
    run_id = attributes(root)[semconv.RUN_ID]
    assert context(root).trace_id == derive_trace_id(run_id)
    assert root.parent is None
    assert root.kind.name == "SERVER"
    assert reconcile(spans.all, run_id, apart_from="states are") == []
    assert states(root) == ["Running", "Completed"]
    assert context_api.get_current() == before


def test_adoption_of_a_flow_that_fails(prefect_server: str) -> None:
    """An adopted flow that is retried and fails ends once, at the end, as a failure."""
    provider = TracerProvider()
    spans = RecordedSpans(provider)
    provider.add_span_processor(SimpleSpanProcessor(spans))

    @flow(retries=1)
    def main() -> None:
        flowspan.instrument(tracer_provider=provider)
        raise ValueError("no")

    try:
        with pytest.raises(ValueError, match="no"):
            main()
    finally:
        flowspan.uninstrument()
    assert spans.tree().splitlines() == ["RUN main", "  attempt 1", "  attempt 2"]
    assert result(spans.one("RUN main")) == "failure"


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_prefects_own_spans_are_replaced(spans: RecordedSpans, kind: str, *, enabled: bool) -> None:
    """Each run has one span, even if Prefect would make its own, and Prefect's label is written."""
    trace_provider = spans.provider
    previous = trace._TRACER_PROVIDER
    trace._TRACER_PROVIDER = trace_provider  # where Prefect's own telemetry would send its spans
    try:
        with temporary_settings({PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY: enabled}):
            if kind == "sync":

                @flow
                def main() -> Any:
                    future = step.submit(1000)
                    return step(future.result()) + step.submit(future).result()

                main()
            else:

                @flow(name="main")
                async def async_main() -> Any:
                    future = step.submit(1000)
                    return step(future.result()) + step.submit(future).result()

                asyncio.run(async_main())
    finally:
        trace._TRACER_PROVIDER = previous
    assert spans.tree().splitlines() == ["RUN main", "  step", "  step", "  step"]
    root = spans.one("RUN main")
    run_id = attributes(root)[semconv.RUN_ID]
    with get_client(sync_client=True) as client:
        label = client.read_flow_run(run_id).labels["__OTEL_TRACEPARENT"]
    assert label == f"00-{context(root).trace_id:032x}-{context(root).span_id:016x}-03"
    assert reconcile(spans.all, run_id) == []


def test_other_instrumentations_nest(spans: RecordedSpans) -> None:
    """Spans of httpx, SQLAlchemy and the user are children of the run or attempt that made them."""
    import httpx
    import sqlalchemy
    from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
    from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor

    from sinks import http_sink

    HTTPXClientInstrumentor().instrument(tracer_provider=spans.provider)
    engine = sqlalchemy.create_engine("sqlite://")
    SQLAlchemyInstrumentor().instrument(
        engine=engine,
        tracer_provider=spans.provider,
        skip_dep_check=True,  # it has not been released for SQLAlchemy 2.1 yet
    )
    tracer = spans.provider.get_tracer("user")

    @task(retries=1)
    def query(attempts: list[int]) -> None:
        attempts.append(1)
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT 1"))
        if len(attempts) == 1:
            raise ConnectionError

    @flow
    def main() -> None:
        with http_sink() as sink:
            httpx.post(f"{sink.endpoint}/v1/traces", content=b"", timeout=5)
        with tracer.start_as_current_span("users"):
            query([])

    try:
        main()
    finally:
        HTTPXClientInstrumentor().uninstrument()
        SQLAlchemyInstrumentor().uninstrument()
    for number in (1, 2):
        (attempt,) = spans.named(f"attempt {number}")
        assert "SELECT" in {child.name.split()[0] for child in spans.children(attempt)}
    run = spans.one("query")
    assert run.parent is not None
    assert run.parent.span_id == context(spans.one("RUN main")).span_id
    children = {child.name for child in spans.children(spans.one("RUN main"))}
    assert {"users", "query", "POST"} <= children


def test_remote_parents(spans: RecordedSpans, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRACEPARENT or a span around the call gives the trace id; the span id stays derived."""
    remote_trace, remote_span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    monkeypatch.setenv("TRACEPARENT", f"00-{remote_trace}-{remote_span}-01")

    @flow
    def first() -> int:
        return step(1)

    first()
    monkeypatch.delenv("TRACEPARENT")
    root = spans.one("RUN first")
    assert f"{context(root).trace_id:032x}" == remote_trace
    assert root.parent is not None
    assert f"{root.parent.span_id:016x}" == remote_span
    assert root.parent.is_remote
    assert context(root).span_id == derive_span_id(attributes(root)[semconv.RUN_ID])
    assert context(spans.one("step")).trace_id == context(root).trace_id
    spans.clear()
    with spans.provider.get_tracer("user").start_as_current_span("request") as request:
        first()
    root = spans.one("RUN first")
    assert root.parent is not None
    assert root.parent.span_id == request.get_span_context().span_id
    assert root.kind.name == "SERVER"


def test_malformed_traceparent_is_ignored(
    spans: RecordedSpans, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a malformed TRACEPARENT, the run is a root."""
    monkeypatch.setenv("TRACEPARENT", "nonsense")
    flow(name="main")(lambda: 1)()
    assert spans.one("RUN main").parent is None


def test_trace_url_of_a_run_with_a_remote_parent(
    prefect_server: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The URL in the run's log names the trace that the run is really in."""
    monkeypatch.setenv("FLOWSPAN_TRACE_URL", "http://localhost:16686/trace/{trace_id}")
    provider = TracerProvider()
    spans = RecordedSpans(provider)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    flowspan.instrument(tracer_provider=provider)
    caplog.set_level(logging.INFO, "prefect.flow_runs")
    try:
        with provider.get_tracer("user").start_as_current_span("request"):
            flow(name="main")(lambda: step())()
        root = spans.one("RUN main")
        expected = f"http://localhost:16686/trace/{context(root).trace_id:032x}"
        assert flowspan.trace_url(attributes(root)[semconv.RUN_ID]) == expected
    finally:
        flowspan.uninstrument()
    assert [r.getMessage() for r in caplog.records if "Trace:" in r.getMessage()] == [
        f"Trace: {expected}"
    ]


class _SeenBySampler(Sampler):
    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def should_sample(self, parent_context, trace_id, name, kind=None, attributes=None, *_, **__):  # type: ignore[no-untyped-def]
        self.seen.append((name, dict(attributes or {})))
        return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)

    def get_description(self) -> str:
        return "seen"


def test_samplers_see_names_and_few_attributes(prefect_server: str) -> None:
    """A sampler can decide by flow, task and type of run."""
    sampler = _SeenBySampler()
    flowspan.instrument(tracer_provider=TracerProvider(sampler=sampler))
    try:
        flow(name="main")(lambda: step())()
    finally:
        flowspan.uninstrument()
    (flow_name, of_flow), (task_name, of_task) = sampler.seen
    assert (flow_name, task_name) == ("RUN main", "step")
    assert of_flow[semconv.FLOW_NAME] == of_task[semconv.FLOW_NAME] == "main"
    assert of_task[semconv.TASK_NAME] == "step"
    assert (of_flow[semconv.RUN_TYPE], of_task[semconv.RUN_TYPE]) == ("flow", "task")


def test_unsampled_runs_build_no_attributes(
    prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a trace is not sampled, its runs have ids, but nothing describes them."""
    from flowspan._prefect.description import Description

    def unwanted(*_: Any) -> Any:
        raise AssertionError("described")

    monkeypatch.setattr(Description, "attributes", unwanted)
    seen: list[int] = []

    @flow
    def main() -> None:
        seen.append(trace.get_current_span().get_span_context().trace_id)
        step.submit(1).wait()

    flowspan.instrument(tracer_provider=TracerProvider(sampler=ALWAYS_OFF))
    try:
        state = main(return_state=True)
    finally:
        flowspan.uninstrument()
    assert seen == [derive_trace_id(str(state.state_details.flow_run_id))]


def test_captured_parameters(prefect_server: str) -> None:
    """Spans have values of parameters only on request, cut and with secrets masked."""
    provider = TracerProvider()
    spans = RecordedSpans(provider)
    provider.add_span_processor(SimpleSpanProcessor(spans))

    @task
    def load(url: str, password: str, options: dict[str, Any], rows: list[int]) -> None:
        pass

    @flow
    def main() -> None:
        load("postgresql://me:hidden@db/x", "hidden", {"api_key": "hidden", "n": 1}, [1] * 500)

    flowspan.instrument(tracer_provider=provider, settings=Settings(capture_parameters="values"))
    try:
        main()
    finally:
        flowspan.uninstrument()
    a = attributes(spans.one("load"))
    assert a["prefect.run.parameter.url"] == "postgresql://[redacted]@db/x"
    assert a["prefect.run.parameter.password"] == "[redacted]"
    assert a["prefect.run.parameter.options"] == "{'api_key': '[redacted]', 'n': 1}"
    assert len(a["prefect.run.parameter.rows"]) == 256
    assert not [value for value in a.values() if "hidden" in str(value)]


def test_secrets_in_failures(spans: RecordedSpans) -> None:
    """Credentials in exceptions and state messages are masked on spans."""
    secret = "hunter" + "2"  # in two parts, because stack traces show this test

    @task(retries=1)
    def load() -> None:
        try:
            raise OSError(f"refused by postgresql://me:{secret}@db/x")
        except OSError as error:
            raise ValueError(f"cannot load with password={secret}") from error

    with pytest.raises(ValueError, match=secret):
        flow(name="main")(lambda: load())()
    told = [
        (attributes(span), [event.attributes for event in span.events], span.status.description)
        for span in spans.all
    ]
    assert len(told) == 4
    assert "password=[redacted]" in str(told)
    assert secret not in str(told)


@pytest.mark.parametrize("variable", ["FLOWSPAN_ENABLED=false", "OTEL_SDK_DISABLED=true"])
def test_switched_off(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """If switched off, flowspan patches nothing, and everything can still be called."""
    monkeypatch.setenv(*variable.split("="))
    flowspan.instrument()
    try:
        assert flowspan.PrefectInstrumentor().patched == []
        assert flowspan.flush()
    finally:
        flowspan.uninstrument()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FLOWSPAN_FLUSH_TIMEOUT", "soon"),
        ("FLOWSPAN_CAPTURE_PARAMETERS", "all"),
        ("FLOWSPAN_FILE_MAX_BYTES", "0"),
        ("FLOWSPAN_ENABELD", "false"),
    ],
)
def test_bad_settings_are_loud(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """instrument() raises for a bad value or a misspelt variable, and patches nothing."""
    monkeypatch.setenv(name, value)
    with pytest.raises(pydantic.ValidationError, match=name.removeprefix("FLOWSPAN_").lower()):
        flowspan.instrument()
    assert flowspan.PrefectInstrumentor().patched == []


def test_a_provider_that_is_none_is_loud() -> None:
    """instrument() raises for something that is not a provider, and says what to do."""
    with pytest.raises(TypeError, match="Leave it out"):
        flowspan.instrument(tracer_provider="jaeger")
    assert flowspan.PrefectInstrumentor().patched == []


def test_importing_is_light() -> None:
    """Importing flowspan imports neither Prefect nor the SDK; instrument() does."""
    heavy = ("prefect", "opentelemetry.sdk")
    code = f"import sys, flowspan; print([name for name in {heavy} if name in sys.modules])"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert printed.strip() == "[]"
