"""The commands ``flowspan collector ...``."""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from flowspan.cli.output import fail, note
from flowspan.collector import layers, program
from flowspan.collector.layers import Layer

_UNCHECKED: Final = 3  # exit code if no Collector could check; 1 means that it was rejected

app = typer.Typer(
    name="collector",
    help="Configure the OpenTelemetry Collector.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_Backends = Annotated[
    list[str] | None,
    typer.Option(
        "--backend",
        metavar="NAME",
        help="Layer of the configuration, e.g. jaeger. Repeat it for more.",
        show_default=False,
    ),
]


@app.command()
def config(
    *,
    backend: _Backends = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Copy the files there to mount or edit them, and print these paths.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite edited files in DIR.")] = False,
) -> None:
    """Print the command line of a Collector.

    The configuration consists of layers that a Collector merges: a base that receives telemetry,
    and one for each backend or other job. Variables that you must set are listed on stderr.
    """
    chosen = _choose(backend)
    if output is not None:
        try:
            chosen = layers.write(chosen, output, overwrite=force)
        except layers.ChangedFilesError as error:
            fail(f"{error} Nothing was written. To overwrite, add --force.")
        except OSError as error:
            fail(f"{error.filename or output} cannot be written: {error.strerror or error}")
    elif force:
        raise typer.BadParameter("Needs --output DIR.", param_hint="--force")
    found = program.find()
    name = Path(found).name if found else program.NAMES[0]
    typer.echo(shlex.join([name, *layers.arguments(chosen)]))
    _tell(layers.unset(chosen, os.environ))


@app.command()
def check(
    *,
    backend: _Backends = None,
    binary: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help=f"Collector to run. Default: {', '.join(program.NAMES)} on PATH.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Check the configuration with a Collector.

    The Collector sees your environment variables, and starts nothing. Exits with 1 if it rejects
    the configuration or a variable is missing, and with 3 if there is no Collector to run.
    """
    chosen = _choose(backend)
    missing = layers.unset(chosen, os.environ)
    _tell(missing)
    found = program.find(binary)
    if found is None:
        fail(_how_to_get_one(binary), _UNCHECKED)
    try:
        rejection = program.validate(found, layers.arguments(chosen))
    except program.UnusableError as error:
        fail(str(error), _UNCHECKED)
    if rejection is not None:
        fail(
            f"{found} rejects the configuration, which is written for version "
            f"{layers.collector_version()}:\n{rejection}"
        )
    if missing:
        raise typer.Exit(1)
    typer.echo(f"{found} accepts {', '.join(layer.path.name for layer in chosen)}.")


def _choose(names: Sequence[str] | None) -> tuple[Layer, ...]:
    try:
        return layers.choose(names or ())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--backend") from None


def _tell(missing: Mapping[str, Sequence[str]]) -> None:
    for name, needing in missing.items():
        note(f"{name} must be set in the Collector's environment, for {', '.join(needing)}.")


def _how_to_get_one(named: str | None) -> str:
    if named is not None:
        return f"{named} is not a program: neither a path nor a name on PATH."
    return (
        f"No Collector is on PATH ({', '.join(program.NAMES)}). Install {program.NAMES[0]} "
        f"{layers.collector_version()} or newer from\n"
        "https://github.com/open-telemetry/opentelemetry-collector-releases/releases,\n"
        "or name another Collector with --binary PATH."
    )
