"""What an instrumented process sends to other processes along with its task runs."""

from __future__ import annotations

from typing import Any, Final

_EXPRESSION: Final = "exec(source) or parcel"
# Source, because bytecode would tie both processes to one version of Python, and a reference would
# need flowspan. A process without it must still be able to load this and to pass it on.
_SOURCE: Final = """\
try:
    from flowspan._arrival import arrive
    parcel = arrive(text)
except Exception:
    class Parcel(str):
        def __reduce__(self):
            return eval, (expression, {"expression": expression, "source": source, "text": text})
    parcel = Parcel(text)
"""


class Parcel(str):
    """A text that instruments the process in which it is unpickled (see `flowspan._arrival`).

    Without flowspan there, it is only a string. Pickling that again gives the same bytes, so it may
    pass through any number of processes. It is a string because Prefect can also store the context
    of a background task as JSON.
    """

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Load by built-in functions alone."""
        names = {"expression": _EXPRESSION, "source": _SOURCE, "text": str(self)}
        return eval, (_EXPRESSION, names)
