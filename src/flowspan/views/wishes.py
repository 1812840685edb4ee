"""What a user asks of a view."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a user asks of a view of a trace. A view follows those that mean something to it.

    Attributes:
        width: Cells that a line may take.
        unicode: False writes ASCII only.
        everything: Collapse nothing.
        top: How many tasks to list, those first that hold most of the critical path.
        with_logs: Show log lines where they are not shown anyway.
    """

    width: int = 120
    unicode: bool = True
    everything: bool = False
    top: int = 10
    with_logs: bool = False
