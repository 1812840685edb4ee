"""Find hosts whose clocks are behind those of others: there, effects come before their causes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from flowspan.analysis.activities import NONE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowspan.analysis.activities import Activities

_NOTICEABLE: Final = 5_000_000  # nanoseconds; synchronized clocks differ by less


@dataclass(frozen=True, slots=True)
class LateClock:
    """The clock of `host` is behind that of `other`, by `least` nanoseconds or more."""

    host: str
    other: str
    least: int


def find_late_clocks(activities: Activities) -> tuple[LateClock, ...]:
    """Return the hosts whose clocks are noticeably behind, with the clock that shows it best.

    A run cannot start before its caller, nor before the tasks that it waited for have ended. What
    the times say beyond that is the least difference of two clocks, as messages take time, too.
    """
    spans, found = activities.spans, dict[str, LateClock]()
    for row, cause, least in _contradictions(activities):
        host, other = spans[row].host, spans[cause].host
        if least < _NOTICEABLE or host is None or other is None or host == other:
            continue
        if host not in found or found[host].least < least:
            found[host] = LateClock(host, other, least)
    return tuple(sorted(found.values(), key=lambda clock: clock.host))


def _contradictions(activities: Activities) -> Iterator[tuple[int, int, int]]:
    """Yield a row, another that must have been before it, and by how much (ns) it was after."""
    spans, facts = activities.spans, activities.facts
    missing = NONE if activities.has_root else activities.root
    for row, parent in enumerate(activities.parents):
        if row == missing:
            continue
        start = spans[row].start
        if parent not in {NONE, missing}:
            yield row, parent, spans[parent].start - start
        ready = start + facts[row].dependencies
        for cause in activities.upstream(row):
            if facts[cause].run_type == "task":  # the server's clock says when a flow ended
                yield row, cause, spans[cause].end - ready
