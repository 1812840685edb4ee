"""The command ``flowspan why``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from flowspan.cli.output import console, fail, print_lines, shows_unicode

if TYPE_CHECKING:
    from flowspan.cli.answers import Answers
    from flowspan.watching.lookup import UnknownRunError


def why(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN|FLOW/DEPLOYMENT|latest",
            help="A run: its name, its id, or the first eight digits of its id; a deployment; or "
            "latest, the run that became late last. Default: all late and pending flow runs.",
            show_default=False,
        ),
    ] = None,
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as one JSON document instead.")
    ] = False,
) -> None:
    """Say why a run does not run: no worker, something paused, no free slot, an upstream run...

    Asks Prefect's API, at PREFECT_API_URL or as Prefect's profile says, and changes nothing. Exits
    with 1 if the API gives no answer or knows no such run.
    """
    answers = asyncio.run(_ask(run))
    if as_json:
        from flowspan.cli.answers import to_json  # noqa: PLC0415 - imports Prefect

        typer.echo(to_json(answers), nl=False)
        return
    from flowspan.cli.answers import draw  # noqa: PLC0415 - same reason

    screen = console()
    lines = draw(answers, width=screen.width, unicode=shows_unicode(screen))
    print_lines(lines, screen)


async def _ask(wanted: str | None) -> Answers:
    from flowspan.cli.answers import Answers  # noqa: PLC0415 - imports Prefect
    from flowspan.watching.api import Api, ApiError  # noqa: PLC0415 - same reason
    from flowspan.watching.inquiry import explain_all, explain_one  # noqa: PLC0415 - same reason
    from flowspan.watching.lookup import UnknownRunError  # noqa: PLC0415 - same reason

    try:
        async with Api() as api:
            found = await (explain_all(api) if wanted is None else explain_one(api, wanted))
            is_one = wanted is not None
            return Answers(found, is_one, api.url, api.requests.total(), api.now)
    except ApiError as error:
        fail(str(error))
    except UnknownRunError as error:
        fail("\n".join([str(error), *_candidates(error)]))


def _candidates(error: UnknownRunError) -> list[str]:
    from flowspan.text import clean, moment  # noqa: PLC0415 - only a failure needs it
    from flowspan.watching.lookup import short_ids  # noqa: PLC0415 - imports Prefect

    if not error.candidates:
        return []
    handles = short_ids(error.candidates)
    lines = [
        f"  {handles.get(run.id, run.id)}  {clean(run.name)} of {clean(run.of)},"
        f" {run.state.name} at {moment(run.state.time)}"
        for run in error.candidates
    ]
    return ["Runs that may be meant:", *lines]
