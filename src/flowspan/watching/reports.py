"""Know which spans the processes of runs have exported, as they say in events."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from flowspan import semconv
from flowspan.watching.api import as_text, batches

if TYPE_CHECKING:
    from collections.abc import Collection

    from flowspan.watching.api import Api, Object

_REMEMBERED: Final = 20_000
"""Flow runs whose reports are kept; others are asked for."""
_BATCH: Final = 50
_DAY: Final = 86_400_000_000_000
_PREFIX: Final = "prefect.flow-run."


class Reports:
    """The spans that processes have reported: as heard, and asked for where some are missing."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._spans = OrderedDict[str, set[int]]()

    def hear(self, event: Object) -> None:
        """Take note of an event; those of other kinds are ignored."""
        if event["event"] != semconv.REPORTED_EVENT:
            return
        run_id = event["resource"]["prefect.resource.id"].removeprefix(_PREFIX)
        told = (event.get("payload") or {}).get(semconv.REPORTED_SPANS) or ()
        self._spans.setdefault(run_id, set()).update(int(one, 16) for one in told)
        if len(self._spans) > _REMEMBERED:
            self._spans.popitem(last=False)

    def of(self, flow_run_id: str) -> Collection[int]:
        """Return the ids of the spans of a flow run, and the task runs in it, as far as heard."""
        return self._spans.get(flow_run_id, ())

    async def ask(self, flow_run_ids: Collection[str]) -> None:
        """Ask the API for the reports about these flow runs.

        Raises:
            ApiError: The API does not answer.
        """
        now = self._api.now
        for batch in batches(flow_run_ids, _BATCH):
            events = self._api.events(
                occurred={"since": as_text(now - 30 * _DAY), "until": as_text(now + _DAY)},
                event={"name": [semconv.REPORTED_EVENT]},
                resource={"id": [_PREFIX + run_id for run_id in batch]},
            )
            async for event in events:
                self.hear(event)

    def forget(self, flow_run_ids: Collection[str]) -> None:
        """Drop what is not needed again."""
        for run_id in flow_run_ids:
            self._spans.pop(run_id, None)
