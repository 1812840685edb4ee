"""Answer why a run or a deployment does not run, whatever it does instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from flowspan import semconv
from flowspan.text import human, moment
from flowspan.units import NANOSECONDS
from flowspan.watching.facts import LATE_AFTER
from flowspan.watching.reasons import Action, Reason, find

if TYPE_CHECKING:
    from flowspan.watching.facts import Deployment, Facts, Run

Status: TypeAlias = Literal[
    "late", "pending", "due", "scheduled", "retry", "paused", "running", "cancelling", "over"
]
"""What a run does instead of running, or ``running``. Only the first three are for a reason."""

_HELD: Final = frozenset({"late", "pending", "due"})
_UNMARKED: Final = 60 * NANOSECONDS
_PLANNED_WITHIN: Final = 7 * 24 * 3600 * NANOSECONDS
"""The scheduler plans runs for many more days, by default."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer for one run or deployment.

    Attributes:
        subject: What was asked about, in words.
        status: What it does.
        answer: The whole answer in one sentence.
        reasons: Why it does not run, the most important first. For a run that is not due yet: what
            would hold it now.
        checked: What was checked and holds nothing up.
        remarks: What else somebody should know.
        actions: What to do, beyond what the reasons say.
        run: The run, if it is one.
        since: When the run was to start; for a pending one, since when it is.
        deployment: The deployment, if the question is about a deployment and not a run.
    """

    subject: str
    status: Status
    answer: str
    reasons: tuple[Reason, ...] = ()
    checked: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    actions: tuple[Action, ...] = ()
    run: Run | None = None
    since: int | None = None
    deployment: Deployment | None = None

    @property
    def flow(self) -> str | None:
        """The flow that does not run, or the task."""
        if self.deployment is not None:
            return self.deployment.name.partition("/")[0]
        return None if self.run is None else self.run.of

    @property
    def pool(self) -> str | None:
        """The work pool, if there is one."""
        about = self.run if self.deployment is None else self.deployment
        return None if about is None else about.pool

    @property
    def is_held(self) -> bool:
        """Whether it should run now and does not."""
        return self.status in _HELD

    @property
    def code(self) -> str | None:
        """The most important reason's code; None if there is none, or none yet."""
        return self.reasons[0].code if self.reasons and self.status != "scheduled" else None


def explain(run: Run, facts: Facts) -> Explanation:
    """Explain why a run does not run, or what it does."""
    status = status_of(run, facts.now)
    if status in _HELD or status == "scheduled":
        return _waiting(run, status, facts)
    answer, remarks, actions = _OTHERWISE[status](run, facts.now)
    return Explanation(
        subject(run), status, f"{subject(run)} {answer}", (), (), remarks, actions, run
    )


def status_of(run: Run, now: int) -> Status:
    """Return what a run does."""
    if run.is_over:
        return "over"
    if run.is_late(now):
        return "late"
    if run.state.name == "AwaitingRetry":
        return "retry"
    if run.state.type == "SCHEDULED":
        return "scheduled" if run.due is not None and run.due > now else "due"
    return _BY_TYPE.get(run.state.type, "running")


_BY_TYPE: Final[dict[str, Status]] = {
    "PENDING": "pending",
    "PAUSED": "paused",
    "RUNNING": "running",
    "CANCELLING": "cancelling",
}


def subject(run: Run) -> str:
    """Name a run: what it is a run of, and its own name."""
    kind = "flow run" if run.type == "flow" else "task run"
    return f"{kind} {run.name!r} of {run.of!r}"


def _waiting(run: Run, status: Status, facts: Facts) -> Explanation:
    over = _caller_over(run, facts)
    if over is not None:
        return over
    reasons, checked = find(run, facts)
    about = _since(run, status, facts.now)
    if status == "scheduled":
        held = f"; as things are, {reasons[0].text}" if reasons else ""
        answer = f"{subject(run)} {about}{held}"
    elif reasons:
        answer = f"{subject(run)} {about}: {reasons[0].text}"
    else:
        answer = f"{subject(run)} {about}, and nothing that the API shows holds it"
    actions = () if reasons else _unexplained(run, status, facts)
    return Explanation(
        subject(run),
        status,
        answer,
        tuple(reasons),
        tuple(checked),
        tuple(_remarks(run, facts)),
        actions,
        run,
        run.due if run.due is not None else run.state.time,
    )


def _since(run: Run, status: Status, now: int) -> str:
    due = run.due
    if due is None:
        return f"has been {run.state.name} for {human(now - run.state.time)}"
    if status == "scheduled":
        return f"is to start in {human(due - now)}, at {moment(due)}"
    return f"is {human(now - due)} {'late' if status == 'late' else 'past its time'}"


def _caller_over(run: Run, facts: Facts) -> Explanation | None:
    """Explain a task run whose flow run is over: nobody runs it any more."""
    caller = facts.runs.get(run.flow_run_id) if run.flow_run_id is not None else None
    if caller is None or not caller.is_over:
        return None
    answer = (
        f"{subject(run)} will never run: its flow run {caller.name!r} is over "
        f"({caller.state.name} at {moment(caller.state.time)})"
    )
    return Explanation(subject(run), "over", answer, run=run)


def _remarks(run: Run, facts: Facts) -> list[str]:
    said = []
    deployment = facts.deployments.get(run.deployment_id or "")
    if deployment is not None and deployment.is_paused and run.type == "flow":
        said.append(
            f"Deployment {deployment.name!r} is paused: its schedules make no new runs, but this "
            "one runs as soon as a worker takes it."
        )
    due = run.due
    is_unmarked = run.type == "flow" and run.state.name == "Scheduled"
    if is_unmarked and due is not None and facts.now - due > _UNMARKED:
        said.append(
            "The server has not marked the run Late: its background services do not run, or are "
            "behind."
        )
    return said


