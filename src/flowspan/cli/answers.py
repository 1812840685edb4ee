"""What ``flowspan why`` prints: one answer with its evidence, or one line for each run."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from flowspan.text import clean, human
from flowspan.views.table import Column, fit, lines
from flowspan.views.terminal.glyphs import glyphs_of
from flowspan.watching.lookup import DIGITS, short_ids

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowspan.watching.explanation import Explanation
    from flowspan.watching.facts import Run
    from flowspan.watching.reasons import Action, Reason

VERSION: Final = 1
"""Version of the document. It goes up if a key changes or disappears, not if one is added."""

_MOST_WIDE: Final = 100
_LEAST_REASON: Final = 47
_LEAST_NAME: Final = 10
_LEAST_STATE: Final = 11


@dataclass(frozen=True, slots=True)
class Answers:
    """What was asked of an API.

    Attributes:
        found: The answers; without a question for one run, those of all late and pending flow runs.
        is_one: Whether one run or deployment was asked about.
        url: Where the API is.
        requests: How many requests it took.
        now: The time by the server's clock, in nanoseconds since the epoch.
    """

    found: Sequence[Explanation]
    is_one: bool
    url: str
    requests: int
    now: int


def draw(answers: Answers, *, width: int, unicode: bool) -> Iterator[Text]:
    """Yield the lines of the answers, the most important one first.

    Args:
        answers: What to write.
        width: Maximum width of a line in cells.
        unicode: False uses only ASCII.
    """
    glyphs = glyphs_of(unicode=unicode)
    if answers.is_one:
        for each in answers.found:
            yield from _one(each, min(width, _MOST_WIDE), glyphs.arrow)
    elif answers.found:
        yield from lines(fit(_columns(answers), width), glyphs.more)
        yield Text()
        yield from map(Text, wrap(_summary(answers.found), width))
    else:
        yield Text("No flow run is late or pending.")
    requests = f"{answers.requests:,} request{'s' * (answers.requests != 1)} to {answers.url}"
    yield Text(requests, "dim")


def _one(found: Explanation, width: int, arrow: str) -> Iterator[Text]:
    yield from _indented(clean(_sentence(found.answer)), width, "", "", "bold")
    for number, reason in enumerate(found.reasons):
        if number or found.status == "scheduled":  # otherwise, the answer has its text
            yield Text()
            yield from _indented(clean(f"Also: {reason.text}."), width, "", "", "bold")
        for said in reason.evidence:
            yield from _indented(clean(said), width, "  ", "  ")
        yield from _actions(reason.actions, width, arrow)
    yield from _actions(found.actions, width, arrow)
    yield Text()
    for remark in found.remarks:
        yield from _indented(clean(remark), width, "", "  ")
    if found.checked:
        said = f"not in the way: {'; '.join(map(clean, found.checked))}"
        yield from _indented(said, width, "", "  ", "dim")
    if found.run is not None:
        codes = ", ".join(dict.fromkeys(reason.code for reason in found.reasons))
        yield Text(f"id: {found.run.id}{f'; reason: {codes}' if codes else ''}", "dim")


def _actions(actions: Sequence[Action], width: int, arrow: str) -> Iterator[Text]:
    for action in actions:
        yield from _indented(f"{arrow} {clean(action.text)}", width, "  ", "    ")
        yield from _command(clean(action.command), width)


def _command(command: str, width: int) -> Iterator[Text]:
    """Yield the lines of a command so that it can be copied whole."""
    pieces = wrap(command, width - 8, break_long_words=False, break_on_hyphens=False)
    for number, piece in enumerate(pieces, 1):
        yield Text(f"      {piece}" + (" \\" if number < len(pieces) else ""), "cyan")


def _indented(text: str, width: int, first: str, rest: str, style: str = "") -> Iterator[Text]:
    for line in wrap(text, width, initial_indent=first, subsequent_indent=rest):
        yield Text(line, style)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _columns(answers: Answers) -> list[Column]:
    found = answers.found
    since = ["" if each.since is None else human(answers.now - each.since) for each in found]
    runs = [each.run for each in found]
    handles = short_ids([run for run in runs if run])
    # A schedule's runs are made together, so their ids begin alike: their names do not.
    ids = [handles.get(run.id, clean(run.name)) if run else "" for run in runs]
    names = [clean(run.name) if run else "" for run in runs]
    return [
        Column("since", 1, list(map(Text, since))),
        Column("state", 4, [Text(_state(each)) for each in found], _LEAST_STATE),
        Column("flow", 2, [Text(clean(each.flow)) for each in found], _LEAST_NAME),
        Column("run", 3, list(map(Text, ids)), DIGITS),
        Column("name", 5, list(map(Text, names)), _LEAST_NAME),
        Column("why", 0, [Text(_short(each)) for each in found], _LEAST_REASON),
    ]


def _state(found: Explanation) -> str:
    return found.run.state.name if found.run is not None else "not planned"


def _short(found: Explanation) -> str:
    return clean(found.reasons[0].text) if found.reasons else "nothing that the API shows"


def _summary(found: Sequence[Explanation]) -> str:
    """Count the runs and their reasons: ``3 late, 1 pending: no_worker 3, infrastructure 1``."""
    counts = Counter(each.status for each in found)
    held = ", ".join(f"{number:,} {status}" for status, number in counts.items())
    codes = Counter(each.code or "unknown" for each in found)
    return f"{held}: {', '.join(f'{code} {number:,}' for code, number in codes.most_common())}"


def to_json(answers: Answers) -> str:
    """Write answers as the documented JSON document.

    ``{"version": 1, "time", "api", "requests", "runs": [...]}``. Moments are integer nanoseconds
    since the epoch by the server's clock.
    """
    document = {
        "version": VERSION,
        "time": answers.now,
        "api": answers.url,
        "requests": answers.requests,
        "runs": [_plain(each) for each in answers.found],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _plain(found: Explanation) -> dict[str, Any]:
    return {
        "subject": found.subject,
        "status": found.status,
        "reason": found.code,
        "answer": found.answer,
        "since": found.since,
        "run": found.run and _plain_run(found.run),
        "reasons": [_plain_reason(reason) for reason in found.reasons],
        "checked": list(found.checked),
        "remarks": list(found.remarks),
        "actions": [action._asdict() for action in found.actions],
    }


def _plain_reason(reason: Reason) -> dict[str, Any]:
    return {
        "reason": reason.code,
        "text": reason.text,
        "evidence": list(reason.evidence),
        "data": dict(reason.data or {}),
        "runs": [_plain_run(run) for run in reason.runs],
        "actions": [action._asdict() for action in reason.actions],
    }


def _plain_run(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "name": run.name,
        "type": run.type,
        "of": run.of,
        "state": {"type": run.state.type, "name": run.state.name, "time": run.state.time},
        "work_pool": run.pool,
        "deployment_id": run.deployment_id,
        "flow_run_id": run.flow_run_id,
    }
