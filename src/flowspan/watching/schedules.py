"""When the schedules of a deployment say that its next run is to start."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from flowspan.units import NANOSECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


async def next_due(schedules: Sequence[Mapping[str, object]], now: int) -> int | None:
    """Return when the first of the next runs is to start; None if there is no next run.

    Args:
        schedules: Schedules as the API writes them: an interval, a cron or a recurrence rule.
        now: Nanoseconds since the epoch, as is the result.
    """
    # Only the server's classes compute dates.
    from prefect.server.schemas.schedules import SCHEDULE_TYPES  # noqa: PLC0415 - rarely needed
    from pydantic import TypeAdapter  # noqa: PLC0415 - same reason

    adapter: TypeAdapter[SCHEDULE_TYPES] = TypeAdapter(SCHEDULE_TYPES)
    start = datetime.fromtimestamp(now / NANOSECONDS, timezone.utc)
    dates = [
        date
        for schedule in schedules
        for date in await adapter.validate_python(schedule).get_dates(1, start)
    ]
    return min((round(date.timestamp()) * NANOSECONDS for date in dates), default=None)
