"""Read the facts about a run from Prefect's own span.

Such a span has the run's id, name, type and tags, and an event for each state except the first. It
is named after the run, and has neither the names of flow and task nor the run's waits.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from flowspan import semconv

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowspan.read.events import Event
    from flowspan.read.facts import Facts

# Prefect names a task run `extract-bf4`, or `extract-0` in releases before 3.0.
_GIVEN_SUFFIX: Final = re.compile(r"-(?:[0-9a-f]{3}|\d+)$")
_EXCEPTION_TYPE: Final = "exception.type"
_RUNNING: Final = "RUNNING"
_WAITS: Final = {wait.state: wait.name for wait in semconv.WAITS if wait.state}


def is_native(facts: Facts) -> bool:
    """Return whether a span is Prefect's own: flowspan's spans have a flow, task or result."""
    return (
        facts.run_type is not None
        and facts.flow_name is None
        and facts.task_name is None
        and facts.result is None
        and facts.execution is None
    )


def complete(facts: Facts, events: Iterable[Event]) -> Facts:
    """Add facts from the state events: attempts, times, and how the run ended.

    Execution is the time in Running states. The task's name is its run's name without the suffix
    that Prefect adds; it is a guess if the user names the runs.
    """
    told = sorted(events, key=lambda event: event.time)
    states = [event for event in told if semconv.STATE_TYPE in event.attributes]
    found: dict[str, Any] = {"is_native": True}
    for state, following in itertools.pairwise(states):
        spent = following.time - state.time
        if _type(state) == _RUNNING:
            found["execution"] = found.get("execution", 0) + spent
        elif wait := _WAITS.get(state.name):
            found[wait] = found.get(wait, 0) + spent
    running = [state for state in states if _type(state) == _RUNNING]
    if running:
        found["running_since"] = running[0].time
        found["run_count"] = 1 + sum(state.name == "Retrying" for state in running)
    if states:
        found |= _end(states[-1], told)
    if facts.run_type == "flow":
        found["flow_run_id"] = facts.run_id
    elif facts.run_name:
        found["task_name"] = _GIVEN_SUFFIX.sub("", facts.run_name)
    return msgspec.structs.replace(facts, **found)


def _end(last: Event, events: Iterable[Event]) -> dict[str, Any]:
    result = semconv.result_of(_type(last), last.name)
    error = None
    if result in semconv.ERROR_RESULTS:
        raised = [e.attributes[_EXCEPTION_TYPE] for e in events if _EXCEPTION_TYPE in e.attributes]
        error = str(raised[-1]) if raised else last.name
    return {
        "state_type": _type(last),
        "state_name": last.name,
        "result": result,
        "error_type": error,
        "is_cached": last.name == "Cached",
    }


def _type(state: Event) -> str:
    return str(state.attributes[semconv.STATE_TYPE])
