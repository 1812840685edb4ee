"""Keep the current span of a generator to itself.

Python runs a generator in the context of whoever resumes it (PEP 568 was not accepted).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import context as context_api

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator


def in_own_context(generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Run `generator` with its own current span, which its consumer does not see."""
    context = context_api.get_current()
    resume: Callable[[], Any] = lambda: next(generator)  # noqa: E731
    while True:
        outer = context_api.get_current()
        context_api.attach(context)
        try:
            item = resume()
        except StopIteration as stop:
            return stop.value
        finally:
            context = context_api.get_current()
            context_api.attach(outer)
        try:
            sent = yield item
        except BaseException as error:  # noqa: BLE001 - the generator handles all
            resume = _throwing(generator, error)
        else:
            resume = _sending(generator, sent)


def _throwing(generator: Generator[Any, Any, Any], error: BaseException) -> Callable[[], Any]:
    return lambda: generator.throw(error)


def _sending(generator: Generator[Any, Any, Any], value: Any) -> Callable[[], Any]:
    return lambda: generator.send(value)


async def in_own_context_async(generator: AsyncGenerator[Any, Any]) -> AsyncGenerator[Any, Any]:
    """Run an asynchronous `generator` as `in_own_context` runs one."""
    context = context_api.get_current()
    step: Any = generator.__anext__
    arguments: tuple[Any, ...] = ()
    while True:
        outer = context_api.get_current()
        context_api.attach(context)
        try:
            item = await step(*arguments)
        except StopAsyncIteration:
            return
        finally:
            context = context_api.get_current()
            context_api.attach(outer)
        try:
            sent = yield item
        except BaseException as error:  # noqa: BLE001 - the generator handles all
            step, arguments = generator.athrow, (error,)
        else:
            step, arguments = generator.asend, (sent,)
