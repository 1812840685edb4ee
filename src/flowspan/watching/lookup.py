"""Find the run or the deployment that somebody means, by id, by name, or as the latest."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from flowspan.text import clean
from flowspan.watching.api import as_text
from flowspan.watching.gathering import task_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowspan.watching.api import Api
    from flowspan.watching.facts import Deployment, Run
    from flowspan.watching.gathering import Gatherer

LATEST: Final = "latest"
DIGITS: Final = 8
"""How many digits of an id are enough to ask for a run."""

_ID: Final = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")
_RECENT: Final = 200
_CANDIDATES: Final = 10


class UnknownRunError(Exception):
    """No run is what somebody asked for, or several are; `candidates` may be meant."""

    def __init__(self, message: str, candidates: Sequence[Run] = ()) -> None:
        """Say what is wrong."""
        super().__init__(message)
        self.candidates = candidates


class Lookup:
    """Find runs in an API."""

    def __init__(self, api: Api, gatherer: Gatherer) -> None:
        """Ask `api`, which is open."""
        self._api = api
        self._gatherer = gatherer

    async def find(self, wanted: str) -> Run | Deployment:
        """Return the run or the deployment that is meant.

        Args:
            wanted: ``latest``, the run that became late last; the id of a flow run, task run or
                deployment; at least its first eight digits, for a flow run; the name of a run; or
                ``flow/deployment``.

        Raises:
            UnknownRunError: There is none, or there are several.
            ApiError: The API gives no usable answer.
        """
        if wanted == LATEST:
            return await self._latest()
        if "/" in wanted:
            return await self._deployment(wanted)
        if _ID.fullmatch(wanted.lower()):
            return await self._by_id(wanted.lower())
        return await self._by_name(wanted)

    async def _latest(self) -> Run:
        held = await self._gatherer.held()
        if not held:
            raise UnknownRunError("no flow run is late or pending")
        late = [run for run in held if run.is_late(self._api.now)]
        return max(late or held, key=lambda run: run.due or run.state.time)

    async def _deployment(self, name: str) -> Deployment:
        flow, _, deployment = name.partition("/")
        found = await self._api.get(f"/deployments/name/{quote(flow)}/{quote(deployment)}")
        if found is None:
            names = [each.name for each in await self._gatherer.all_deployments()]
            near = difflib.get_close_matches(name, names, 3, 0.5) or names[:3]
            known = f"; there is {', '.join(map(repr, map(clean, near)))}" if near else ""
            raise UnknownRunError(f"there is no deployment {name!r}{known}")
        return (await self._gatherer.as_deployments([found]))[0]

    async def _by_id(self, run_id: str) -> Run | Deployment:
        if (found := await self._api.get(f"/flow_runs/{run_id}")) is not None:
            return (await self._gatherer.as_runs([found]))[0]
        if (found := await self._api.get(f"/task_runs/{run_id}")) is not None:
            return task_run(found)
        if (found := await self._api.get(f"/deployments/{run_id}")) is not None:
            return (await self._gatherer.as_deployments([found]))[0]
        raise UnknownRunError(
            f"the API has no flow run, task run or deployment with the id {run_id}",
            (await self._recent())[:_CANDIDATES],
        )

    async def _by_name(self, wanted: str) -> Run:
        found = await self._gatherer.flow_runs(name={"any_": [wanted]})
        body = {"task_runs": {"name": {"any_": [wanted]}}, "sort": "ID_DESC"}
        found += [task_run(each) for each in await self._api.all("/task_runs/filter", body)]
        recent: list[Run] = []
        if not found:
            recent = await self._recent()
            found = _with_prefix(wanted, recent)
        if not found:
            raise UnknownRunError(
                f"no run has the name or the id {wanted!r}", _near(wanted, recent)
            )
        open_ones = [run for run in found if not run.is_over]
        if len(found) > 1 and len(open_ones) != 1:
            raise UnknownRunError(f"several runs are called {wanted!r}", found[:_CANDIDATES])
        return (open_ones or found)[0]

    async def _recent(self) -> list[Run]:
        """Return the flow runs whose time came last, and all that wait."""
        body = {
            # A schedule has many runs that are far in the future.
            "flow_runs": {"expected_start_time": {"before_": as_text(self._api.now)}},
            "sort": "EXPECTED_START_TIME_DESC",
            "limit": _RECENT,
        }
        newest = await self._gatherer.as_runs(await self._api.post("/flow_runs/filter", body))
        held = await self._gatherer.held()
        return list({run.id: run for run in [*held, *newest]}.values())


def short_ids(runs: Sequence[Run]) -> dict[str, str]:
    """Return the first digits of each id; an id that begins as another one does is left out."""
    counts = Counter(run.id[:DIGITS] for run in runs)
    return {run.id: run.id[:DIGITS] for run in runs if counts[run.id[:DIGITS]] == 1}


def _with_prefix(wanted: str, runs: Sequence[Run]) -> list[Run]:
    digits = wanted.lower().replace("-", "")
    if len(digits) < DIGITS:
        return []
    return [run for run in runs if run.id.replace("-", "").startswith(digits)]


def _near(wanted: str, runs: Sequence[Run]) -> list[Run]:
    """Return the runs whose names are most like a name; the first ones if none is."""
    names = difflib.get_close_matches(wanted, [run.name for run in runs], _CANDIDATES, 0.4)
    named = [run for name in dict.fromkeys(names) for run in runs if run.name == name]
    return (named or list(runs))[:_CANDIDATES]
