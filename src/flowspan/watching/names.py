"""Look up the names of flows and deployments, which runs only have the ids of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowspan.watching.spans import Names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flowspan.watching.api import Api, Object


class NameCache:
    """Names by id, each asked for once; there are as many as flows and deployments."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._flows: dict[str, str] = {}
        self._deployments: dict[str, str] = {}

    async def of(self, rows: Sequence[Object]) -> Names:
        """Return the names for these flow runs, and those that were asked for before.

        Raises:
            ApiError: The API does not answer.
        """
        await self.flows(row["flow_id"] for row in rows)
        deployments = {row["deployment_id"] for row in rows if row["deployment_id"]}
        await self._learn("deployments", self._deployments, deployments)
        return Names(self._flows, self._deployments)

    async def flows(self, ids: Iterable[str]) -> Mapping[str, str]:
        """Return the names of these flows, by id, and of those that were asked for before.

        Raises:
            ApiError: The API does not answer.
        """
        await self._learn("flows", self._flows, {*ids})
        return self._flows

    async def _learn(self, kind: str, names: dict[str, str], ids: set[str]) -> None:
        unknown = ids - names.keys()
        found = await self._api.all_of(f"/{kind}/filter", kind, "id", unknown)
        names.update((one["id"], one["name"]) for one in found)
