"""Ask an API why runs do not run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowspan.watching.explanation import (
    Explanation,
    explain,
    explain_deployment,
    explain_held,
)
from flowspan.watching.facts import Deployment
from flowspan.watching.gathering import Gatherer
from flowspan.watching.lookup import Lookup

if TYPE_CHECKING:
    from flowspan.watching.api import Api


async def explain_one(api: Api, wanted: str) -> list[Explanation]:
    """Explain one run; of a deployment, its runs that are late or pending, or itself.

    Args:
        api: An open API.
        wanted: See `Lookup.find`.

    Raises:
        UnknownRunError: There is no such run, or there are several.
        ApiError: The API gives no usable answer.
    """
    gatherer = Gatherer(api)
    found = await Lookup(api, gatherer).find(wanted)
    if not isinstance(found, Deployment):
        facts = await gatherer.facts([found])
        return [explain(facts.runs[found.id], facts)]
    held = [run for run in await gatherer.held() if run.deployment_id == found.id]
    facts = await gatherer.facts(held[:1])
    own = explain_deployment(await gatherer.with_plan(found), facts)
    first = [explain(facts.runs[run.id], facts) for run in held[:1]]
    return first + ([own] if own.is_held or not held else [])


async def explain_all(api: Api) -> list[Explanation]:
    """Explain all flow runs that are late or pending, and deployments whose schedules make none.

    Raises:
        ApiError: The API gives no usable answer.
    """
    return explain_held(await Gatherer(api).everything())
