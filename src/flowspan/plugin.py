"""flowspan as a plugin of Prefect: it records the runs of any process, without changes in the code.

Prefect loads it, while Prefect itself is being imported, if its setting ``plugins.enabled`` is on.
It waits for the first run: until then the application, or another plugin, may set providers or call
`flowspan.instrument` with arguments of its own.
"""

import functools
import inspect
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

import pluggy  # Prefect requires it, and only Prefect imports this module
import wrapt

import flowspan

PREFECT_PLUGIN_API_REQUIRES: Final = ">=0.1,<1"

STARTERS: Final = {
    "prefect.flow_engine": ("run_flow",),
    "prefect.task_engine": ("run_task", "run_task_sync", "run_task_async"),
}
"""Prefect's functions that every run goes through, by module."""

_logger = logging.getLogger("flowspan")


@pluggy.HookimplMarker("prefect-experimental")
def setup_environment(*, ctx: object) -> None:  # noqa: ARG001 - Prefect passes it to every plugin
    """Record all runs of this process, from the first one on."""
    for module in STARTERS:
        wrapt.register_post_import_hook(_watch, module)


def _watch(module: ModuleType) -> None:
    for name in STARTERS[module.__name__]:
        setattr(module, name, _instrumenting(getattr(module, name)))


def _instrumenting(run: Callable[..., Any]) -> Callable[..., Any]:
    """Return a plain function, which Dask and Ray can send by its name like the original."""
    if inspect.iscoroutinefunction(run):

        @functools.wraps(run)
        async def start(*args: Any, **kwargs: Any) -> Any:
            _instrument()
            return await run(*args, **kwargs)
    else:

        @functools.wraps(run)
        def start(*args: Any, **kwargs: Any) -> Any:
            _instrument()
            return run(*args, **kwargs)

    return start


@functools.cache  # so a failure is logged once, and uninstrument() is final
def _instrument() -> None:
    try:
        flowspan.instrument()
    except Exception as error:
        is_known = isinstance(error, ValueError)  # of settings and variables: the message says all
        _logger.error(  # noqa: TRY400 - same reason
            "flowspan records nothing in this process: %s", error, exc_info=not is_known
        )
