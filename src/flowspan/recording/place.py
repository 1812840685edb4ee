"""Describe where a run is: on which host, and in which process, thread and task of a loop."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from typing import TYPE_CHECKING, Final

from flowspan import semconv

if TYPE_CHECKING:
    from flowspan.recording.run import Attributes

_HOST: Final = socket.gethostname()


class Place:
    """Where the code that makes this is running.

    Attributes:
        strand: Identifies the thread, and in an event loop the task.
    """

    __slots__ = ("_thread", "strand")

    def __init__(self) -> None:
        self._thread = threading.current_thread()
        try:
            task = asyncio.current_task()
        except RuntimeError:
            task = None
        self.strand = (self._thread.ident, id(task))

    @property
    def attributes(self) -> Attributes:
        """The attributes of a span for it."""
        return {
            semconv.THREAD_ID: self._thread.ident or 0,
            semconv.THREAD_NAME: self._thread.name,
            semconv.PROCESS_ID: os.getpid(),
            semconv.HOST_NAME: _HOST,
        }
