"""The what-if answers of the analysis match a simulator that runs the same change."""

from __future__ import annotations

import random
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import pytest
from simulator import Dice, Flow, duration, simulate, spans_of, tasks_of
from tiling import check

from flowspan.analysis.one_trace import analyse

if TYPE_CHECKING:
    from collections.abc import Iterable

MILLISECOND = 1_000_000


class Guess(NamedTuple):
    """How much shorter (ms) a flow would be, by the analysis and by the simulator."""

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
    """Return each drag's error, relative to the larger of the reported and the true value."""
    return sorted(
        abs(guess.drag - guess.true_drag) / max(guess.drag, guess.true_drag)
        if guess.drag != guess.true_drag
        else 0.0
        for flow in flows
        for guess in guesses(flow)
    )


@pytest.mark.parametrize("kind", ["submitted", "called", "staged", "nested", "sent"])
def test_exact_without_a_limit(kind: str) -> None:
    """With a worker for every task, drag and savings are exact to the nanosecond."""
    for seed, flow in enumerate(flows(kind, 300, None)):
        wrong = [guess for guess in guesses(flow) if not guess.is_exact]
        assert not wrong, f"{wrong} in the flow of seed {seed}"


@pytest.mark.parametrize("kind", ["submitted", "called", "staged", "nested", "sent"])
def test_slack_without_a_limit(kind: str) -> None:
    """A task can take longer by exactly its slack without delaying the flow."""
    for seed, flow in enumerate(flows(kind, 100, None)):
        now = duration(flow)
        for task in analyse(spans_of(simulate(flow))).tasks:
            if task.type == "task" and task.runs == 1:
                assert task.slack is not None
                slack = task.slack // MILLISECOND
                longer = [duration(flow, task.name, more=slack + more) - now for more in (0, 1)]
                assert longer == [0, 1], f"{task.name} in the flow of seed {seed}"


def report(title: str, errors: list[float]) -> None:
    """Print the distribution of errors."""
    exact = sum(error == 0 for error in errors) / len(errors)
    p90 = errors[int(len(errors) * 0.9)]
    print(
        f"{title}: drag of {len(errors)} names exact for {exact:.0%}, relative error "
        f"{median(errors):.1%} at the median, {p90:.1%} at p90, {errors[-1]:.1%} at most"
    )


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("kind", ["submitted", "staged", "nested", "sent"])
def test_estimate_with_a_limit(kind: str, workers: int) -> None:
    """With fewer workers than tasks, their assignment changes, so the answer is an estimate."""
    errors = relative_errors(flows(kind, 200, workers))
    report(f"{kind}, {workers} workers", errors)
    assert median(errors) < 0.01


def test_estimate_of_what_a_trace_does_not_tell() -> None:
    """If a flow works while its tasks run, the trace does not show which of them it awaited."""
    errors = relative_errors(flows("mixed", 200, None))
    report("mixed, no limit", errors)
    assert median(errors) < 0.01
