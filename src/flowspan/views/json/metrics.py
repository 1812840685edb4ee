"""Write the report of ``flowspan metrics`` as JSON."""

import json
from collections.abc import Mapping
from typing import Any, Final

from flowspan.analysis.run_metrics import FlowRuns, Report, Runs
from flowspan.read import otlp_json as otlp
from flowspan.read.distribution import Distribution

VERSION: Final = 1
"""Version of the document. It goes up if a key changes or disappears, not if one is added."""

_DIGITS: Final = 9  # nanoseconds


def to_json(report: Report) -> str:
    """Write a report as the documented JSON document.

    ``{"version": 1, "start", "end", "flows": [{"name", "runs", "results", "states",
    "success_rate", "duration", "waits", "retries", "retried_errors", "rows", "errors",
    "violations", "tasks"}], "metrics": [{"name", "flow", "task", "attributes", "value", "unit",
    "time"}]}``: tasks have what flows
    have, without violations and tasks. Times are integer nanoseconds since the epoch, durations
    seconds, counts integers. ``name`` is null for the flow of tasks that ran outside of any flow,
    ``success_rate`` a share from 0 to 1, ``duration`` ``{"count", "total", "p50", "p95", "max"}``,
    ``waits`` the same by kind of wait, ``rows`` ``{"output", "input"}``. Unknown values are null.
    ``results``, ``states``, ``retried_errors``, ``errors`` and ``violations`` are counts by name;
    see `Runs` for their meaning. Flows and tasks with the most total time come first. Values that
    JSON lacks are the texts "NaN", "Infinity" and "-Infinity".
    """
    document = {
        "version": VERSION,
        "start": report.start,
        "end": report.end,
        "flows": [_plain_flow(flow) for flow in report.flows],
        "metrics": [
            {
                "name": metric.name,
                "flow": metric.flow,
                "task": metric.task,
                "attributes": otlp.plain(metric.attributes),
                "value": otlp.plain(metric.value),
                "unit": metric.unit,
                "time": metric.time,
            }
            for metric in report.metrics
        ],
    }
    # Counts in a damaged file may add up to more than the 64 bits that orjson writes.
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _plain_flow(flow: FlowRuns) -> dict[str, Any]:
    return _plain_runs(flow) | {
        "violations": _by_name(flow.violations),
        "tasks": [_plain_runs(task) for task in flow.tasks.values()],
    }


def _plain_runs(runs: Runs) -> dict[str, Any]:
    return {
        "name": runs.name,
        "runs": runs.count,
        "results": _by_name(runs.results),
        "states": _by_name(runs.states),
        "success_rate": runs.success_rate,
        "duration": _plain_seconds(runs.duration),
        "waits": {name: _plain_seconds(runs.waits[name]) for name in sorted(runs.waits)},
        "retries": sum(runs.retries.values()),
        "retried_errors": _by_name(runs.retries),
        "rows": {direction: runs.rows.get(direction) for direction in ("output", "input")},
        "errors": _by_name(runs.errors),
    }


def _plain_seconds(seconds: Distribution) -> dict[str, float | None] | None:
    if not seconds.count:
        return None
    quantiles = {"p50": 0.5, "p95": 0.95, "max": 1.0}
    return {
        "count": seconds.count,
        "total": round(seconds.total, _DIGITS),
        **{name: _rounded(seconds.quantile(share)) for name, share in quantiles.items()},
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, _DIGITS)


def _by_name(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))
