"""A small simulator of flows on a pool of workers that writes the spans flowspan would write.

It knows more than a trace: what the flow does next, and which results it waits for. By running the
flow again, it finds how long a run with faster tasks would be.

As in Prefect's task runners, workers pick up tasks in order of submission, and a task that waits
for its upstream runs occupies its worker. All times are milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, TypeAlias

from run_spans import run

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from flowspan.read.span import Span

MILLISECONDS = 1_000  # in a second


@dataclass(frozen=True, eq=False)
class Task:
    """A task to run: its name, execution time and upstream tasks."""

    name: str
    time: int
    upstream: tuple[Task, ...] = ()


@dataclass(frozen=True)
class Work:
    """The flow does some work itself."""

    time: int


@dataclass(frozen=True)
class Submit:
    """The flow hands a task to a worker and continues."""

    task: Task


@dataclass(frozen=True)
class Call:
    """The flow calls a task, which runs on the flow's own thread."""

    task: Task


@dataclass(frozen=True)
class Wait:
    """The flow waits for everything submitted so far."""


@dataclass(frozen=True)
class Subflow:
    """The flow calls another flow, which has its own workers."""

    flow: Flow


Step: TypeAlias = Work | Submit | Call | Wait | Subflow


@dataclass(frozen=True)
class Flow:
    """A flow: its steps, and how many workers it has. It ends when its last task ends.

    If it `sends` its tasks to other processes, they take a worker only after their upstream tasks.
    """

    name: str
    steps: tuple[Step, ...]
    workers: int | None = None
    sends: bool = False


@dataclass
class Ran:
    """A run of a task or a flow."""

    what: Task | Flow
    caller: Ran | None
    start: int
    ready: int = 0
    end: int = 0
    queued: int = 0
    sent: int = 0  # how long its task runner waited for its upstream tasks
    lane: str = ""
    number: int = 0


@dataclass
class _Pool:
    """Workers by the time they become free; without a limit there is always one more."""

    flow: str
    limit: int | None
    free: list[int] = field(default_factory=list)

    def take(self, moment: int) -> tuple[int, int]:
        """Return which worker picks up a task submitted at a moment, and when."""
        worker = min(range(len(self.free)), key=self.free.__getitem__, default=0)
        is_busy = not self.free or self.free[worker] > moment
        if is_busy and (self.limit is None or len(self.free) < self.limit):
            self.free.append(0)
            return len(self.free) - 1, moment
        return worker, max(moment, self.free[worker])


def simulate(flow: Flow, time_of: Callable[[Task], int] = lambda task: task.time) -> list[Ran]:
    """Run a flow and return its runs, the flow's own run first.

    Args:
        flow: The flow to run.
        time_of: Returns how long a task executes, for a what-if run.
    """
    numbers = count()
    runs: list[Ran] = []
    by_task: dict[Task, Ran] = {}

    def begin(what: Task | Flow, caller: Ran | None, start: int) -> Ran:
        runs.append(Ran(what, caller, start, number=next(numbers)))
        return runs[-1]

    def execute(task: Task, ran: Ran) -> int:
        ran.ready = max([ran.start, *(by_task[one].end for one in task.upstream)])
        ran.end = ran.ready + time_of(task)
        by_task[task] = ran
        return ran.end

    def perform(flow: Flow, caller: Ran | None, now: int, lane: str) -> int:
        own = begin(flow, caller, now)
        own.ready, own.lane = now, lane
        pool = _Pool(flow.name, flow.workers)
        for step in (*flow.steps, Wait()):
            match step:
                case Work(time):
                    now += time
                case Call(task):
                    ran = begin(task, own, now)
                    ran.lane = lane
                    now = execute(task, ran)
                case Submit(task):
                    sent = max([now, *(by_task[one].end for one in task.upstream if flow.sends)])
                    worker, start = pool.take(sent)
                    ran = begin(task, own, start)
                    ran.lane, ran.queued = f"{own.number}/{worker}", start - sent
                    ran.sent = sent - now
                    pool.free[worker] = execute(task, ran)
                case Wait():
                    now = max([now, *pool.free])
                case Subflow(inner):
                    now = perform(inner, own, now, lane)
        own.end = now
        return now

    perform(flow, None, 0, "main")
    return runs


def spans_of(runs: list[Ran]) -> list[Span]:
    """Write the spans of a simulated run."""
    by_task = {ran.what: _id(ran) for ran in runs}
    return [_span(ran, by_task) for ran in runs]


