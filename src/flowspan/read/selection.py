"""Find which trace or run a user means, and how far back to look."""

import datetime as dt
import heapq
import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from flowspan.read import otlp_json as otlp
from flowspan.read.lines import Problem
from flowspan.text import moment

LATEST: Final = "latest"

LEAST_DIGITS: Final = 8
"""The digits of an id that stand for the whole."""

_WHOLE: Final = 32  # digits of a trace id, and of a run id
_DIGITS: Final = re.compile(rf"[0-9a-f]{{{LEAST_DIGITS},{_WHOLE}}}")
_LATEST: Final = re.compile(LATEST + r"(?:~(\d{1,4}))?")
_SECONDS: Final = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_AGO: Final = re.compile(rf"([0-9]{{1,9}})\s*([{''.join(_SECONDS)}])")

_Line = TypeVar("_Line")


class UnknownRunError(Exception):
    """The wanted trace or run was not found."""

    def __init__(
        self, message: str, known: Sequence["Summary"], problems: Sequence[Problem]
    ) -> None:
        super().__init__(message)
        self.known = tuple(known)
        self.problems = tuple(problems)


class AmbiguousRunError(UnknownRunError):
    """Several runs may be meant; `known` has them."""


@dataclass(frozen=True, slots=True)
class Summary:
    """An entry in a list of traces or runs.

    Attributes:
        trace_id: The trace id, empty if nothing was traced.
        run_id: The id of a run in it, if it has any.
        name: Name of the flow, or the best substitute.
        end: The last known time in it, in nanoseconds since the epoch.
        run_name: The name of the run; None if unknown.
        result: How the run ended, or ``running``; None if unknown.
    """

    trace_id: str
    run_id: str | None
    name: str
    end: int
    run_name: str | None = None
    result: str | None = None


def steps_back(wanted: str) -> int | None:
    """Return how many runs before the latest the text means, or None for any other text.

    ``latest`` is 0, ``latest~1`` the one before, and so on.
    """
    found = _LATEST.fullmatch(wanted.strip().lower())
    return int(found[1] or 0) if found else None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a user's text may mean: one of the latest runs, an id, its first digits, or a name.

    Attributes:
        text: The text.
        back: How many runs before the latest; None if it means none of them.
        digits: At least the first `LEAST_DIGITS` digits of a trace id or a run id, in lower case
            without dashes; empty if it cannot be an id.
        name: The name of a run; empty if it cannot be one.
    """

    text: str
    back: int | None = None
    digits: str = ""
    name: str = ""

    @property
    def trace_id(self) -> str | None:
        """The trace id, if the text may be a whole one: a run id without dashes looks the same."""
        return self.text.lower() if otlp.TRACE_ID.fullmatch(self.text.lower()) else None

    @property
    def run_id(self) -> str | None:
        """The run id, if the text may be a whole one."""
        return str(uuid.UUID(self.digits)) if len(self.digits) == _WHOLE else None


def parse_wanted(text: str) -> Wanted:
    """Return what a text may mean.

    Args:
        text: The name of a run, its id, or the id of a trace. The first digits of an id will do.
            ``latest`` is the run that ended last, ``latest~1`` the one before.

    Raises:
        ValueError: It is empty.
    """
    text = text.strip()
    if not text:
        raise ValueError(f"It is empty: name a run, its id, or {LATEST!r}.")
    if (back := steps_back(text)) is not None:
        return Wanted(text, back=back)
    digits = text.lower().replace("-", "")
    if not _DIGITS.fullmatch(digits):
        return Wanted(text, name=text)
    return Wanted(text, digits=digits, name="" if len(digits) == _WHOLE else text)


def parse_since(text: str, now: dt.datetime) -> int:
    """Return the time that a text such as ``30d``, ``12h`` or ``2026-11-01`` means.

    Args:
        text: A whole number of weeks, days, hours, minutes or seconds (``w``, ``d``, ``h``, ``m``,
            ``s``) before now; or an ISO 8601 date, which begins at midnight, or date and time. They
            are local unless the text has an offset from UTC.
        now: The current time, with its offset from UTC.

    Returns:
        Nanoseconds since the epoch.

    Raises:
        ValueError: The text is none of these, or is before 1970 or after now.
    """
    text = text.strip()
    try:
        if ago := _AGO.fullmatch(text):
            # Counted in seconds, so a day has 24 hours even if clocks change.
            then = now.timestamp() - int(ago[1]) * _SECONDS[ago[2]]
        else:
            then = dt.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(
            f"{text!r} is neither an age such as 30d or 12h nor a date such as 2026-11-01."
        ) from None
    if not 0 <= then <= now.timestamp():
        raise ValueError(f"{text!r} is {'before 1970' if then < 0 else 'in the future'}.")
    return int(then) * 1_000_000_000


def trace_of_root(run_id: str) -> str:
    """Return the id of the trace whose root is a flow run, given the run's id."""
    from flowspan.identity import derive_trace_id  # noqa: PLC0415 - imports the SDK

    return f"{derive_trace_id(run_id):032x}"


def missing_runs(wanted: str, flow: str | None, since: int) -> str:
    """Return a phrase for runs that were not found, with their flow and time (ns) if given."""
    one = f"run {wanted}" if steps_back(wanted) else "run"
    return (one if flow is None else f"{one} of {flow!r}") + (
        f" that ended since {moment(since)}" if since else ""
    )


def most_recent(
    lines: Iterable[tuple[int, _Line]],
    summarize: Callable[[_Line], Iterable[Summary]],
    key: Callable[[Summary], str],
    count: int,
) -> list[Summary]:
    """Find the entries that ended last, the latest first; entries with a run come before others.

    Parsing stops once no further line can change the answer.

    Args:
        lines: Each with the last time that it mentions, the latest first.
        summarize: Returns the entries of a line.
        key: Returns the identity of an entry, to merge its parts.
        count: How many to find.
    """
    best: dict[str, Summary] = {}
    with_run: dict[str, int] = {}
    for last, line in lines:
        if len(with_run) >= count and heapq.nlargest(count, with_run.values())[-1] >= last:
            break
        for found in summarize(line):
            known = best.get(key(found))
            if known is None or _rank(found) > _rank(known):
                best[key(found)] = found
                if found.run_id is not None:
                    with_run[key(found)] = found.end
            elif known.run_id == found.run_id and known.result is None:
                best[key(found)] = replace(known, result=found.result)
    return sorted(best.values(), key=_rank, reverse=True)[:count]


def _rank(summary: Summary) -> tuple[bool, int]:
    return summary.run_id is not None, summary.end
