"""What an analysis says would happen is what happens in a simulator that is asked to do it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

import pytest
from simulator import Dice, Flow, duration, simulate, spans_of, tasks_of
from test_critical_path_tiles import check

from flowspan.timeline.analysis import analyse

if TYPE_CHECKING:
    from collections.abc import Iterable

MILLISECOND = 1_000_000
KINDS = ("submitted", "called", "staged", "mixed", "nested")


class Guess(NamedTuple):
    """How much shorter (ms) a flow would be, as the analysis says and as the simulator does."""

    name: str
    drag: float
    true_drag: int
    saved: float
    true_saved: int

    @property
    def is_exact(self) -> bool:
        return self.drag == self.true_drag and self.saved == self.true_saved


def guesses(flow: Flow) -> list[Guess]:
    """Compare what-if with the simulator, for each name of a task."""
    spans = spans_of(simulate(flow))
    found = analyse(spans)
    check(spans, found)
    tasks = {task.name: task for task in found.tasks if task.type == "task"}
    now = duration(flow)
    assert found.end - found.start == now * MILLISECOND
    made = []
    for name in sorted({task.name for task in tasks_of(flow)}):
        told = tasks[name]
        assert told.drag is not None
        assert told.saved is not None
        made.append(
            Guess(
                name,
                told.drag / MILLISECOND,
                now - duration(flow, name, 0),
                told.saved / MILLISECOND,
                now - duration(flow, name, 0.5),
            )
        )
    return made


def flows(kind: str, count: int, workers: int | None) -> list[Flow]:
    dice = (Dice(random.Random(seed), workers) for seed in range(count))  # noqa: S311 - repeatable
    return [getattr(one, kind)() for one in dice]


def relative_errors(flows: Iterable[Flow]) -> list[float]:
    """Return by how much each guess is off, as a part of the flow's duration."""
    return [
        max(abs(guess.drag - guess.true_drag), abs(guess.saved - guess.true_saved)) / duration(flow)
        for flow in flows
        for guess in guesses(flow)
    ]


@pytest.mark.parametrize("kind", ["submitted", "called", "staged", "nested"])
def test_exact_without_a_limit(kind: str) -> None:
    """With a worker for every task, drag and what is saved are right to the nanosecond."""
    for flow in flows(kind, 300, None):
        wrong = [guess for guess in guesses(flow) if not guess.is_exact]
        assert not wrong, f"{wrong} in {flow}"
