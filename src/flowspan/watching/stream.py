"""Hear of events from Prefect's stream, through Prefect's own subscriber.

The stream is a hint only, so what is missed while it is away does no harm::

    CONNECTING --- connected ---> STREAMING
        ^                            |
        +-- delay ------- ended -----+     the delay grows from 1 s to 300 s, and starts again
        +-- delay -- failed                at 1 s after a minute of STREAMING

Meanwhile `is_heard` is false, and who listens asks the API instead.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Any, Final

from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter

from flowspan import semconv

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowspan.watching.api import Object

_SHORTEST_DELAY: Final = 1.0
_LONGEST_DELAY: Final = 300.0
_STABLE: Final = 60.0
"""Seconds of STREAMING after which the next delay is short again."""

logger = logging.getLogger("flowspan")


class Stream:
    """The events about flow runs: their states, their heartbeats, and reports of their processes.

    Attributes:
        is_heard: Whether events come at the moment.
    """

    def __init__(self, hear: Callable[[Object], None]) -> None:
        """Call `hear` with each event, as a JSON object of the API."""
        self._hear = hear
        self.is_heard = False

    async def run(self) -> None:
        """Listen for ever, and connect again whenever the stream ends."""
        attempt = 0
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            try:
                await self._listen()
                reason: object = "the server has closed it"
            except Exception as error:  # noqa: BLE001 - of a web socket, the server, or a proxy
                reason = error or type(error).__name__
            was_heard, self.is_heard = self.is_heard, False
            if was_heard or not attempt:
                logger.warning(
                    "The stream of Prefect's events is away (%s); its API is asked instead", reason
                )
            attempt = 0 if was_heard and loop.time() - begun > _STABLE else attempt + 1
            await asyncio.sleep(delay(attempt))

    async def _listen(self) -> None:
        names = EventNameFilter(prefix=["prefect.flow-run.", semconv.REPORTED_EVENT])
        wanted: Any = EventFilter(event=names)
        async with get_events_subscriber(filter=wanted, reconnection_attempts=0) as subscriber:
            self.is_heard = True
            async for event in subscriber:
                self._hear(event.model_dump(mode="json"))


def delay(attempt: int) -> float:
    """Return how many seconds to wait before an attempt to connect, with jitter."""
    ceiling = min(_LONGEST_DELAY, _SHORTEST_DELAY * 2 ** min(attempt, 32))
    return random.uniform(max(_SHORTEST_DELAY, ceiling / 2), ceiling)  # noqa: S311 - spreads load
