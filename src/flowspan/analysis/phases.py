"""Find what the time of a span was spent on, and where in the span it lies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from flowspan import semconv
from flowspan.read.facts import PHASES_BEFORE, lengths_at, total_at, waits_before

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from flowspan.read.facts import Facts
    from flowspan.read.span import Span

Cause: TypeAlias = str
"""The use of a stretch of the critical path: a wait, ``execution`` or ``orchestration``."""


OTHER: Final = "other"
"""Phase of a span outside any run: from another instrumentation or the application itself."""

OPEN: Final = "open"
"""Phase of the execution of a run that has not ended."""


class Segment(NamedTuple):
    """A stretch of time spent in one phase, in nanoseconds since the epoch.

    Phases are the names of the attributes that hold their totals (``prefect.wait.*``,
    ``prefect.execution``, ``prefect.orchestration``), `OPEN`, or `OTHER`.
    """

    phase: str
    start: int
    end: int

    @property
    def cause(self) -> Cause:
        """The cause on the critical path that the phase counts as."""
        return CAUSES[self.phase]


def union(intervals: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Merge intervals that touch or overlap."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


class Calls(NamedTuple):
    """When the first call of a run began, when the last returned, and the time in between.

    `exits` are the stretches between the end of a call and its return, in order of time.
    """

    first: int
    last: int
    exits: Sequence[tuple[int, int]]

    @property
    def exit_time(self) -> int:
        """The length of all exits."""
        return sum(end - start for start, end in self.exits)


def calls_of(starts: Iterable[int], ends: Sequence[int], facts: Iterable[Facts]) -> Calls | None:
    """Return the calls of a run; None if it called nothing.

    Each argument has one item for each run or span that it called, in the same order.
    """
    if not ends:
        return None
    exits = sorted(
        (end, end + known.exit) for end, known in zip(ends, facts, strict=True) if known.exit
    )
    last = max(ends)
    return Calls(min(starts), max(last, exits[-1][1]) if exits else last, exits)


def _phases_at(*places: semconv.Place) -> tuple[str, ...]:
    return tuple(wait.attribute for wait in semconv.WAITS if wait.place in places)


_AT_START: Final = _phases_at("start")
_BETWEEN: Final = _phases_at("between")
_IN_MIDDLE: Final = _phases_at("middle")
_waits_at_start: Final = lengths_at("start")
_waits_between: Final = lengths_at("between")
_waits_in_middle: Final = lengths_at("middle")
_waited_between: Final = total_at("between")
_waited_in_middle: Final = total_at("middle")
_waited_after_start: Final = total_at("between", "middle")


def before(span: Span) -> list[Segment]:
    """Lay out the waits before the span; the last one ends where the span starts."""
    cursor = span.start
    segments: list[Segment] = []
    waits = waits_before(span.facts)
    if not any(waits):
        return segments
    for name, length in zip(reversed(PHASES_BEFORE), reversed(waits), strict=True):
        start = max(0, cursor - length)
        if start < cursor:
            segments.insert(0, Segment(name, start, cursor))
        cursor = start
    return segments


def inside(span: Span, end: int, attempts: Sequence[Span], calls: Calls | None) -> list[Segment]:
    """Fill the span without a gap: waits first, then work; the engine's own time is the rest.

    Args:
        span: The span of a run.
        end: When it ended.
        attempts: Its attempts, in order of time.
        calls: What it called, None if it called nothing.
    """
    if attempts or _waited_after_start(span.facts):
        segments = _at_several_goes(span, end, attempts, calls)
    else:
        segments = _at_one_go(span, end, calls)
    return without_exits(segments, calls)


def without_exits(segments: list[Segment], calls: Calls | None) -> list[Segment]:
    """Turn the part of the execution before each return of a call into the engine's own time."""
    if calls is None or not calls.exits:
        return segments
    return list(_without_exits(segments, calls.exits))


def _without_exits(
    segments: Iterable[Segment], exits: Sequence[tuple[int, int]]
) -> Iterator[Segment]:
    place = 0
    for segment in segments:
        cursor = segment.start
        if segment.phase == semconv.EXECUTION:
            while place < len(exits) and exits[place][0] < segment.end:
                start, end = max(cursor, exits[place][0]), min(segment.end, exits[place][1])
                place += 1
                if start < end:
                    if cursor < start:
                        yield Segment(semconv.EXECUTION, cursor, start)
                    yield Segment(semconv.ORCHESTRATION, start, end)
                    cursor = end
        if cursor < segment.end:
            yield segment._replace(start=cursor)


def _at_several_goes(
    span: Span, end: int, attempts: Sequence[Span], calls: Calls | None
) -> list[Segment]:
    facts = span.facts
    # Attempts have exact times, so they cut the waits' totals, not the other way round.
    limit = min([end, *(max(span.start, attempt.start) for attempt in attempts)])
    segments = _at_start(span, limit)
    cursor = segments[-1].end if segments else span.start
    pieces = _attempt_pieces(attempts, cursor, end) or _estimated_pieces(
        span, cursor, end, calls.exit_time if calls is not None else 0
    )
    between = _between(facts)
    longest = max(pieces, key=lambda piece: piece[1] - piece[0])
    for place, (start, stop) in enumerate(pieces):
        gap = between if place else semconv.ORCHESTRATION
        segments.append(Segment(gap, cursor, start))
        waits = _waits_in_middle(facts) if (start, stop) == longest else ()
        segments += _with_waits(start, stop, waits, at_end=_last_phase(span) in _IN_MIDDLE)
        cursor = stop
    segments.append(Segment(_last_phase(span), cursor, end))
    kept = [segment for segment in segments if segment.end > segment.start]
    return kept or [Segment(semconv.EXECUTION, span.start, end)]


