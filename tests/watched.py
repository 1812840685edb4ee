"""Run ``flowspan watch`` in a process of its own, and compare what is there with the API."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from opentelemetry.sdk.trace import ReadableSpan
from prefect.settings import PREFECT_API_URL

from flowspan.identity import derive_trace_id
from flowspan.settings import Settings
from flowspan.watching.api import Api
from flowspan.watching.cursor import Cursor
from flowspan.watching.delivery import Delivery
from flowspan.watching.service import FindSpans, Service
from processes import environment, run_command
from reconcile import reconcile
from support import context, embedded_spans
from written import doubled

WATCH = (sys.executable, "-c", "from flowspan.cli.main import main; main()", "watch")


def watch_environment(folder: Path, *, grace: float = 8, **variables: str) -> dict[str, str]:
    """Return the variables of an observer which writes to `folder`, as the processes do."""
    own = {"FLOWSPAN_WATCH_GRACE": str(grace), "FLOWSPAN_WATCH_DIR": str(folder / "watch")}
    return environment(folder, **own, **variables)


def watch_once(folder: Path, *, grace: float = 8, since: str = "1h", **variables: str) -> str:
    """Settle what has ended so far; return what was logged."""
    env = watch_environment(folder, grace=grace, **variables)
    done = run_command(*WATCH, "--once", "--since", since, env=env)
    assert done.returncode == 0, done.stderr
    return done.stderr


def settle(
    folder: Path,
    age: float,
    *,
    find: FindSpans | None = None,
    deliver: Callable[[], None] | None = None,
    **options: Any,
) -> int:
    """Settle in this process what ended within `age` seconds; return how many spans were missing.

    `deliver` is called once the spans are exported, and may raise, as if the process was killed.
    """
    settings = Settings(
        dir=folder, watch_dir=folder / "watch", **{"watch_grace": 3, "watch_lost": 0, **options}
    )

    async def run() -> int:
        api, cursor = Api(), Cursor(settings.watch_dir, str(PREFECT_API_URL.value()))
        delivery = Killed(settings, deliver) if deliver else Delivery(settings)
        try:
            async with api:
                service = Service(api, delivery, cursor, settings, find)
                await service.start(age)
                await service.settle_all()
                return service.filled_in
        finally:
            delivery.close()
            cursor.close()

    return asyncio.run(run())


class Killed(Delivery):
    """Stops right after the export, before anybody knows that it has succeeded."""

    def __init__(self, settings: Settings, stop: Callable[[], None]) -> None:
        super().__init__(settings)
        self._stop = stop

    async def deliver(self) -> int:
        count = await super().deliver()
        self._stop()
        return count


def spans_of(folder: Path, *runs: UUID | str) -> list[ReadableSpan]:
    """Return the spans in the traces of these flow runs; others may have ended at the same time."""
    traces = {derive_trace_id(str(run)) for run in runs}
    return [span for span in embedded_spans(folder).all if context(span).trace_id in traces]


def differences(folder: Path, runs: Sequence[UUID | str]) -> list[str]:
    """Return how the spans of these flow runs, and those below them, differ from the API."""
    return [*doubled(folder), *reconcile(spans_of(folder, *runs), *runs)]
