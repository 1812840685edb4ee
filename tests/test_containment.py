"""flowspan's own errors never reach the user's flow."""

import logging
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from prefect import flow, task
from prefect.exceptions import Abort

import flowspan
from flowspan._containment import Containment
from flowspan.recording.recorder import RunRecorder
from support import RecordedMetrics, RecordedSpans


def test_exceptions_are_swallowed_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Each kind of failure is logged once, and the code after the guard continues."""
    contained = Containment("test")
    for error in (ValueError("first"), ValueError("second"), KeyError("other")):
        with contained:
            raise error
    messages = [r.getMessage() for r in caplog.records if r.name == "flowspan"]
    assert len(messages) == 2
    assert "first" in messages[0]
    assert "other" in messages[1]


def test_control_flow_passes() -> None:
    """Exceptions that are not an `Exception` are Prefect's control flow or the user's, and pass."""
    for signal in (Abort("stop"), KeyboardInterrupt()):
        with pytest.raises(type(signal)), Containment("test"):
            raise signal


def test_failures_are_counted(
    spans: RecordedSpans, metrics: RecordedMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """flowspan.internal.errors counts every failure by component, on the given meter provider."""

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("flowspan's fault")

    monkeypatch.setattr(RunRecorder, "begin_attempt", broken)
    for _ in range(3):
        flow(name="main")(lambda: 1)()
    (point,) = metrics.points("flowspan.internal.errors")
    assert metrics.all["flowspan.internal.errors"].unit == "{error}"
    assert point.value == 3
    assert dict(point.attributes) == {"flowspan.component": "engine"}


METHODS = ["enter_state", "begin_attempt", "begin_execution", "end_execution", "fail", "finish"]


@pytest.mark.parametrize("method", METHODS)
def test_a_broken_recorder_breaks_no_flow(
    spans: RecordedSpans, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If our own code fails, the flow's result and exceptions are still the user's."""

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("flowspan's fault")

    monkeypatch.setattr(RunRecorder, method, broken)

    @task
    def step(x: int) -> int:
        return x + 1

    @task
    def fail() -> None:
        raise KeyError("the user's")

    @flow
    def main() -> int:
        with pytest.raises(KeyError, match="the user's"):
            fail()
        return step(1) + step.submit(2).result()

    assert main() == 5


def test_a_broken_processor_breaks_no_flow(
    prefect_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    """If a user's span processor raises, spans are lost, but the flow runs."""

    class Broken(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            raise RuntimeError("processor")

        def on_end(self, span: ReadableSpan) -> None:
            raise RuntimeError("processor")

    provider = TracerProvider()
    provider.add_span_processor(Broken())
    flowspan.instrument(tracer_provider=provider)
    try:
        with caplog.at_level(logging.WARNING, "flowspan"):
            assert flow(name="main")(lambda: 42)() == 42
    finally:
        flowspan.uninstrument()
