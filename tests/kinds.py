"""The kinds of function that Prefect runs: four kinds, eight engine paths as flows and as tasks."""

import asyncio
from collections.abc import Callable
from typing import Any

from prefect import Flow, Task, flow, task

KINDS = ["sync", "async", "generator", "async_generator"]


def function(kind: str, body: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return a function of one kind that does what `body` does."""
    if kind == "sync":

        def made(*args: Any) -> Any:
            return body(*args)

    elif kind == "async":

        async def made(*args: Any) -> Any:  # type: ignore[misc] # that is what the kinds are about
            await asyncio.sleep(0)
            return body(*args)

    elif kind == "generator":

        def made(*args: Any) -> Any:
            yield body(*args)

    else:

        async def made(*args: Any) -> Any:
            await asyncio.sleep(0)
            yield body(*args)

    made.__name__ = made.__qualname__ = name
    return made


def make_task(
    kind: str, body: Callable[..., Any], name: str = "step", **options: Any
) -> Task[Any, Any]:
    return task(**options)(function(kind, body, name))


def make_flow(
    kind: str, body: Callable[..., Any], name: str = "main", **options: Any
) -> Flow[Any, Any]:
    options.setdefault("validate_parameters", False)
    return flow(**options)(function(kind, body, name))


def call(kind: str, runnable: Any, *args: Any) -> Any:
    """Call a flow of one kind from outside and return its last value."""
    if kind == "sync":
        return runnable(*args)
    if kind == "async":
        return asyncio.run(runnable(*args))
    if kind == "generator":
        return list(runnable(*args))[-1]

    async def consume() -> list[Any]:
        return [item async for item in runnable(*args)]

    return asyncio.run(consume())[-1]


def flow_around(kind: str, step: Task[Any, Any], *args: Any, **options: Any) -> Callable[[], Any]:
    """Return a function that runs a flow called main, which calls a task of one kind."""
    if kind in {"sync", "generator"}:

        @flow(name="main", **options)
        def main() -> Any:
            return step(*args) if kind == "sync" else list(step(*args))[-1]

        return main

    @flow(name="main", **options)
    async def async_main() -> Any:
        if kind == "async":
            return await step(*args)
        return [item async for item in step(*args)][-1]

    return lambda: asyncio.run(async_main())


def make(level: str, kind: str, body: Callable[..., Any], **options: Any) -> Callable[[], Any]:
    """Return a function that runs `body` as a flow called main, or as a task called step in one."""
    if level == "flow":
        main = make_flow(kind, body, **options)
        return lambda: call(kind, main)
    return flow_around(kind, make_task(kind, body, **options))


def span_name(level: str) -> str:
    return "RUN main" if level == "flow" else "step"
