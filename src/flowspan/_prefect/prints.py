"""Find the logger that gets the prints of a run with `log_prints`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.loggers import get_run_logger

if TYPE_CHECKING:
    import logging


def print_logger() -> logging.Logger | None:
    """Return the logger that `print` goes to here; None if it really prints."""
    of_flow, of_task = FlowRunContext.get(), TaskRunContext.get()
    context = of_task or of_flow
    if of_flow is not None and of_task is not None and of_flow.flow_run is not None:
        # In a subflow called by a task, Prefect has both contexts and uses the flow's.
        is_subflow = of_flow.flow_run.id != of_task.task_run.flow_run_id
        context = of_flow if is_subflow else of_task
    if context is None or not context.log_prints:
        return None
    adapter: Any = get_run_logger()
    return adapter.logger  # type: ignore[no-any-return] # an adapter of Prefect's
