"""Send each event of Prefect's stream twice more, in another order: echoing.py SEED."""

import asyncio
import random
import sys

from prefect.events import Event
from prefect.events.clients import get_events_client, get_events_subscriber

_LONGEST = 3.0
"""Seconds until an event comes again."""


async def main(seed: str) -> None:
    chosen = random.Random(seed)  # noqa: S311 - reproducible
    seen: set[object] = set()
    echoes: set[asyncio.Task[None]] = set()
    async with get_events_client() as client, get_events_subscriber() as subscriber:
        print("listening", flush=True)

        async def echo(event: Event) -> None:
            await asyncio.sleep(chosen.uniform(0, _LONGEST))
            await client.emit(event)
            print("echoed", event.event, flush=True)

        async for event in subscriber:
            if event.id not in seen:
                seen.add(event.id)
                sent = Event.model_validate(event.model_dump(exclude={"received"}))
                echoes |= {asyncio.create_task(echo(sent)) for _ in range(2)}


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
