"""What the analysis of a trace asks of a span: its attributes, read once and typed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from flowspan import semconv

if TYPE_CHECKING:
    from collections.abc import Mapping


class Facts(msgspec.Struct, frozen=True, gc=False):
    """What a span tells of the run that it is about; durations in nanoseconds, 0 if absent.

    `run_type` is ``flow``, ``task``, or None where the span is no run's; `execution` is None where
    the span does not tell it; `lane` names the worker thread, and is None where it is not known.
    """

    run_type: str | None = None
    run_id: str | None = None
    run_name: str | None = None
    run_count: int = 1
    attempt: int | None = None
    flow_name: str | None = None
    task_name: str | None = None
    flow_run_id: str | None = None
    deployment_name: str | None = None
    state_type: str | None = None
    state_name: str | None = None
    result: str | None = None
    error_type: str | None = None
    is_cached: bool = False
    tags: tuple[str, ...] = ()
    lane: str | None = None
    rows_input: int | None = None
    rows_output: int | None = None
    late: int = 0
    infrastructure: int = 0
    queue: int = 0
    dependencies: int = 0
    concurrency: int = 0
    retry: int = 0
    pause: int = 0
    execution: int | None = None
    orchestration: int = 0


def facts_of(attributes: Mapping[str, Any]) -> Facts:
    """Read the facts that a span's attributes tell; what is absent or absurd has its default."""
    text, number = _text, _count
    get = attributes.get
    result = get(semconv.PIPELINE_TASK_RESULT, get(semconv.PIPELINE_RESULT))
    tags = get(semconv.TAGS)
    return Facts(
        run_type=text(get(semconv.RUN_TYPE)),
        run_id=text(get(semconv.RUN_ID)),
        run_name=text(get(semconv.RUN_NAME)),
        run_count=number(get(semconv.RUN_COUNT)) or 1,
        attempt=number(get(semconv.ATTEMPT)),
        flow_name=text(get(semconv.FLOW_NAME)),
        task_name=text(get(semconv.TASK_NAME)),
        flow_run_id=text(get(semconv.FLOW_RUN_ID)),
        deployment_name=text(get(semconv.DEPLOYMENT_NAME)),
        state_type=text(get(semconv.RUN_STATE_TYPE)),
        state_name=text(get(semconv.RUN_STATE_NAME)),
        result=text(result),
        error_type=text(get(semconv.ERROR_TYPE)),
        is_cached=get(semconv.TASK_CACHED) is True,
        tags=tuple(map(str, tags)) if isinstance(tags, list) else (),
        lane=text(get("thread.id")),
        rows_input=number(get(semconv.ROWS_INPUT)),
        rows_output=number(get(semconv.ROWS_OUTPUT)),
        late=_nanoseconds(get(semconv.WAIT_LATE)) or 0,
        infrastructure=_nanoseconds(get(semconv.WAIT_INFRASTRUCTURE)) or 0,
        queue=_nanoseconds(get(semconv.WAIT_QUEUE)) or 0,
        dependencies=_nanoseconds(get(semconv.WAIT_DEPENDENCIES)) or 0,
        concurrency=_nanoseconds(get(semconv.WAIT_CONCURRENCY)) or 0,
        retry=_nanoseconds(get(semconv.WAIT_RETRY)) or 0,
        pause=_nanoseconds(get(semconv.WAIT_PAUSE)) or 0,
        execution=_nanoseconds(get(semconv.EXECUTION)),
        orchestration=_nanoseconds(get(semconv.ORCHESTRATION)) or 0,
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _nanoseconds(seconds: object) -> int | None:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        return None
    nanoseconds = seconds * 1e9
    return round(nanoseconds) if math.isfinite(nanoseconds) and nanoseconds >= 0 else None
