"""Find where a run comes from: its trace, its parent's span, an earlier process of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as context_api
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prefect.telemetry.run_telemetry import LABELS_TRACEPARENT_KEY

from flowspan import semconv
from flowspan._prefect.upstream import names_by_run_id
from flowspan.identity import derive_span_id, derive_trace_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from opentelemetry.context import Context
    from prefect.client.schemas.objects import FlowRun, TaskRun
    from prefect.context import TaskRunContext
    from prefect.telemetry.run_telemetry import RunTelemetry

    from flowspan.recording.recorder import RunRecorder

# The label for a run's remote parent, whose place in Prefect's own label the run's trace parent
# takes; a later process needs it. Like Prefect's, the prefix hides it from users.
PARENT_LABEL: Final = "__FLOWSPAN_PARENT"
# The label of a run whose process says in events which spans it has exported
REPORTS_LABEL: Final = "__FLOWSPAN_REPORTS"

_propagator = TraceContextTextMapPropagator()


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a run comes from: its trace, its parent's span, an earlier process of its own.

    `keep` is the trace parent to keep in a label for a later process of the same run.
    """

    trace_id: int
    parent: Context | None = None
    recorder: RunRecorder | None = None
    previous: SpanContext | None = None
    keep: str | None = None
    is_called: bool = False


def origin_of_root(
    run: FlowRun | TaskRun, replaced: RunTelemetry, environment: Mapping[str, str]
) -> Origin:
    """Return the origin of a run that no other run called: its remote parent, if any.

    `environment` holds ``TRACEPARENT`` if the run is to join the trace that it names.
    """
    run_id = str(run.id)
    # An adopted run may have a span of Prefect's own, which ours replaces. That is the current
    # span, and its ids are in the label.
    is_begun = replaced.span is not None
    remote = parse_traceparent(run.labels.get(LABELS_TRACEPARENT_KEY))
    if is_begun:
        remote = getattr(replaced.span, "parent", None)
    own_ids = {derive_span_id(run_id, count) for count in range(run.run_count + 1)}
    if remote is not None and remote.span_id in own_ids:
        # An earlier process of this run has overwritten its parent's label.
        kept = run.labels.get(PARENT_LABEL)
        parent = parse_traceparent(kept)
        return Origin(
            remote.trace_id,
            as_parent(parent) if parent else None,
            previous=remote,
            keep=str(kept) if kept else None,
        )
    if remote is not None:
        return Origin(remote.trace_id, as_parent(remote), keep=format_traceparent(remote))
    current = get_current_span().get_span_context()
    if current.is_valid and not is_begun:
        return Origin(current.trace_id, context_api.get_current(), keep=format_traceparent(current))
    if (inherited := parse_traceparent(environment.get("TRACEPARENT"))) is not None:
        keep = format_traceparent(inherited)
        return Origin(inherited.trace_id, as_parent(inherited), keep=keep)
    return Origin(derive_trace_id(run_id))


def calling_task_run(run: TaskRun, around: TaskRunContext | None) -> str | None:
    """Return the task run that called this one, if it was not the flow itself.

    `around` is the context of the task run that the calling code is in.
    """
    parents: Iterable[Any] = run.task_inputs.get("__parents__", ())
    candidates = {str(parent.id) for parent in parents}
    caller = str(around.task_run.id) if around is not None else None
    if caller in candidates:
        return caller
    # Prefect also lists an upstream run that is still running as a parent. A process pool gets
    # the calling context only now, so there the caller is the parent that is not upstream.
    upstream = names_by_run_id(run.task_inputs, {})
    return next(iter(candidates - upstream.keys()), None)


def origin_below(
    caller_id: str, caller: RunRecorder | None, label: object | None, *, is_task: bool = False
) -> Origin:
    """Return an origin below the calling run, whose recorder is known or whose trace by `label`.

    The label is that of a run in the caller's trace. The span id of a calling task run is derived.
    """
    if caller is not None:
        parent = set_span_in_context(caller.span)
        return Origin(caller.span_context.trace_id, parent, caller, is_called=True)
    remote = parse_traceparent(label)
    if remote is None:
        return Origin(derive_trace_id(caller_id), is_called=True)
    if is_task:
        remote = remote_context(remote.trace_id, derive_span_id(caller_id), remote.trace_flags)
    return Origin(remote.trace_id, as_parent(remote), is_called=True)


def links_of(
    origin: Origin, upstream: Mapping[str, list[str]], flags: TraceFlags
) -> Iterator[Link]:
    for run_id, names in upstream.items():
        yield Link(
            remote_context(origin.trace_id, derive_span_id(run_id), flags),
            {semconv.LINK_TYPE: semconv.LINK_DEPENDENCY, semconv.INPUT_NAME: ",".join(names)},
        )
    if origin.previous is not None:
        yield Link(origin.previous, {semconv.LINK_TYPE: semconv.LINK_PREVIOUS_ATTEMPT})


def format_traceparent(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def parse_traceparent(traceparent: object | None) -> SpanContext | None:
    if not isinstance(traceparent, str):
        return None
    extracted = _propagator.extract({"traceparent": traceparent}, context=context_api.Context())
    context = get_current_span(extracted).get_span_context()
    return context if context.is_valid else None


def remote_context(trace_id: int, span_id: int, flags: TraceFlags) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=flags)


def as_parent(context: SpanContext) -> Context:
    return set_span_in_context(NonRecordingSpan(context))
