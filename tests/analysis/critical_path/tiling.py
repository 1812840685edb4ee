"""Properties of every critical path."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from flowspan.analysis.phases import CAUSES, Cause

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowspan.analysis.one_trace import Analysis
    from flowspan.read.span import Span


def check(spans: Sequence[Span], found: Analysis) -> None:
    """Assert the properties of every analysis."""
    path = found.critical_path
    duration = found.end - found.start
    assert sum(step.end - step.start for step in path) == duration
    assert all(step.start < step.end for step in path)
    assert all(before.end == after.start for before, after in pairwise(path))
    if path:
        assert (path[0].start, path[-1].end) == (found.start, found.end)
    assert {step.cause for step in path} <= {*CAUSES.values()}
    ids = {span.span_id for span in spans}
    assert {step.span_id for step in path} <= {*ids, found.root_id}
    by_cause: Counter[Cause] = Counter()
    for step in path:
        by_cause[step.cause] += step.end - step.start
    assert {cause: time for cause, time in found.on_path.items() if time} == by_cause
    if found.root_id in ids and duration:
        assert sum(task.share for task in found.tasks) == pytest.approx(1, abs=1e-9)
        assert sum(task.path for task in found.tasks) == duration
    assert 0 <= found.efficiency <= 1 + 1e-9
    assert found.mean_concurrency <= found.peak_concurrency + 1e-9
    assert 0 <= found.orchestration <= duration
    assert 0 <= found.retry_cost_on_path <= duration
    assert [task.share for task in found.tasks] == sorted(
        (task.share for task in found.tasks), reverse=True
    )
    assert len({(task.type, task.name) for task in found.tasks}) == len(found.tasks)
    for task in found.tasks:
        assert 0 <= task.share <= 1
        if task.slack is None:  # nobody waits for it
            assert task.path == 0
        else:
            assert task.slack >= 0
            assert task.slack == 0 or task.path == 0
        assert (task.cause is None) == (task.path == 0)
        assert task.drag is not None
        assert task.saved is not None
        assert 0 <= task.saved <= task.drag <= task.path
