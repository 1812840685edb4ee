"""The options of a view."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """The options of a view of a trace. Views ignore options that do not apply to them.

    Attributes:
        width: Maximum width of a line in cells.
        unicode: False uses only ASCII.
        everything: Collapse nothing.
        top: How many tasks to list, the largest shares of the critical path first.
        with_logs: Show log lines in views that omit them by default.
    """

    width: int = 120
    unicode: bool = True
    everything: bool = False
    top: int = 10
    with_logs: bool = False
