"""Finish when SIGTERM kills this process, without changing what the signal does."""

import _thread
import contextlib
import contextvars
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

_SIGTERM = signal.SIGTERM


class SigtermHandler:
    """Finishes when SIGTERM arrives, and then lets its default action kill the process.

    It is only for processes that Prefect runs for its tasks, and never takes the place of another
    handler: whoever has one decides how the process ends.
    """

    def __init__(self, finish: Callable[[], object], timeout: float) -> None:
        """Call `finish` at the signal, and wait at most `timeout` seconds for it."""
        self._finish = finish
        self._timeout = timeout

    def install(self) -> None:
        """Handle SIGTERM, if this is the main thread and the signal would kill the process."""
        if (
            signal.getsignal(_SIGTERM) is signal.SIG_DFL
            and threading.current_thread() is threading.main_thread()
            and os.getpid() != 1  # the kernel ignores the signal there, so the runs go on
        ):
            signal.signal(_SIGTERM, self._handle)

    def remove(self) -> None:
        """Restore the default action, unless another handler has taken the place of this one."""
        if signal.getsignal(_SIGTERM) == self._handle:
            with contextlib.suppress(ValueError):  # not the main thread
                signal.signal(_SIGTERM, signal.SIG_DFL)

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        signal.signal(signum, signal.SIG_DFL)  # a second signal kills at once
        try:
            run_within(self._timeout, self._finish)
        finally:
            signal.raise_signal(signum)


def run_within(timeout: float, function: Callable[[], object]) -> None:
    """Run `function` in another thread, and wait for it at most `timeout` seconds.

    The code that a signal interrupts may hold any lock, so this takes none that others can hold. At
    the exit of the interpreter, when no thread can be started, it does nothing.
    """
    ended = _thread.allocate_lock()
    ended.acquire()

    def run() -> None:
        try:
            function()
        finally:
            ended.release()

    with contextlib.suppress(RuntimeError):
        _thread.start_new_thread(contextvars.copy_context().run, (run,))
        ended.acquire(timeout=timeout)
