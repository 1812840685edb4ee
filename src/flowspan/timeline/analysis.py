"""Tell where the time of a trace went: its critical path, and what each task costs.

Pure: spans in, frozen values out. The timeline, its page, `flowspan diff` and the exports all show
what stands here. All times and durations are integer nanoseconds unless a name ends otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from flowspan.timeline.read import Span

Cause: TypeAlias = Literal[
    "execution",
    "queue",
    "dependencies",
    "concurrency",
    "retry",
    "pause",
    "late",
    "infrastructure",
    "orchestration",
]
"""What a stretch of the critical path was spent on."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A piece of the critical path: `span_id` is the span that held the trace up."""

    span_id: str
    start: int
    end: int
    cause: Cause


@dataclass(frozen=True, slots=True)
class Task:
    """All runs of one name, be it a task's, a flow's, or (in a plain trace) a span's.

    `path` is their time on the critical path, `share` that part of the root's duration, `cause` what
    most of it was spent on, None where there is none. `slack` is by how much each of the runs could
    be longer before the root is; `drag` by how much the root would be shorter if their execution
    took no time, and `saved` if it took half the time; both None where the trace is too large to
    tell.
    """

    name: str
    type: str  # "flow", "task", "span"
    runs: int
    failed: int
    retries: int
    duration: int
    execution: int
    path: int
    share: float
    cause: Cause | None
    slack: int
    drag: int | None
    saved: int | None
    waits: Mapping[Cause, int]
    rows_input: int | None
    rows_output: int | None


@dataclass(frozen=True, slots=True)
class Analysis:
    """What there is to tell of a whole trace.

    `source` tells who made the spans: ``flowspan``, Prefect itself (``prefect``), or somebody else
    (``plain``), of which fewer things are known. `start` and `end` are those of the root.

    `on_path` is the time on the critical path by cause, `waits` that of all runs. `work` is the
    time in which tasks executed, over all of them; `mean_concurrency` is `work` over the duration,
    `peak_concurrency` how many executed at once at most, `efficiency` the first over the second.
    `retry_cost` is the time in failed attempts that were tried again, and between attempts;
    `orchestration` the time in which no task was running.
    """

    source: Literal["flowspan", "prefect", "plain"]
    root_id: str
    start: int
    end: int
    critical_path: tuple[Stretch, ...]
    tasks: tuple[Task, ...]  # by share, the largest first
    on_path: Mapping[Cause, int]
    waits: Mapping[Cause, int]
    work: int
    peak_concurrency: int
    mean_concurrency: float
    efficiency: float
    retry_cost: int
    retry_cost_on_path: int
    orchestration: int

    @property
    def bottleneck(self) -> Task | None:
        """The name with the largest share of the critical path."""
        return self.tasks[0] if self.tasks and self.tasks[0].path else None


def analyse(spans: Collection[Span]) -> Analysis:
    """Analyse the spans of one trace, at least one, each id once."""
    raise NotImplementedError
