"""Write a list of flow runs as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from flowspan.text import SECOND

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowspan.analysis.flow_runs import FlowRun


def to_json(runs: Iterable[FlowRun]) -> bytes:
    """Return the list of runs that docs/json.md describes, in the given order."""
    option = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps([_run(run) for run in runs], option=option)


def _run(run: FlowRun) -> dict[str, Any]:
    task, caller = run.bottleneck, run.caller
    return {
        "run_id": run.run_id,
        "trace_id": run.trace_id,
        "flow": run.flow,
        "name": run.name,
        "called_by": None
        if caller is None
        else {"run_id": caller.run_id, "flow": caller.flow, "name": caller.name},
        "start": run.start,
        "end": run.end,
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
