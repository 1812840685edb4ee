"""The heart of the product: telemetry matches Prefect's API, whatever a flow does."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

import flowspan
from flowspan import semconv
from flowspan.recording import heartbeat
from flowspan.settings import Settings
from random_flows import Program, examples, programs, run
from reconcile import Totals, reconcile
from support import RecordedLogs, RecordedMetrics, RecordedSpans, attributes, context

# The same flows each time, so that only changes matter; set FIDELITY_EXAMPLES to search further.
EXAMPLES = os.environ.get("FIDELITY_EXAMPLES")


@settings(
    max_examples=int(EXAMPLES or 25),
    derandomize=EXAMPLES is None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, *([Phase.shrink] if EXAMPLES else [])],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    print_blob=True,
)
@given(program=programs)
def test_telemetry_is_true_to_the_api(
    spans: RecordedSpans, metrics: RecordedMetrics, program: Program
) -> None:
    """Every run in the API has one span with its state, parent, upstream runs, events and times.

    Metrics have the same runs by state, the same retries, and the same time in Running states.
    """
    spans.clear()
    before = Totals.of(metrics)
    run(program)
    totals = Totals.of(metrics).since(before)
    run_id = attributes(spans.one("RUN main"))[semconv.RUN_ID]
    differences = reconcile(spans.all, run_id, totals=totals)
    assert not differences, "\n".join(differences)


@pytest.fixture
def reports(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[RecordedLogs]:
    """Let the heartbeat be busy, and report all but the shortest task runs."""
    monkeypatch.setattr(heartbeat, "_LOOK", 0.01)
    monkeypatch.setattr(heartbeat, "_PAUSE", 0.02)
    yield RecordedLogs()
    flowspan.uninstrument()


def test_reports_are_true_to_the_spans_that_follow(reports: RecordedLogs) -> None:
    """Each report of an open run has the ids, parent, start and names of the run's span.

    Reporting changes nothing about the spans.
    """
    spans = RecordedSpans(TracerProvider())
    spans.provider.add_span_processor(SimpleSpanProcessor(spans))
    flowspan.instrument(
        tracer_provider=spans.provider,
        logger_provider=reports.provider,
        settings=Settings(heartbeat=0.05),
    )
    for program in examples(4):
        run(program)
    mains = [attributes(main)[semconv.RUN_ID] for main in spans.named("RUN main")]
    differences = reconcile(spans.all, *mains)
    assert not differences, "\n".join(differences)
    by_id = {context(span).span_id: span for span in spans.runs}
    assert len({report.span_id for report in reports.reports}) > len(mains)
    names = (semconv.RUN_ID, semconv.RUN_TYPE, semconv.FLOW_NAME, semconv.TASK_NAME)
    for report in reports.reports:
        told, span = report.attributes or {}, by_id[report.span_id or 0]
        assert report.trace_id == context(span).trace_id
        assert told[semconv.RUN_START] == span.start_time
        parent = f"{span.parent.span_id:016x}" if span.parent is not None else None
        assert told.get(semconv.RUN_PARENT_SPAN_ID) == parent
        assert [told.get(name) for name in names] == [attributes(span).get(name) for name in names]
