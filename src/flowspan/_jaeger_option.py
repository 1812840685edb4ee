"""The option ``--jaeger URL`` of those commands that have it."""

import os
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

if TYPE_CHECKING:
    import httpx

    Place: TypeAlias = tuple[httpx.URL, dict[str, str]]

Jaeger: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--jaeger",
        metavar="URL",
        help="Read from Jaeger instead, e.g. http://localhost:16686.",
        show_default=False,
    ),
]

_HEADERS: Final = "FLOWSPAN_JAEGER_HEADERS"


def read_jaeger_option(text: str) -> "Place":
    """Tell where Jaeger is, and the headers that the environment adds.

    Raises:
        typer.BadParameter: One of the two is none.
    """
    from flowspan.timeline import jaeger  # noqa: PLC0415 - heavy

    try:
        url = jaeger.base_url(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--jaeger") from None
    try:
        headers = jaeger.parse_headers(os.environ.get(_HEADERS, ""))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=_HEADERS) from None
    return url, headers


def refuse_two_sources(jaeger: str | None, context: typer.Context) -> None:
    """Refuse ``--file`` beside ``--jaeger``, unless it only stands in the environment.

    Raises:
        typer.BadParameter: Both are on the command line.
    """
    source = context.get_parameter_source("file")
    if jaeger is not None and source is not None and source.name == "COMMANDLINE":
        raise typer.BadParameter("Spans come from one or the other.", param_hint="--file, --jaeger")
