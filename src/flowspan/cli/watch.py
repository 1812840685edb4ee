"""``flowspan watch``."""

import asyncio
import logging
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from flowspan.cli.output import fail

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine
    from typing import Any

    from flowspan.settings import Settings


def watch(
    *,
    once: Annotated[
        bool,
        typer.Option("--once", help="Settle what has ended so far, and exit."),
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="AGE|DATE",
            help="At the very first start: where to begin, such as 1h or 2026-11-01. Later starts"
            " go on where the last one ended.",
            show_default="now",
        ),
    ] = None,
    jaeger: Annotated[
        str | None,
        typer.Option(
            "--jaeger",
            metavar="URL",
            envvar="FLOWSPAN_WATCH_JAEGER",
            help="Jaeger, if spans go there: after a crash, look there for what has arrived.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Watch Prefect from beside its server: fill in the spans that processes did not report."""
    import pydantic  # noqa: PLC0415 - heavy

    from flowspan.errors import ConfigurationError  # noqa: PLC0415 - same reason
    from flowspan.settings import Settings  # noqa: PLC0415 - same reason
    from flowspan.watching.api import ApiError  # noqa: PLC0415 - imports Prefect

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        settings = Settings()
        find = _find_spans(settings, jaeger)
        asyncio.run(_watch(settings, find, once=once, lookback=_lookback(since)))
    except (ApiError, ConfigurationError, pydantic.ValidationError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        return


async def _watch(
    settings: "Settings",
    find: "Callable[[int], Collection[int]] | None",
    *,
    once: bool,
    lookback: float,
) -> None:
    from flowspan.watching.api import Api  # noqa: PLC0415 - imports Prefect
    from flowspan.watching.cursor import Cursor  # noqa: PLC0415 - same reason
    from flowspan.watching.delivery import Delivery  # noqa: PLC0415 - same reason
    from flowspan.watching.service import Service  # noqa: PLC0415 - same reason

    api = Api()
    cursor = Cursor(settings.watch_dir, api.url)
    delivery = Delivery(settings)
    try:
        async with api:
            service = Service(api, delivery, cursor, settings, find)
            await service.start(lookback)
            if once:
                await service.settle_all()
            else:
                await _until_told_to_stop(service.run())
            service.say_load()
    finally:
        delivery.close()
        cursor.close()


async def _until_told_to_stop(running: "Coroutine[Any, Any, None]") -> None:
    """Run until SIGTERM or SIGINT comes, or the API refuses."""
    task = asyncio.ensure_future(running)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return


def _lookback(since: str | None) -> float:
    """Return how many seconds before now to begin."""
    import time  # noqa: PLC0415

    from flowspan.cli.options import read_since_option  # noqa: PLC0415 - heavy

    return 0.0 if since is None else time.time() - read_since_option(since) / 1e9


def _find_spans(
    settings: "Settings", jaeger: str | None
) -> "Callable[[int], Collection[int]] | None":
    """Return what looks for the spans of a trace in Jaeger, or in the embedded files if written."""
    from flowspan.cli.options import jaeger_source  # noqa: PLC0415 - heavy
    from flowspan.errors import SourceError  # noqa: PLC0415 - same reason
    from flowspan.export.routes import EMBEDDED, describe_signals  # noqa: PLC0415 - same reason
    from flowspan.read.selection import UnknownRunError  # noqa: PLC0415 - same reason
    from flowspan.read.source import FileSource  # noqa: PLC0415 - same reason

    is_embedded = any(
        (route.signal, route.exporter) == ("traces", EMBEDDED)
        for route in describe_signals(settings)
    )
    if jaeger is None and not is_embedded:
        return None
    source = FileSource(settings.dir) if jaeger is None else jaeger_source(jaeger)

    def find(trace_id: int) -> "Collection[int]":
        try:
            trace = source.load(f"{trace_id:032x}")
        except (SourceError, UnknownRunError):
            return ()
        return {int(span.span_id, 16) for span in trace.spans if span.open is None}

    return find
