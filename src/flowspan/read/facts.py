"""The attributes of a span that the analysis needs, read once and typed."""

from __future__ import annotations

import sys
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import msgspec

from flowspan import semconv

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_LONGEST: Final = 1e18  # seconds: the age of the universe, twice; infinity and the like are beyond


class Facts(msgspec.Struct, frozen=True, gc=False):
    """The facts about a run in its span; durations are nanoseconds, 0 if absent.

    Each of `semconv.WAITS` has a field of its name. `dependencies` is only the part inside the
    span; `dependencies_before` is the other part.

    `run_type` is ``flow``, ``task``, or None if the span is not a run's. `execution` is None if the
    span does not have it. `lane` names the worker thread, `process_id` and `host` where it was; all
    are None if unknown. `running_since` is when the run first entered a Running state, in
    nanoseconds since the epoch. `is_native` marks one of Prefect's own spans, whose waits are
    unknown; see `flowspan.read.prefect_spans`. `links_dropped` is how many upstream runs the span's
    links do not show.
    """

    run_type: str | None = None
    run_id: str | None = None
    run_name: str | None = None
    run_count: int = 1
    attempt: int | None = None
    flow_name: str | None = None
    task_name: str | None = None
    flow_run_id: str | None = None
    deployment_name: str | None = None
    state_type: str | None = None
    state_name: str | None = None
    result: str | None = None
    error_type: str | None = None
    is_cached: bool = False
    is_native: bool = False
    tags: tuple[str, ...] = ()
    lane: str | None = None
    process_id: str | None = None
    host: str | None = None
    rows_input: int | None = None
    rows_output: int | None = None
    late: int = 0
    infrastructure: int = 0
    queue: int = 0
    dependencies: int = 0
    concurrency: int = 0
    retry: int = 0
    pause: int = 0
    execution: int | None = None
    orchestration: int = 0
    exit: int = 0
    dependencies_before: int = 0
    running_since: int | None = None
    links_dropped: int = 0


def facts_of(attributes: Mapping[str, Any]) -> Facts:
    """Read the facts from a span's attributes; missing or absurd values get their default."""
    values = {}
    for key, value in attributes.items():
        if key in READERS:
            name, read = READERS[key]
            values[name] = read(value)
    if before := values.get("dependencies_before"):
        values["dependencies"] = inside(values.get("dependencies", 0), before)
    return Facts(**values)


def inside(dependencies: int, before: int) -> int:
    """Return how much of a wait for upstream runs is inside the span, as a span has the whole."""
    return max(0, dependencies - before)


def lengths_at(*places: semconv.Place) -> Callable[[Facts], tuple[int, ...]]:
    """Return a function that returns the lengths (ns) of the waits at some places.

    They are in the order of `semconv.WAITS`.
    """
    names = [wait.name for wait in semconv.WAITS if wait.place in places]
    if len(names) == 1:  # of one name, attrgetter returns no tuple
        return lambda facts: (getattr(facts, names[0]),)
    return attrgetter(*names)


def total_at(*places: semconv.Place) -> Callable[[Facts], int]:
    """Return a function that returns how long (ns) a run waited at some places."""
    names = [wait.name for wait in semconv.WAITS if wait.place in places]
    if len(names) == 1:
        return attrgetter(names[0])
    read = attrgetter(*names)
    return lambda facts: sum(read(facts))


# A task runner waits for upstream runs before it waits for a worker.
_BEFORE: Final = tuple(
    pair
    for wait in semconv.WAITS
    if wait.place == "before"
    for pair in (
        *([(semconv.WAIT_DEPENDENCIES, "dependencies_before")] if wait.name == "queue" else ()),
        (wait.attribute, wait.name),
    )
)
PHASES_BEFORE: Final = tuple(attribute for attribute, _ in _BEFORE)
"""The waits before a span by their attributes, in the order in which they happen."""

waits_before: Final = attrgetter(*(field for _, field in _BEFORE))
"""Return the lengths (ns) of the waits before a span, in the order of `PHASES_BEFORE`."""

_waits_of: Final = lengths_at("before", "start", "between", "middle")
_DEPENDENCIES: Final = [wait.name for wait in semconv.WAITS].index("dependencies")


def waits_of(facts: Facts) -> tuple[int, ...]:
    """Return the lengths (ns) of all waits, in the order of `semconv.WAITS`."""
    waits = _waits_of(facts)
    if not facts.dependencies_before:
        return waits
    place, whole = _DEPENDENCIES, facts.dependencies + facts.dependencies_before
    return (*waits[:place], whole, *waits[place + 1 :])


def text(value: object) -> str | None:
    """Return a value as text; None stays None."""
    return None if value is None else str(value)


def _shared_text(value: object) -> str | None:
    """Return a value as text, kept once for all spans that have it."""
    return None if value is None else sys.intern(str(value))


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _run_count(value: object) -> int:
    return _count(value) or 1


def _dropped(value: object) -> int:
    return _count(value) or 0


def _texts(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _is_true(value: object) -> bool:
    return value is True


def nanoseconds(seconds: object) -> int | None:
    """Convert seconds to nanoseconds; None if they are absurd."""
    if isinstance(seconds, bool) or not isinstance(seconds, (float, int)):
        return None
    return round(seconds * 1e9) if 0 <= seconds < _LONGEST else None


def _wait(seconds: object) -> int:
    if type(seconds) is float and 0 <= seconds < _LONGEST:  # nearly always true; saves a call
        return round(seconds * 1e9)
    return nanoseconds(seconds) or 0


READERS: Final[Mapping[str, tuple[str, Callable[[object], Any]]]] = {
    semconv.RUN_TYPE: ("run_type", text),
    semconv.RUN_ID: ("run_id", text),
    semconv.RUN_NAME: ("run_name", text),
    semconv.RUN_COUNT: ("run_count", _run_count),
    semconv.ATTEMPT: ("attempt", _count),
    semconv.FLOW_NAME: ("flow_name", text),
    semconv.TASK_NAME: ("task_name", text),
    semconv.FLOW_RUN_ID: ("flow_run_id", text),
    semconv.DEPLOYMENT_NAME: ("deployment_name", text),
    semconv.RUN_STATE_TYPE: ("state_type", text),
    semconv.RUN_STATE_NAME: ("state_name", text),
    semconv.PIPELINE_RESULT: ("result", text),
    semconv.PIPELINE_TASK_RESULT: ("result", text),
    semconv.ERROR_TYPE: ("error_type", text),
    semconv.TASK_CACHED: ("is_cached", _is_true),
    semconv.TAGS: ("tags", _texts),
    semconv.THREAD_ID: ("lane", text),
    semconv.PROCESS_ID: ("process_id", _shared_text),
    semconv.HOST_NAME: ("host", _shared_text),
    semconv.ROWS_INPUT: ("rows_input", _count),
    semconv.ROWS_OUTPUT: ("rows_output", _count),
    semconv.LINKS_DROPPED: ("links_dropped", _dropped),
    **{wait.attribute: (wait.name, _wait) for wait in semconv.WAITS},
    semconv.EXECUTION: ("execution", nanoseconds),
    semconv.ORCHESTRATION: ("orchestration", _wait),
    semconv.ENGINE_EXIT: ("exit", _wait),
    semconv.TASK_RUNNER_DEPENDENCIES: ("dependencies_before", _wait),
}
"""The field of each attribute, and the function that reads its value."""
