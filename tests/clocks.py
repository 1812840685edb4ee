"""Times that tests note themselves, to hold against those of spans and metrics.

A loaded machine makes anything last longer, so no number can be the bound. What happened inside
of a span lies within its times, and the span lies within those of whoever called it.
"""

import threading
import time
from typing import Any

from typing_extensions import Self

SLACK = 30.0
"""Seconds by which a loaded machine may miss a time limit. What ignores the limit takes longer."""


class Timed:
    """When the block that it manages was entered and left, in nanoseconds since the epoch.

    By the wall clock, as spans tell the time: what `time.sleep` counts by may differ from it.
    """

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.start = 0
        self.end = 0

    def __enter__(self) -> Self:
        self.start = time.time_ns()
        self.begun.set()
        return self

    def __exit__(self, *_: object) -> None:
        self.end = time.time_ns()

    @property
    def seconds(self) -> float:
        return (self.end - self.start) / 1e9


def timed_wait(future: Any) -> Timed:
    """Note when somebody waits for `future`, and until when."""
    waiting, wait = Timed(), future.wait

    def noted(timeout: float | None = None) -> None:
        with waiting:
            wait(timeout)

    future.wait = noted
    return waiting
