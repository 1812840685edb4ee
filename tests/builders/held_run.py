"""The answers of ``flowspan why`` about a run that a full work pool holds, as on the pages."""

from flowspan.cli.answers import Answers
from flowspan.watching.explanation import explain
from flowspan.watching.facts import Deployment, Facts, Pool, Queue, Run, State, Worker

_SECOND = 1_000_000_000
NOW = 1_763_622_725 * _SECOND


def _run(name: str, flow: str, state: State, run_id: str = "") -> Run:
    return Run(
        id=run_id or name,
        name=name,
        type="flow",
        of=flow,
        state=state,
        deployment_id="d",
        pool="etl",
        queue_id="q",
    )


def _running(name: str, flow: str, seconds: int) -> Run:
    return _run(name, flow, State("RUNNING", "Running", NOW - seconds * _SECOND))


def held_run() -> Answers:
    """Return the answer for one run."""
    due = NOW - 725 * _SECOND
    late = State("SCHEDULED", "Late", due + 20 * _SECOND, scheduled=due)
    run = _run("fluffy-otter", "invoices", late, "25d3ab90-26d6-4c57-9b5c-abd708f513cc")
    others = [
        _running("brave-lynx", "orders", 11_040),
        _running("calm-heron", "customers", 70),
    ]
    facts = Facts(
        NOW,
        {each.id: each for each in [run, *others]},
        {"d": Deployment("d", "invoices/nightly", pool="etl", queue_id="q")},
        {"etl": Pool("p", "etl", "process", limit=2, workers=(Worker("w", NOW),))},
        {"q": Queue("q", "default", "etl", polled=NOW)},
    )
    return Answers([explain(run, facts)], True, "http://localhost:4200/api", 8, NOW)  # noqa: FBT003