def _span(ran: Ran, by_task: dict[Task | Flow, str]) -> Span:
    return run(
        _id(ran),
        None if ran.caller is None else _id(ran.caller),
        ran.start / MILLISECONDS,
        ran.end / MILLISECONDS,
        name=ran.what.name,
        flow=isinstance(ran.what, Flow),
        lane=ran.lane,
        upstream=[by_task[one] for one in ran.what.upstream] if isinstance(ran.what, Task) else (),
        execution=(ran.end - ran.ready) / MILLISECONDS,
        queue=ran.queued / MILLISECONDS,
        dependencies=(ran.sent + ran.ready - ran.start) / MILLISECONDS,
        sent=ran.sent / MILLISECONDS,
    )


def _id(ran: Ran) -> str:
    return f"{ran.number + 1:016x}"


def duration(flow: Flow, name: str = "", factor: float = 1, more: int = 0) -> int:
    """Return how long a flow takes if tasks of a name take `factor` times as long, plus `more`."""

    def time_of(task: Task) -> int:
        return round(task.time * factor) + more if task.name == name else task.time

    return simulate(flow, time_of)[0].end


def tasks_of(flow: Flow) -> Iterator[Task]:
    """Yield the tasks of a flow and its subflows."""
    for step in flow.steps:
        if isinstance(step, Call | Submit):
            yield step.task
        elif isinstance(step, Subflow):
            yield from tasks_of(step.flow)


class Dice:
    """A maker of random flows. Only traces of `mixed` do not show what the flow awaited."""

    def __init__(self, dice: random.Random, workers: int | None = None) -> None:
        self._dice = dice
        self._workers = workers
        self._sends = False
        self._numbers = count()

    def task(self, known: list[Task]) -> Task:
        """Make a task, often with up to three upstream tasks; its time is even, to be halved."""
        number = next(self._numbers)
        upstream: list[Task] = []
        if known and self._dice.random() < 0.6:
            upstream = self._dice.sample(known, min(len(known), self._dice.randint(1, 3)))
        name = f"task {number if self._dice.random() < 0.7 else number // 3}"
        known.append(Task(name, 2 * self._dice.randint(1, 10_000), tuple(upstream)))
        return known[-1]

    def submitted(self) -> Flow:
        """Make a flow that submits everything at the start."""
        known: list[Task] = []
        size = self._dice.randint(1, 14)
        return self._flow([Submit(self.task(known)) for _ in range(size)])

    def called(self) -> Flow:
        """Make a flow that calls its tasks one after another."""
        known: list[Task] = []
        steps: list[Step] = []
        for _ in range(self._dice.randint(1, 8)):
            steps += [Work(self._dice.randint(0, 3_000)), Call(self.task(known))]
        return self._flow(steps)

    def staged(self) -> Flow:
        """Make a flow in stages: submit tasks, await all, work, and sometimes call a task with all.

        No stage depends on the previous one alone, or a trace would not show what the flow awaited.
        """
        steps: list[Step] = []
        old: list[Task] = []
        previous: list[Task] = []
        for _ in range(self._dice.randint(1, 4)):
            size = self._dice.randint(1, 5)
            known = [*old]
            steps += [Submit(self.task(known)) for _ in range(size)]
            old += previous
            previous = known[-size:]
            steps += [Wait(), Work(self._dice.randint(1, 2_000))]
            if self._dice.random() < 0.3:
                last = self.task([])
                steps.append(Call(Task(last.name, last.time, tuple(previous))))
        return self._flow(steps)

    def mixed(self) -> Flow:
        """Make a flow with steps of any kind in any order."""
        known: list[Task] = []
        steps: list[Step] = []
        for _ in range(self._dice.randint(2, 14)):
            kind = self._dice.choice("sssscw.")
            match kind:
                case "s":
                    steps.append(Submit(self.task(known)))
                case "c":
                    steps.append(Call(self.task(known)))
                case "w":
                    steps.append(Wait())
                case _:
                    steps.append(Work(self._dice.randint(1, 3_000)))
        return self._flow(steps or [Work(1)])

    def nested(self) -> Flow:
        """Make a flow of subflows of any kind, one after another, and then submitted tasks."""
        makers = (self.submitted, self.staged, self.called)
        inner = [Subflow(self._dice.choice(makers)()) for _ in range(self._dice.randint(1, 3))]
        known: list[Task] = []
        return self._flow([*inner, Submit(self.task(known)), Submit(self.task(known))])

    def sent(self) -> Flow:
        """Make a flow that sends the tasks that it submits to other processes."""
        self._sends = True
        return self._dice.choice((self.submitted, self.staged, self.nested))()

    def _flow(self, steps: list[Step]) -> Flow:
        return Flow(f"flow {next(self._numbers)}", tuple(steps), self._workers, self._sends)
