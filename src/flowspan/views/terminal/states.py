"""Write the states of the runs of a trace as lines, each once, while the trace grows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from flowspan import semconv
from flowspan.text import clean, clock, human
from flowspan.views.terminal import outcomes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from flowspan.read.span import Span

_PENDING: Final = "PENDING"
_STATE: Final = 13  # cells: AwaitingRetry


class _State(NamedTuple):
    """A state that a run entered at a time (ns); `is_last` if its span has ended with it."""

    time: int
    name: str
    is_last: bool


class States:
    """The states of the runs of one trace, without those that have been written."""

    def __init__(self) -> None:
        """Begin with nothing written."""
        self._written: dict[str, list[str]] = {}

    def lines(self, spans: Iterable[Span]) -> Iterator[str]:
        """Yield a line for each new state, in order of time.

        A line has the time, the state and the run. The last one of a run also has its duration.
        """
        found = [(state, span) for span in spans if span.is_run for state in self._new(span)]
        for state, span in sorted(found, key=lambda one: one[0].time):
            took = f"  {human(span.duration)}" if state.is_last else ""
            yield f"{clock(state.time)}  {state.name:<{_STATE}}  {_place(span)}{took}"

    def _new(self, span: Span) -> Iterator[_State]:
        """Yield the states of a run after those that have been written."""
        written = self._written.setdefault(span.span_id, [])
        left = written.copy()
        for state in _states(span):
            if state.name in left:
                left = left[left.index(state.name) + 1 :]
            else:
                written.append(state.name)
                yield state


def _states(span: Span) -> Iterator[_State]:
    if span.open is not None:
        # It has been taken up; a final state comes with its time and duration, in the span.
        is_told = span.facts.state_type not in {None, _PENDING, *semconv.FINAL_STATE_TYPES}
        name = clean(span.facts.state_name) if is_told else "Running"
        yield _State(span.start, name, is_last=False)
        if span.open.state == "lost":
            yield _State(span.open.last_seen, "lost", is_last=False)
        return
    events = [one for one in span.events if one.attributes.get(semconv.STATE_TYPE) != _PENDING]
    states = [one for one in events if semconv.STATE_TYPE in one.attributes]
    for event in states[:-1]:
        yield _State(event.time, clean(event.name), is_last=False)
    ending = outcomes.word(span.facts.result, span.facts.state_name)
    yield _State(span.end, clean(states[-1].name) if states else ending, is_last=True)


def _place(span: Span) -> str:
    """Return where a run belongs: ``flow run-name``, or ``flow/task-run``."""
    known = span.facts
    flow = clean(known.flow_name)
    if known.run_type == "flow":
        return f"{flow or clean(span.name)} {clean(known.run_name)}".rstrip()
    return f"{flow}/{clean(known.run_name or span.name)}"
