"""What an instrumented process sends to other processes along with its task runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from typing_extensions import Self

_EXPRESSION: Final = "exec(source) or parcel"
# Source, because bytecode would tie both processes to one version of Python, and a reference would
# need flowspan. A process without it must still be able to load this and to pass it on.
_SOURCE: Final = """\
try:
    from flowspan._arrival import arrive
    parcel = arrive(text, note)
except Exception as error:
    import logging, os, platform, sys
    class Parcel(str):
        def __reduce__(self):
            names = {"expression": expression, "source": source, "text": text, "note": note}
            return eval, (expression, names)
    parcel = Parcel(text)
    logger = logging.getLogger("prefect.flowspan")
    scheduler = getattr(sys.modules.get("distributed.scheduler"), "Scheduler", None)
    if not (getattr(scheduler, "_instances", None) or hasattr(logger, "said")):
        logger.said = True
        logger.warning(
            "Task runs in process %s on %s are not recorded, because flowspan cannot be used "
            "there: %s. Install flowspan in each environment that runs tasks.",
            os.getpid(), platform.node(), error)
"""


class Note(NamedTuple):
    """What the sender of one task run knows about it; times in nanoseconds since the epoch.

    Attributes:
        submitted: When the run was submitted; None if unknown.
        upstream: The ids of the runs whose futures the task runner waits for, by input.
        ended: When the last of these ended; 0 if unknown.
        run_id: The run, if its task runner keeps the note from it.
    """

    submitted: int | None = None
    upstream: Mapping[str, Sequence[str]] = {}
    ended: int = 0
    run_id: str | None = None

    @property
    def is_there(self) -> bool:
        """Whether there was a sender that wrote it."""
        return self.submitted is not None or self.run_id is not None

    def as_text(self) -> str:
        """Write the note as JSON."""
        return json.dumps(self)

    @classmethod
    def of(cls, text: str) -> Self:
        """Read a note, perhaps of another flowspan; raises ValueError or TypeError."""
        return cls(*json.loads(text)[: len(cls._fields)]) if text else cls()


class Parcel(str):
    """A text that instruments the process in which it is unpickled (see `flowspan._arrival`).

    Without flowspan there, it is only a string, and the process logs one warning, unless it is a
    Dask scheduler. Pickling the string again gives the same bytes, so it may pass through any
    number of processes. It is a string because Prefect can also store the context of a background
    task as JSON.

    Attributes:
        note: The text of a `Note` about the run that it goes along with, or a function that returns
            one and is called when the parcel is pickled.
    """

    __slots__ = ("note",)

    note: str | Callable[[], str]

    def __new__(cls, text: str, note: str | Callable[[], str] = "") -> Self:
        """Make a parcel, or a copy of one with another note."""
        parcel = super().__new__(cls, text)
        parcel.note = note
        return parcel

    def __reduce__(self) -> tuple[Any, ...]:
        """Load by built-in functions alone."""
        note = self.note if isinstance(self.note, str) else self.note()
        names = {"expression": _EXPRESSION, "source": _SOURCE, "text": str(self), "note": note}
        return eval, (_EXPRESSION, names)


_last: list[Note] = []


def keep_note(text: str) -> None:
    """Keep the note that has just arrived in this process; raises like `Note.of`."""
    _last[:] = [Note.of(text)]


def note_about(run_id: str, parcel: object) -> Note:
    """Return what the sender of a task run knows about it; raises like `Note.of`.

    `parcel` came with the run. If the run's task runner keeps it from the run, as a process pool
    does, that unpickles each run just before it starts, one at a time, so the last note is the one.
    """
    if isinstance(parcel, Parcel) and isinstance(parcel.note, str):
        return Note.of(parcel.note)
    if _last and _last[0].run_id == run_id:
        return _last.pop()
    return Note()
