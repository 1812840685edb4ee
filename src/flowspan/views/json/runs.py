"""Write a list of flow runs as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from flowspan.text import SECOND

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowspan.analysis.flow_runs import FlowRun
    from flowspan.read.span import Span


def to_json(runs: Iterable[FlowRun]) -> bytes:
    """Return the list of runs that docs/json.md describes, in the given order."""
    option = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps([_run(run) for run in runs], option=option)


def called_by(caller: Span | None) -> dict[str, Any] | None:
    """Return the names and the id of the flow run that called another one."""
    if caller is None:
        return None
    known = caller.facts
    return {"run_id": known.run_id, "flow": known.flow_name, "name": known.run_name}


def _run(run: FlowRun) -> dict[str, Any]:
    task = run.bottleneck
    return {
        "run_id": run.run_id,
        "trace_id": run.trace_id,
        "flow": run.flow,
        "name": run.name,
        "called_by": called_by(run.caller),
        "start": run.start,
        "end": run.end if run.last_seen is None else None,
        "last_seen": run.last_seen,
        "duration": run.duration / SECOND,
        "result": run.result,
        "state": run.state,
        "bottleneck": None
        if task is None
        else {
            "name": task.name,
            "type": task.type,
            "share": task.share,
            "cause": task.cause,
        },
        "violations": list(run.broken),
        "rows": run.rows_output,
        "tags": list(run.tags),
    }
