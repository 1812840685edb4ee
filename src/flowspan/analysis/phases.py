"""What the time of a span was spent on, and where inside the span it lies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from flowspan import semconv

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowspan.read.span import Span

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


OTHER: Final = "other"
"""Phase of a span that is no run's: of another instrumentation, or the application's own."""


class Segment(NamedTuple):
    """A stretch of time spent in one phase, in nanoseconds since the epoch.

    Phases are the names of the attributes that hold their totals (``prefect.wait.*``,
    ``prefect.execution``, ``prefect.orchestration``), or `OTHER`.
    """

    phase: str
    start: int
    end: int

    @property
    def cause(self) -> Cause:
        """What it is to the critical path."""
        return CAUSES[self.phase]


def before(span: Span) -> list[Segment]:
    """Lay the waits that end where the span starts, the last one nearest to it."""
    cursor = span.start
    segments: list[Segment] = []
    facts = span.facts
    waits = (facts.late, facts.infrastructure, facts.queue)
    if not any(waits):
        return segments
    for name, length in zip(reversed(semconv.WAITS_BEFORE), reversed(waits), strict=True):
        start = max(0, cursor - length)
        if start < cursor:
            segments.insert(0, Segment(name, start, cursor))
        cursor = start
    return segments


def inside(
    span: Span, end: int, attempts: Sequence[Span], calling: tuple[int, int] | None
) -> list[Segment]:
    """Fill the span without a gap: waits first, then work, the engine's own time as the rest.

    Args:
        span: That of a run.
        end: When it ended.
        attempts: Its attempts, in order of time.
        calling: From when to when there was what it called, None if it called nothing.
    """
    if not (attempts or span.facts.retry or span.facts.pause):
        return _at_one_go(span, end, calling)
    # Attempts tell exact times, so they cut the waits' totals, not the other way round.
    limit = min([end, *(max(span.start, attempt.start) for attempt in attempts)])
    segments: list[Segment] = []
    cursor = span.start
    facts = span.facts
    for name, length in (
        (semconv.WAIT_DEPENDENCIES, facts.dependencies),
        (semconv.WAIT_CONCURRENCY, facts.concurrency),
    ):
        stop = min(limit, cursor + length)
        segments.append(Segment(name, cursor, stop))
        cursor = stop
    pieces = _attempt_pieces(attempts, cursor, end) or _estimated_pieces(span, cursor, end)
    between = semconv.WAIT_RETRY if facts.retry else semconv.ORCHESTRATION
    longest = max(pieces, key=lambda piece: piece[1] - piece[0])
    for place, (start, stop) in enumerate(pieces):
        gap = between if place else semconv.ORCHESTRATION
        segments.append(Segment(gap, cursor, start))
        pause = facts.pause if (start, stop) == longest else 0
        segments += _with_pause(start, stop, pause)
        cursor = stop
    segments.append(Segment(semconv.ORCHESTRATION, cursor, end))
    kept = [segment for segment in segments if segment.end > segment.start]
    return kept or [Segment(semconv.EXECUTION, span.start, end)]


def _at_one_go(span: Span, end: int, calling: tuple[int, int] | None) -> list[Segment]:
    """Fill the span of a run that executed once, as most do: the same in a tenth of the time.

    The engine has its own to do after the state became Running, and what a run calls lies in its
    execution: if that leaves a choice, it tells the engine's time apart.
    """
    facts = span.facts
    ready = min(end, span.start + facts.dependencies)
    slot = min(end, ready + facts.concurrency)
    execution = facts.execution
    if execution is None:
        execution = max(0, end - slot - facts.orchestration)
    begin = min(end, max(slot, min(facts.running_since or 0, end - execution)))
    if calling is not None:
        first, last = calling
        begin = max(begin, min(first, end - execution, last - execution))
    stop = min(end, begin + execution)
    segments = []
    if ready > span.start:
        segments.append(Segment(semconv.WAIT_DEPENDENCIES, span.start, ready))
    if slot > ready:
        segments.append(Segment(semconv.WAIT_CONCURRENCY, ready, slot))
    if begin > slot:
        segments.append(Segment(semconv.ORCHESTRATION, slot, begin))
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


def _estimated_pieces(span: Span, start: int, end: int) -> list[tuple[int, int]]:
    """Lay execution where the state became Running, in equal parts if it was retried.

    Without that event it lies directly behind the waits. A run that does not say how long it
    executed did so until its engine's own time began.
    """
    facts = span.facts
    retry, pause, execution = facts.retry, facts.pause, facts.execution
    if execution is None:
        execution = end - start - retry - pause - facts.orchestration
    parts = min(max(2, facts.run_count), 100) if retry else 1
    part, gap = max(0, execution + pause) // parts, retry // max(1, parts - 1)
    start = max(start, min(facts.running_since or 0, end - parts * part - (parts - 1) * gap))
    pieces = []
    for number in range(parts):
        begin = min(end, start + number * (part + gap))
        pieces.append((begin, min(end, begin + part)))
    return pieces


def _with_pause(start: int, end: int, pause: int) -> list[Segment]:
    """Put a pause into the middle of a stretch of execution."""
    if pause == 0:
        return [Segment(semconv.EXECUTION, start, end)]
    pause = min(pause, end - start)
    before = start + (end - start - pause) // 2
    return [
        Segment(semconv.EXECUTION, start, before),
        Segment(semconv.WAIT_PAUSE, before, before + pause),
        Segment(semconv.EXECUTION, before + pause, end),
    ]


CAUSES: Final[dict[str, Cause]] = {
    semconv.EXECUTION: "execution",
    semconv.WAIT_QUEUE: "queue",
    semconv.WAIT_DEPENDENCIES: "dependencies",
    semconv.WAIT_CONCURRENCY: "concurrency",
    semconv.WAIT_RETRY: "retry",
    semconv.WAIT_PAUSE: "pause",
    semconv.WAIT_LATE: "late",
    semconv.WAIT_INFRASTRUCTURE: "infrastructure",
    semconv.ORCHESTRATION: "orchestration",
    OTHER: "execution",
}
"""What a phase of a span is to the path."""