def _unexplained(run: Run, status: Status, facts: Facts) -> tuple[Action, ...]:
    """Say what the API does not show and may be why."""
    if run.type == "task":
        return (
            Action(
                "Its process may be busy: with other runs of its task runner, or in the task's own "
                "code before it starts. Read the log of the flow run."
            ),
        )
    if run.deployment_id is None:
        return (
            Action(
                "It belongs to no deployment, so only the process that made it can start it: check "
                "that this process is still there."
            ),
        )
    soon = status == "due" or facts.now - (run.due or run.state.time) <= 2 * LATE_AFTER
    first = "Workers ask for runs every 10 to 15 seconds, so wait a moment. " if soon else ""
    return (
        Action(
            f"{first}The API does not show a worker's own limit (--limit) nor its errors: read "
            "the worker's log."
        ),
    )


def _retry(run: Run, now: int) -> tuple[str, tuple[str, ...], tuple[Action, ...]]:
    due = run.state.scheduled or now
    after = f"it has run {run.count:,} time{'s' * (run.count != 1)}"
    if due > now:
        return f"waits for its next attempt, in {human(due - now)}; {after}", _said(run), ()
    late = f"should have been retried {human(now - due)} ago; {after}"
    if run.type == "task" or run.retries_in_process:
        step = Action("Only the process that ran it can retry it: check that it is still there.")
        return late, _said(run), (step,)
    return late, _said(run), (Action("A worker retries it: read the worker's log."),)


def _paused(run: Run, now: int) -> tuple[str, tuple[str, ...], tuple[Action, ...]]:
    until = run.state.pause_until
    answer = f"has been {run.state.name} for {human(now - run.state.time)}, until it is resumed"
    remarks = _said(run)
    if until is not None and until > now:
        remarks += (f"It fails if that does not happen within {human(until - now)}.",)
    return answer, remarks, (Action("Resume it:", f"prefect flow-run resume {run.id}"),)


def _running(run: Run, now: int) -> tuple[str, tuple[str, ...], tuple[Action, ...]]:
    answer = f"is running: it has been {run.state.name} for {human(now - run.state.time)}"
    remark = (
        "The API does not show whether its process is still there, nor whether its own code waits "
        "for a slot with concurrency()."
    )
    return answer, (remark,), ()


def _cancelling(run: Run, now: int) -> tuple[str, tuple[str, ...], tuple[Action, ...]]:
    answer = f"is being cancelled, since {human(now - run.state.time)} ago"
    return answer, _said(run), (Action("Its worker or its runner must stop it: read its log."),)


def _over(run: Run, now: int) -> tuple[str, tuple[str, ...], tuple[Action, ...]]:
    ago = human(now - run.state.time)
    return f"is over: {run.state.name}, {ago} ago, at {moment(run.state.time)}", _said(run), ()


def _said(run: Run) -> tuple[str, ...]:
    return (f"Prefect says: {run.state.message}",) if run.state.message else ()


_OTHERWISE: Final = {
    "retry": _retry,
    "paused": _paused,
    "running": _running,
    "cancelling": _cancelling,
    "over": _over,
}


def explain_held(facts: Facts) -> list[Explanation]:
    """Explain all flow runs that are late or pending, and deployments whose schedules make none."""
    missing = (
        explain_missing_run(each, facts.now)
        for each in facts.deployments.values()
        if each.schedules
    )
    return [*(explain(run, facts) for run in facts.held()), *filter(None, missing)]


def explain_deployment(deployment: Deployment, facts: Facts) -> Explanation:
    """Explain what a deployment plans, or why it plans nothing."""
    missing = explain_missing_run(deployment, facts.now)
    if missing is not None:
        return missing
    about = f"deployment {deployment.name!r}"
    planned = deployment.next_planned
    if planned is not None:
        answer = f"{about} is well: its next run starts in {human(planned - facts.now)}"
        return Explanation(
            about,
            "scheduled",
            f"{answer}, at {moment(planned)}",
            since=planned,
            deployment=deployment,
        )
    answer = f"{about} has no schedule that plans a run: it runs when somebody asks for it"
    return Explanation(about, "scheduled", answer, deployment=deployment)


def explain_missing_run(deployment: Deployment, now: int) -> Explanation | None:
    """Explain why the next run of a deployment is not planned; None if that is as it should be."""
    about = f"deployment {deployment.name!r}"
    if deployment.is_paused:
        reason = _paused_deployment(deployment)
        return Explanation(
            about,
            "paused",
            f"{about} makes no runs: it is paused",
            (reason,),
            deployment=deployment,
        )
    due = deployment.next_due
    if deployment.next_planned is not None or due is None or due - now > _PLANNED_WITHIN:
        return None
    reason = _not_planned(deployment, due, now)
    return Explanation(
        about, "late", f"{about} makes no runs: {reason.text}", (reason,), deployment=deployment
    )


def _paused_deployment(deployment: Deployment) -> Reason:
    return Reason(
        semconv.PAUSED,
        f"deployment {deployment.name!r} is paused",
        ("The schedules of a paused deployment make no runs; planned ones were deleted.",),
        {"paused": "deployment", "deployment": deployment.name},
        actions=(Action("Resume it on its page of Prefect's UI."),),
    )


def _not_planned(deployment: Deployment, due: int, now: int) -> Reason:
    return Reason(
        semconv.SCHEDULER_BEHIND,
        f"the scheduler has not planned its run of {moment(due)}",
        (f"That run is to start in {human(due - now)}, and no later one is planned either.",),
        {"deployment": deployment.name, "next_due": due},
        actions=(
            Action(
                "Check that the background services of Prefect's server run:",
                "prefect server services ls",
            ),
        ),
    )
