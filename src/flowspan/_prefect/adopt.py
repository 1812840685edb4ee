"""Adopt runs that were already running when Prefect was instrumented."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from prefect.flow_engine import AsyncFlowRunEngine, FlowRunEngine
from prefect.task_engine import AsyncTaskRunEngine, SyncTaskRunEngine

from flowspan._prefect.observer import EngineObserver, contained
from flowspan._prefect.telemetry import EngineTelemetry

if TYPE_CHECKING:
    from flowspan.recording.recorder import RunRecorder

_ENGINES: Final = (SyncTaskRunEngine, AsyncTaskRunEngine, FlowRunEngine, AsyncFlowRunEngine)


def adopt_running(observer: EngineObserver) -> None:
    """Adopt the runs whose engines called the code that is running now."""
    frame, engines = sys._getframe(), []  # noqa: SLF001 - the only way to reach the engines
    while frame is not None:
        engine = frame.f_locals.get("engine") if "engine" in frame.f_code.co_varnames else None
        if isinstance(engine, _ENGINES):
            engines.append(engine)
        frame = frame.f_back  # type: ignore[assignment]
    caller: RunRecorder | None = None
    for engine in reversed(engines):
        with contained:
            telemetry = engine._telemetry  # noqa: SLF001
            if not isinstance(telemetry, EngineTelemetry):
                telemetry = EngineTelemetry(observer, engine)
                telemetry.adopt(caller)
            caller = telemetry.recorder
