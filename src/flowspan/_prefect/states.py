"""Read Prefect's states."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowspan.recording.run import State

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from prefect.client.schemas.objects import State as PrefectState


def as_state(state: PrefectState) -> State:
    return State(
        state.type.value,
        state.name or state.type.value,
        str(state.id),
        state.message,
        nanoseconds(state.timestamp),
    )


def nanoseconds(moment: datetime) -> int:
    # A float holds today's times in microseconds exactly, once they are rounded.
    return round(moment.timestamp() * 1_000_000) * 1000


def before_pick_up(history: Iterable[PrefectState]) -> list[PrefectState]:
    """Return the states after the last one that an earlier process of the run recorded."""
    states: list[PrefectState] = []
    for state in sorted(history, key=lambda state: state.timestamp):
        states = [*states, state] if state.type.value in {"SCHEDULED", "PENDING"} else []
    return states


def last_end(states: Iterable[PrefectState]) -> int:
    """Return when the last of some final states was entered; 0 if there is none."""
    return max((nanoseconds(one.timestamp) for one in states if one.is_final()), default=0)
