"""The history of a run: which states one process saw, and what events tell of them."""

from typing import Any

import pytest

from flowspan.recording.run import State
from flowspan.watching.history import Known, _chained, _once

TYPES = {
    "AwaitingRetry": "SCHEDULED",
    "Late": "SCHEDULED",
    "Resuming": "SCHEDULED",
    "Retrying": "RUNNING",
    "Suspended": "PAUSED",
    "NotReady": "PENDING",
    "RolledBack": "COMPLETED",
}


def states(*names: str) -> tuple[State, ...]:
    return tuple(
        State(TYPES.get(name, name.upper()), name, str(number), None, number)
        for number, name in enumerate(names)
    )


def stints(*names: str) -> list[tuple[int, str]]:
    known = Known({"id": "run", "flow_id": "flow"}, states(*names), "run")
    return [(one.run_count, " ".join(s.name for s in one.states)) for one in known.stints]


@pytest.mark.parametrize(
    "names",
    [
        "Pending Running Completed",
        "Scheduled Late Pending Running Failed",
        "Pending Running AwaitingRetry Retrying AwaitingRetry Retrying Failed",
        "Pending Running Paused Running Completed",
        "Scheduled Pending Running Cancelling Cancelled",
        "Scheduled Pending Running Cancelling Cancelled Crashed",
        "Pending Running Completed RolledBack",
        "Pending NotReady",
        "Scheduled Cancelled",
    ],
)
def test_one_process(names: str) -> None:
    """Retries, pauses, and a state after the end are part of what one process does."""
    assert stints(*names.split()) == [(0, names)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Scheduled Pending Running Crashed", "Scheduled Pending Running Completed"),
        ("Scheduled Pending Running Suspended", "Resuming Pending Running Completed"),
        ("Pending Running Failed", "Running Completed"),
        ("Scheduled Pending Running", "Scheduled Pending Running Completed"),
    ],
)
def test_another_process(first: str, second: str) -> None:
    """Who takes up a run that another process has left counts how often it had been running."""
    assert stints(*first.split(), *second.split()) == [(0, first), (1, second)]


def test_the_number_of_a_process_counts_retries() -> None:
    """As Prefect does, each Running state counts."""
    found = stints(*["Pending", "Running", "Retrying", "Failed", "Scheduled", "Pending", "Running"])
    assert [count for count, _ in found] == [0, 2]


def events(*names: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    before = None
    for number, state in enumerate(states(*names)):
        told = {"type": state.type, "name": state.name}
        occurred = f"2026-11-27T10:00:{number:02}Z"
        payload = {"initial_state": before, "validated_state": told}
        found.append({"id": state.id, "occurred": occurred, "payload": payload})
        before = told
    return found


def test_events_in_any_order_and_doubled() -> None:
    """The order in which events come does not matter, nor how often they do."""
    told = events("Pending", "Running", "AwaitingRetry", "Retrying", "Completed")
    found = _chained(_once([*told[::-2], *told, *told[::-1]]), "4")
    assert found is not None
    assert [state.name for state in found] == [
        *("Pending", "Running", "AwaitingRetry", "Retrying", "Completed")
    ]


@pytest.mark.parametrize("missing", range(4))
def test_a_missing_event_is_noticed(missing: int) -> None:
    """Whichever event is missing, the states are asked for instead."""
    told = events("Pending", "Running", "AwaitingRetry", "Completed")
    del told[missing]
    assert _chained(told, "3") is None


def test_no_events() -> None:
    """A run of which no event is left has no chain."""
    assert _chained([], "3") is None