def _at_start(span: Span, limit: int) -> list[Segment]:
    """Lay out the waits at the start of a span one after another, none of them past `limit`."""
    cursor = span.start
    segments: list[Segment] = []
    waits = _waits_at_start(span.facts)
    if not any(waits):
        return segments
    for name, length in zip(_AT_START, waits, strict=True):
        stop = min(limit, cursor + length)
        if stop > cursor:
            segments.append(Segment(name, cursor, stop))
            cursor = stop
    return segments


def _at_one_go(span: Span, end: int, calls: Calls | None) -> list[Segment]:
    """Fill the span of a run that executed once, as most do, in a tenth of the time.

    The engine also works after the state became Running. Calls of the run lie in its execution,
    which shows where the engine's time ends.
    """
    facts = span.facts
    segments = _at_start(span, end)
    ready = segments[-1].end if segments else span.start
    execution = facts.execution
    if execution is None:
        execution = max(0, end - ready - facts.orchestration)
    if calls is not None:
        execution += calls.exit_time
    begin = min(end, max(ready, min(facts.running_since or 0, end - execution)))
    if calls is not None:
        begin = max(begin, min(calls.first, end - execution, calls.last - execution))
    stop = min(end, begin + execution)
    if begin > ready:
        segments.append(Segment(semconv.ORCHESTRATION, ready, begin))
    if stop > begin:
        segments.append(Segment(semconv.EXECUTION, begin, stop))
    if end > stop:
        segments.append(Segment(semconv.ORCHESTRATION, stop, end))
    return segments or [Segment(semconv.EXECUTION, span.start, end)]


def _attempt_pieces(attempts: Sequence[Span], start: int, end: int) -> list[tuple[int, int]]:
    pieces: list[tuple[int, int]] = []
    for attempt in attempts:
        begin = min(max(start, attempt.start), end)
        start = min(max(begin, attempt.start + attempt.duration), end)
        pieces.append((begin, start))
    return pieces


def _estimated_pieces(span: Span, start: int, end: int, exits: int) -> list[tuple[int, int]]:
    """Place execution where the state became Running, in equal parts if the run was retried.

    Without that event, execution follows the waits directly. Without a recorded length, it lasts
    until the engine's own time begins.
    """
    facts = span.facts
    retry, pause = _waited_between(facts), _waited_in_middle(facts)
    execution = facts.execution
    if execution is None:
        execution = end - start - retry - pause - facts.orchestration
    execution += exits
    is_last = _last_phase(span) not in _BETWEEN  # else it waits for one more attempt
    parts = min(max(1 + is_last, facts.run_count), 100) if retry else 1
    gaps = parts - is_last
    part, gap = max(0, execution + pause) // parts, retry // max(1, gaps)
    start = max(start, min(facts.running_since or 0, end - parts * part - gaps * gap))
    pieces = []
    for number in range(parts):
        begin = min(end, start + number * (part + gap))
        pieces.append((begin, min(end, begin + part)))
    return pieces


def _last_phase(span: Span) -> str:
    """Return what a run does after its last attempt: the engine ends it, unless it is open."""
    return PHASE_OF.get(span.open.activity if span.open is not None else "", semconv.ORCHESTRATION)


def _between(facts: Facts) -> str:
    """Return the phase of the time between attempts: the longest wait, if the run has any."""
    length, phase = max(zip(_waits_between(facts), _BETWEEN, strict=True))
    return phase if length else semconv.ORCHESTRATION


def _with_waits(
    start: int, end: int, waits: Sequence[int], *, at_end: bool = False
) -> Iterator[Segment]:
    """Put waits of given lengths into the middle of a stretch of execution, or at its end."""
    rest = min(sum(waits), end - start)
    if not rest:
        yield Segment(semconv.EXECUTION, start, end)
        return
    cursor = end - rest if at_end else start + (end - start - rest) // 2
    yield Segment(semconv.EXECUTION, start, cursor)
    for name, length in zip(_IN_MIDDLE, waits, strict=True):
        stop = cursor + min(length, rest)
        rest -= stop - cursor
        yield Segment(name, cursor, stop)
        cursor = stop
    yield Segment(semconv.EXECUTION, cursor, end)


CAUSES: Final[Mapping[str, Cause]] = {
    **{wait.attribute: wait.name for wait in semconv.WAITS if wait.place in ("before", "start")},
    semconv.EXECUTION: "execution",
    OPEN: "execution",
    **{wait.attribute: wait.name for wait in semconv.WAITS if wait.place in ("between", "middle")},
    semconv.ORCHESTRATION: "orchestration",
    OTHER: "execution",
}
"""The cause on the path that each phase counts as, in the order in which phases are shown."""

PHASE_OF: Final[Mapping[Cause, str]] = {
    cause: phase for phase, cause in CAUSES.items() if phase not in (OPEN, OTHER)
}
"""The phase that each cause is shown as."""
