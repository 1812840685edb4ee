"""Keep gRPC calls from overlapping with forks.

gRPC prepares a process for a fork only if no thread is waiting inside one of its calls. Otherwise
it prints a line to stderr and skips its preparations, and the forked process may crash
(https://github.com/grpc/grpc/blob/master/doc/fork_support.md). An export may take seconds, and a
flow may fork at any time, so a fork first waits for running calls. Calls that do not end soon are
cancelled, and repeated after the fork.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

_PATIENCE: Final = 0.3
"""Seconds from its start after which a fork cancels a call; the fork waits for it until then."""
_GRACE: Final = 0.2
"""Seconds that a fork waits for cancelled calls to end; they usually end at once."""


def hold_back(exporter: Any) -> None:
    """Let forks wait for, or cancel, the calls of one of OpenTelemetry's gRPC exporters."""
    # This uses private parts, because no argument reaches the channel. The exporter creates a stub
    # for each channel that it opens, the first in its __init__.
    make_stub = exporter._stub  # noqa: SLF001
    exporter._stub = lambda channel: _Stub(make_stub(channel))  # noqa: SLF001
    exporter._client = exporter._stub(exporter._channel)  # noqa: SLF001
    _register()


class _Stub:
    """Makes the one call of an exporter, and repeats it if a fork has cancelled it."""

    def __init__(self, stub: Any) -> None:
        self._export = stub.Export

    def Export(self, request: Any, metadata: Any, timeout: float) -> Any:  # noqa: N802 - gRPC's
        from grpc import (  # type: ignore[import-untyped]  # noqa: PLC0415 - loaded only if used
            FutureCancelledError,
        )

        # While it exits, Python starts no threads, which cancellable calls need. Nothing forks
        # then, so wait inside gRPC.
        if not threading.main_thread().is_alive():
            return self._export(request, metadata=metadata, timeout=timeout)
        since = time.monotonic()
        while True:
            left = since + timeout - time.monotonic()
            call = _calls.start(
                lambda: self._export.future(request, metadata=metadata, timeout=left),  # noqa: B023 - called at once
                since,
            )
            with contextlib.suppress(FutureCancelledError):
                return call.result()


@dataclass(eq=False)
class _Call:
    """A running call; `since` is the start of its first try."""

    future: Any
    since: float
    ended: threading.Event = field(default_factory=threading.Event)


class _Calls:
    """The running calls of this process; none can start during a fork."""

    def __init__(self) -> None:
        self._starting = threading.RLock()
        self._under_way: set[_Call] = set()

    def start(self, make: Callable[[], Any], since: float) -> Any:
        with self._starting:
            call = _Call(make(), since)
            self._under_way.add(call)
        call.future.add_done_callback(lambda _: self._end(call))
        return call.future

    def _end(self, call: _Call) -> None:
        self._under_way.discard(call)  # a forked process has no calls of its parent
        call.ended.set()

    def before_fork(self) -> None:
        self._starting.acquire(timeout=_PATIENCE)
        calls = list(self._under_way)
        for call in calls:
            call.ended.wait(max(0.0, call.since + _PATIENCE - time.monotonic()))
        for call in calls:
            call.future.cancel()
        deadline = time.monotonic() + _GRACE
        for call in calls:
            call.ended.wait(max(0.0, deadline - time.monotonic()))

    def after_fork(self) -> None:
        with contextlib.suppress(RuntimeError):  # another thread is forking, and holds it
            self._starting.release()


_calls = _Calls()


@cache
def _register() -> None:
    # After gRPC has registered its own hooks: the last one registered is called first.
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=_calls.before_fork,
            after_in_parent=_calls.after_fork,
            after_in_child=_calls.__init__,  # type: ignore[misc] # the child starts with none
        )
