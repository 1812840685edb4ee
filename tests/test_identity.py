"""Derived ids: the same everywhere, uniform enough for samplers, and only for our spans."""

import shutil
import subprocess
import uuid

import pytest
from opentelemetry import propagate
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased
from prefect import flow, task
from prefect._internal.uuid7 import uuid7
from prefect.client.orchestration import get_client
from prefect.client.schemas.sorting import FlowRunSort

import flowspan
from flowspan import semconv
from flowspan.identity import derive_attempt_span_id, derive_span_id, derive_trace_id
from support import RecordedSpans, attributes, context

RUN_ID = "0190a5c8-7f3e-7c1a-9b2d-1234567890ab"


def test_ids_never_change() -> None:
    """The ids of a run never change between releases, since links and URLs rely on them."""
    assert f"{derive_trace_id(RUN_ID):032x}" == "eebdd42e060895e30eb67c1806277459"
    assert f"{derive_span_id(RUN_ID):016x}" == "b3e2dd44ff5f456e"
    assert f"{derive_span_id(RUN_ID, 1):016x}" == "493c4828e145a100"
    assert f"{derive_attempt_span_id(RUN_ID, 1):016x}" == "ae40941cdb0f3742"


@pytest.mark.skipif(shutil.which("b2sum") is None, reason="b2sum of GNU coreutils is not here")
def test_a_shell_can_derive_a_trace_id() -> None:
    """b2sum computes the trace id of a flow run id."""
    digest = subprocess.run(
        ["b2sum", "-l", "128"], input=RUN_ID.encode(), capture_output=True, check=True
    ).stdout.split()[0]
    assert digest.decode() == f"{derive_trace_id(RUN_ID):032x}"


def test_ids_differ_between_runs_attempts_and_processes() -> None:
    """No two spans of a run share an id."""
    ids = {derive_span_id(RUN_ID, count) for count in range(5)}
    ids |= {derive_attempt_span_id(RUN_ID, attempt) for attempt in range(1, 5)}
    assert len(ids) == 9
    assert 0 not in ids


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.75])
def test_ratio_samplers_see_uniform_ids(ratio: float) -> None:
    """Derived trace ids are sampled at the given ratio, unlike Prefect's own UUIDs."""
    sampler = TraceIdRatioBased(ratio)
    ids = [uuid7() for _ in range(4000)]

    def share(trace_ids: list[int]) -> float:
        decisions = [sampler.should_sample(None, i, "").decision for i in trace_ids]
        return decisions.count(Decision.RECORD_AND_SAMPLE) / len(decisions)

    assert abs(share([derive_trace_id(str(i)) for i in ids]) - ratio) < 0.05
    assert abs(share([i.int for i in ids]) - ratio) > 0.05


def test_the_low_56_bits_are_uniform() -> None:
    """Each bit that the random-trace-id flag vouches for is set in half of all trace ids."""
    ids = [derive_trace_id(str(uuid7())) for _ in range(4000)]
    shares = [sum(i >> bit & 1 for i in ids) / len(ids) for bit in range(56)]
    assert all(abs(share - 0.5) < 0.05 for share in shares)  # six standard deviations


def test_trace_ids_are_declared_random(
    spans: RecordedSpans, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trace with a derived id has the random-trace-id flag; one that a run joins keeps its own.

    https://www.w3.org/TR/trace-context-2/#random-trace-id-flag
    """
    told: list[str] = []

    @task(retries=1)
    def step() -> None:
        headers: dict[str, str] = {}
        propagate.inject(headers)
        told.append(headers["traceparent"])

    main = flow(name="main")(lambda: step.submit().wait())
    main()
    assert {context(span).trace_flags for span in spans.all} == {0x03}
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(limit=1, sort=FlowRunSort.START_TIME_DESC)
    told.append(str(run.labels["__OTEL_TRACEPARENT"]))
    assert [text[-3:] for text in told] == ["-03", "-03"]
    spans.clear()
    monkeypatch.setenv("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    main()
    assert {context(span).trace_flags for span in spans.all} == {0x01}


def test_only_our_spans_have_derived_ids(spans: RecordedSpans) -> None:
    """Other spans of the same provider keep the ids of its own generator."""
    tracer = spans.provider.get_tracer("user")

    @task
    def step() -> None:
        with tracer.start_as_current_span("users"):
            pass

    flow(name="main")(lambda: step())()
    users, run = spans.one("users"), spans.one("step")
    run_ids = {attributes(span)[semconv.RUN_ID] for span in spans.runs}
    assert context(users).trace_id == context(run).trace_id
    assert context(users).span_id not in {derive_span_id(run_id) for run_id in run_ids}
    assert users.parent is not None
    assert users.parent.span_id == context(run).span_id


def test_a_provider_without_id_generators_is_left_alone(prefect_server: str) -> None:
    """With a tracer that is not the SDK's, flows run and spans keep that tracer's ids."""
    from opentelemetry.trace import NoOpTracerProvider

    flowspan.instrument(tracer_provider=NoOpTracerProvider())
    try:
        assert flow(name="main")(lambda: 42)() == 42
    finally:
        flowspan.uninstrument()


def test_trace_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """The URL of a flow run's trace is computed from its id alone."""
    assert flowspan.trace_url(RUN_ID) is None
    monkeypatch.setenv("FLOWSPAN_TRACE_URL", "http://localhost:16686/trace/{trace_id}")
    expected = f"http://localhost:16686/trace/{derive_trace_id(RUN_ID):032x}"
    assert flowspan.trace_url(RUN_ID) == expected
    assert flowspan.trace_url(uuid.UUID(RUN_ID)) == expected


def test_provider_of_the_application(prefect_server: str) -> None:
    """Spans go to the given provider, not to the global one."""
    provider = TracerProvider()
    flowspan.instrument(tracer_provider=provider)
    try:
        assert flowspan.PrefectInstrumentor().provider is provider
    finally:
        flowspan.uninstrument()
