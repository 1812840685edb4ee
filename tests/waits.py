"""What the flow of tests/flows/waiting.py waits for, which is the same under each task runner."""

from pathlib import Path

from opentelemetry.sdk.trace import ReadableSpan

from flowspan import semconv
from flowspan.analysis.one_trace import analyse
from flowspan.read import trace_files
from processes import environment, run_script
from reconcile import reconcile
from support import RecordedSpans, attributes, context, embedded_spans

_SECOND = 1_000_000_000


def assert_waits(folder: Path, runner: str) -> None:
    """Run the flow under a task runner; record in `folder`."""
    done = run_script("waiting.py", runner, env=environment(folder))
    assert done.returncode == 0, done.stderr
    spans = embedded_spans(folder)
    (root,) = (span for span in spans.all if span.name == "RUN waiting")
    first, second = spans.named("slow")
    _assert_waited_for(first, spans, "uses", "value")
    _assert_waited_for(second, spans, "follows", "wait_for")
    depending = {span.name for span in spans.all if semconv.WAIT_DEPENDENCIES in attributes(span)}
    assert depending == {"uses", "follows"}
    assert attributes(spans.one("retried"))[semconv.WAIT_RETRY] > 0.2
    # Two workers take two of the four at once; the others wait for these.
    queues = sorted(attributes(span).get(semconv.WAIT_QUEUE, 0.0) for span in spans.named("mapped"))
    assert queues[2] > 0.2, queues
    assert reconcile(spans.all, attributes(root)[semconv.RUN_ID]) == []
    _assert_analysed(folder)
    _assert_rows(spans, runner)


def _assert_rows(spans: RecordedSpans, runner: str) -> None:
    """Assert that each run shows its rows, and that the flow shows the right number or none."""
    subflow = attributes(spans.one("RUN below"))
    assert subflow[semconv.ROWS_OUTPUT] == 20
    assert [attributes(span)[semconv.ROWS_OUTPUT] for span in spans.named("halved")] == [20, 10]
    root = attributes(spans.one("RUN waiting"))
    assert root.get(semconv.ROWS_OUTPUT) == (10 if runner == "thread" else None)


def _assert_waited_for(
    upstream: ReadableSpan, spans: RecordedSpans, name: str, input_name: str
) -> None:
    span = spans.one(name)
    (link,) = span.links
    assert link.context.span_id == context(upstream).span_id
    assert (link.attributes or {})[semconv.INPUT_NAME] == input_name
    assert upstream.end_time is not None
    assert span.start_time is not None
    # A run id has milliseconds, and shorter waits are left out.
    assert upstream.end_time > _submitted(span) > _submitted(upstream) - 0.005 * _SECOND
    waited = attributes(span)[semconv.WAIT_DEPENDENCIES]
    # Both were submitted one right after the other.
    since = (upstream.end_time - _submitted(upstream)) / _SECOND
    queued = attributes(span).get(semconv.WAIT_QUEUE, 0.0)
    # Until the upstream run ended, there was nothing else to do but to wait for a worker.
    assert (upstream.end_time - _submitted(span)) / _SECOND - 0.01 < waited + queued
    assert 0.5 < waited < since + 0.5
    if semconv.TASK_RUNNER_DEPENDENCIES in attributes(span):
        # The wait for a worker follows that for the upstream run.
        assert span.start_time - queued * _SECOND < upstream.end_time + 0.01 * _SECOND


def _submitted(span: ReadableSpan) -> float:
    """Return when a run was submitted, in nanoseconds since the epoch."""
    assert span.start_time is not None
    a = attributes(span)
    before: float = a.get(semconv.TASK_RUNNER_DEPENDENCIES, 0.0) + a.get(semconv.WAIT_QUEUE, 0.0)
    return span.start_time - before * _SECOND


def _assert_analysed(folder: Path) -> None:
    """Assert that the critical path follows the waits, and what-if counts on them."""
    found = {task.name: task for task in analyse(trace_files.load(folder).spans).tasks}
    slow = found["slow"]
    assert slow.path > 1.5 * _SECOND
    assert slow.saved is not None
    assert slow.saved > 0.75 * _SECOND
