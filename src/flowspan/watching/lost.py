"""Find flow runs whose process is gone although Prefect's API takes them to be running.

Since release 3.6.22, Prefect's engine sends a heartbeat for each flow run, every 180 seconds by
default. A run that has sent one, and of which nothing has been heard for long, is lost. A run
without any heartbeat is not judged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from opentelemetry.metrics import get_meter

from flowspan import semconv
from flowspan._version import __version__
from flowspan.recording.run import State
from flowspan.values import clean
from flowspan.watching.api import as_text, nanoseconds
from flowspan.watching.spans import LOST

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from opentelemetry.metrics import MeterProvider

    from flowspan.watching.api import Api, Object
    from flowspan.watching.spans import Names

HEARTBEAT: Final = "prefect.flow-run.heartbeat"
_DAY: Final = 86_400_000_000_000
_OPEN: Final = [semconv.RUNNING, "CANCELLING"]


class LostRuns:
    """Judges the flow runs that are open; moments are by the server's clock.

    Attributes:
        reachable_since: Since when events can have reached the API; the time before is no silence.
    """

    def __init__(self, api: Api, after: int, meters: MeterProvider) -> None:
        """Take a run for lost `after` so many nanoseconds without a sign of it; 0 is never."""
        self._api = api
        self._after = after
        self._heard: dict[str, int] = {}
        self.reachable_since = 0
        self._counter = get_meter("flowspan", __version__, meters).create_counter(
            semconv.METRIC_FLOW_RUN_LOST,
            unit="{run}",
            description="Flow runs that are running for Prefect, but whose process is gone",
        )

    def hear(self, event: Object) -> None:
        """Take note of a heartbeat; events of other kinds are ignored."""
        if event["event"] == HEARTBEAT:
            run_id = event["resource"]["prefect.resource.id"].removeprefix("prefect.flow-run.")
            self._heard[run_id] = _moment(event)

    async def find(self, known: Collection[str]) -> dict[str, State]:
        """Return how each lost run ends that is not `known` to be lost, by its id.

        Raises:
            ApiError: The API does not answer.
        """
        if not self._after:
            return {}
        wanted = {"flow_runs": {"state": {"type": {"any_": _OPEN}}}, "sort": "ID_DESC"}
        rows = await self._api.all("/flow_runs/filter", wanted)
        # A subflow in its caller's process ends with it.
        judged = [row for row in rows if row["deployment_id"] or not row["parent_task_run_id"]]
        still_open = {row["id"] for row in judged}
        self._heard = {run: heard for run, heard in self._heard.items() if run in still_open}
        silent = [
            row["id"]
            for row in judged
            if row["id"] not in known and self._is_silent(self._since(row))
        ]
        found = {}
        for run_id in silent:
            heard = await self._last_sign(run_id)
            if heard is not None and self._is_silent(heard):
                message = f"its process was last heard of at {as_text(heard)}"
                found[run_id] = State("CRASHED", LOST, "", message, heard)
        return found

    def count(self, rows: Iterable[Object], names: Names) -> None:
        """Count flow runs that have been found to be lost."""
        for row in rows:
            attributes = {semconv.FLOW_NAME: names.flows.get(row["flow_id"], "")}
            if (deployment := names.deployments.get(row["deployment_id"] or "")) is not None:
                attributes[semconv.DEPLOYMENT_NAME] = deployment
            self._counter.add(1, clean(attributes))

    def _since(self, row: Object) -> int:
        begun = nanoseconds(row["start_time"] or row["created"])
        return max(self._heard.get(row["id"], 0), begun)

    def _is_silent(self, heard: int) -> bool:
        return self._api.now - max(heard, self.reachable_since) > self._after

    async def _last_sign(self, run_id: str) -> int | None:
        """Return when the API last heard of a run; None if the run sends no heartbeats."""
        resource = {"id": [f"prefect.flow-run.{run_id}"]}
        if not await self._latest(resource=resource, event={"name": [HEARTBEAT]}):
            # So the next look at it comes after the same time as for one that was heard.
            self._heard[run_id] = self._api.now
            return None
        # Events of its task runs are related to it.
        signs = await self._latest(any_resource=resource)
        self._heard[run_id] = max(map(_moment, signs))
        return self._heard[run_id]

    async def _latest(self, **wanted: object) -> list[Any]:
        now = self._api.now
        occurred = {"since": as_text(now - 30 * _DAY), "until": as_text(now + _DAY)}
        body = {"filter": {"order": "DESC", "occurred": occurred, **wanted}, "limit": 1}
        events: list[Any] = (await self._api.post("/events/filter", body))["events"]
        return events


def _moment(event: Object) -> int:
    """Return when the server got an event: the clock of a process may be wrong."""
    return nanoseconds(event.get("received") or event["occurred"])
