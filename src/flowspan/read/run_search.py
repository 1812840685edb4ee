"""Find the run that a name, an id or its first digits mean, wherever runs are recorded."""

from __future__ import annotations

import difflib
import itertools
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from flowspan.read.lines import spellings
from flowspan.read.selection import AmbiguousRunError, Summary

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flowspan.read.lines import Problem
    from flowspan.read.selection import Wanted
    from flowspan.read.span import Span

# How well a run fits: a whole trace, a flow run, one known by its tasks only, a task run.
_TRACE, _FLOW, _CALLED, _TASK = 3, 2, 1, 0

_DASHES: Final = (8, 12, 16, 20)  # the digits of a run id before each dash
_NEAREST: Final = 3


class Found(NamedTuple):
    """A run as one span or log record has it.

    Attributes:
        summary: The run.
        is_flow: Whether it is a flow run.
        flow_run_id: The id of the flow run that it is part of, if known.
    """

    summary: Summary
    is_flow: bool
    flow_run_id: str | None

    @property
    def of_flow(self) -> Summary:
        """The flow run that it is, or is part of."""
        return self.summary if self.is_flow else replace(self.summary, run_id=self.flow_run_id)


def of_span(span: Span) -> Found:
    """Return the run whose span it is; otherwise the trace of the span."""
    facts = span.facts
    run_id = str(facts.run_id) if span.is_run else None
    name = facts.flow_name or span.name
    one = Summary(span.trace_id, run_id, name, span.end, facts.run_name, facts.result)
    return Found(one, facts.run_type == "flow", facts.flow_run_id)


class RunSearch:
    """Collects the runs that a text may mean.

    Attributes:
        needles: Bytes of which at least one is in each line of JSON that has such a run.
    """

    def __init__(self, wanted: Wanted) -> None:
        """Search for a name, an id, or its first digits."""
        self._wanted = wanted
        self.needles = _needles(wanted)
        self._best: dict[tuple[str, str | None], tuple[int, Summary]] = {}

    def is_mentioned(self, raw: bytes) -> bool:
        """Return whether a line of JSON may have a run that is meant, without decoding it."""
        return any(needle in raw for needle in self.needles)

    def add(self, found: Found, *, by_task: bool = False) -> None:
        """Keep a run if it may be meant. A task run stands for its trace, unless `by_task`."""
        one, digits = found.summary, self._wanted.digits
        if digits and one.trace_id.startswith(digits):
            self._keep(_TRACE + found.is_flow, one, None)
        elif _is_id(one.run_id, digits) or self._wanted.name == one.run_name:
            rank = _FLOW if found.is_flow else _TASK
            self._keep(rank, one, one.run_id if found.is_flow or by_task else None)
        elif _is_id(found.flow_run_id, digits):
            self._keep(_CALLED, one, found.flow_run_id)

    def _keep(self, rank: int, one: Summary, run_id: str | None) -> None:
        key = one.trace_id, run_id
        known = self._best.get(key)
        if known is None or (rank, one.end) > (known[0], known[1].end):
            meant = Summary(one.trace_id, run_id, one.name, one.end, one.run_name, one.result)
            self._best[key] = rank, meant

    @property
    def found(self) -> list[Summary]:
        """The runs that may be meant, the one that ended last first; of a trace, the outermost.

        Without a run id, the whole trace is meant.
        """
        ranks: dict[str, int] = {}
        for rank, one in self._best.values():
            ranks[one.trace_id] = max(rank, ranks.get(one.trace_id, _TASK))
        kept = [one for rank, one in self._best.values() if rank == ranks[one.trace_id]]
        return sorted(kept, key=lambda one: one.end, reverse=True)

    def the_one(self, place: object, problems: Sequence[Problem]) -> Summary | None:
        """Return the run that is meant, if there is one.

        Args:
            place: Where it was searched for, for the message.
            problems: What could not be read there.

        Raises:
            AmbiguousRunError: There are several.
        """
        found = self.found
        if len(found) > 1:
            message = f"{place} holds {len(found):,} runs that {self._wanted.text!r} may mean."
            raise AmbiguousRunError(message, found, problems)
        return found[0] if found else None


def guess(wanted: Wanted, known: Iterable[Summary]) -> str:
    """Return a sentence with the names of runs that are similar to a wanted one; maybe empty."""
    names = {one.run_name for one in known if one.run_name}
    near = difflib.get_close_matches(wanted.name, names, _NEAREST) if wanted.name else []
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def _needles(wanted: Wanted) -> tuple[bytes, ...]:
    """Return how an id begins, or a name is written, in JSON."""
    found: list[bytes] = []
    if wanted.digits:
        ids = dict.fromkeys([f'"{wanted.digits}', f'"{dashed(wanted.digits)}'])
        found += spellings(*ids)
    if wanted.name:
        found += [json.dumps(wanted.name, ensure_ascii=one).encode() for one in (True, False)]
    return tuple(dict.fromkeys(found))


def dashed(digits: str) -> str:
    """Return the first digits of a run id as they are written."""
    edges = [0, *(edge for edge in _DASHES if edge < len(digits)), len(digits)]
    return "-".join(digits[start:end] for start, end in itertools.pairwise(edges))


def _is_id(run_id: str | None, digits: str) -> bool:
    return bool(digits) and (run_id or "").lower().replace("-", "").startswith(digits)
