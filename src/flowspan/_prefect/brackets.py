"""Wrap the context managers of Prefect's engines, which a run is inside of."""

from __future__ import annotations

import asyncio
import signal
from time import time_ns
from typing import TYPE_CHECKING, Any

from opentelemetry import context as context_api
from prefect.exceptions import TerminationSignal

from flowspan._prefect.observer import contained
from flowspan.recording.recorder import current_recorder

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from flowspan._prefect.telemetry import EngineTelemetry


class Bracket:
    """Wraps a context manager of an engine; subclasses define what happens around it.

    Works with ``with`` and ``async with``, since both pairs of methods only delegate.
    """

    def __init__(self, manager: Any, telemetry: EngineTelemetry) -> None:
        self._manager: Any = manager
        self._telemetry = telemetry

    def _before(self) -> None: ...
    def _entered(self, value: Any) -> None: ...
    def _leaving(self, error: BaseException | None) -> None: ...
    def _left(self) -> None: ...

    def __enter__(self) -> Any:
        with contained:
            self._before()
        try:
            value = self._manager.__enter__()
        except BaseException:
            with contained:
                self._left()
            raise
        with contained:
            self._entered(value)
        return value

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Any:
        with contained:
            self._leaving(error)
        try:
            return self._manager.__exit__(kind, error, traceback)
        finally:
            with contained:
                self._left()

    async def __aenter__(self) -> Any:
        with contained:
            self._before()
        try:
            value = await self._manager.__aenter__()
        except BaseException:
            # For example a cancellation; __aexit__ will not be called.
            with contained:
                self._left()
            raise
        with contained:
            self._entered(value)
        return value

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Any:
        with contained:
            self._leaving(error)
        try:
            return await self._manager.__aexit__(kind, error, traceback)
        finally:
            with contained:
                self._left()


class WholeRun(Bracket):
    """Around ``initialize_run``: from when the engine takes the run up to when it leaves it."""

    _remaining: Callable[[], object] | None = None

    def _leaving(self, error: BaseException | None) -> None:
        if isinstance(error, TerminationSignal):
            self._telemetry.terminate()

    def _left(self) -> None:
        self._remaining = self._telemetry.leave()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Any:
        try:
            return super().__exit__(kind, error, traceback)
        finally:
            if self._remaining is not None:
                with contained:
                    self._remaining()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Any:
        try:
            return await super().__aexit__(kind, error, traceback)
        finally:
            if self._remaining is not None:
                with contained:  # Other flows may run in this event loop.
                    await asyncio.to_thread(self._remaining)


class Attempt(Bracket):
    """Around ``run_context``, which an engine enters once for each attempt."""

    def _before(self) -> None:
        self._outer = context_api.get_current()
        recorder = self._telemetry.recorder
        if recorder is not None:
            recorder.begin_attempt(time_ns())
            if recorder.run.allows_retries or current_recorder() is not recorder:
                context_api.attach(recorder.as_context())

    def _entered(self, value: Any) -> None:
        # A task's function is entered later, in its transaction.
        recorder = self._telemetry.recorder
        if recorder is not None and hasattr(value, "flow"):
            recorder.begin_execution(time_ns())

    def _leaving(self, error: BaseException | None) -> None:
        if self._telemetry.recorder is not None:
            self._telemetry.recorder.end_execution(time_ns())
        if isinstance(error, TerminationSignal):
            self._telemetry.expect_kill()

    def _left(self) -> None:
        recorder = self._telemetry.recorder
        # An adopted run has ended by now, and its context with it.
        is_over = recorder is not None and recorder.is_finished
        context_api.attach(self._telemetry.outer if is_over else self._outer)


class MortalAttempt(Attempt):
    """Around a flow's `run_context`, if Prefect leaves it by sending itself a signal.

    Before 3.8.4, Prefect turns SIGTERM into an exception inside `run_context`, which then repeats
    the signal with the previous handler. By default that kills the process, before any state is
    set and before `initialize_run` is left. So this is the last chance to end the run.
    """

    _is_mortal = False

    def _before(self) -> None:
        super()._before()
        self._is_mortal = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    def _leaving(self, error: BaseException | None) -> None:
        super()._leaving(error)
        if self._is_mortal and isinstance(error, TerminationSignal) and not _is_meant_to_stop():
            self._telemetry.terminate()
            self._telemetry.leave()


def _is_meant_to_stop() -> bool:
    """Return whether Prefect's runner stops this process, which then lives to set a state."""
    try:
        from prefect._internal.control_listener import get_intent  # noqa: PLC0415 - not in 3.6.0
    except ImportError:
        return False
    return get_intent() is not None


class TaskTransaction(Bracket):
    """Around ``transaction_context``, in which a task's function is called."""

    def _entered(self, value: Any) -> None:
        self._telemetry.transaction = value
        recorder = self._telemetry.recorder
        if recorder is not None and not value.is_committed():
            self._telemetry.count_input()
            recorder.begin_execution(time_ns())

    def _leaving(self, error: BaseException | None) -> None:  # noqa: ARG002
        if self._telemetry.recorder is not None:
            self._telemetry.recorder.end_execution(time_ns())
