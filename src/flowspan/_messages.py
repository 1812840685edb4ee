"""What commands say beside their output, all on stderr."""

from typing import NoReturn

import typer


def note(message: str) -> None:
    """Say something that the user should know."""
    typer.echo(f"flowspan: {message}", err=True)


def fail(message: str, code: int = 1) -> NoReturn:
    """Say why the command cannot go on, and exit."""
    note(message)
    raise typer.Exit(code)
