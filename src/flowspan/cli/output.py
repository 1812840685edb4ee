"""How commands print: as wide as the terminal, plainly to a pipe, warnings on stderr."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rich.console import Console
    from rich.text import Text

    from flowspan.read.lines import Problem

PIPED_WIDTH: Final = 120
"""Width of a line in cells if the output is not a terminal."""

STDOUT: Final = Path("-")
"""The path that stands for standard output."""

_WARNINGS_SHOWN: Final = 10


def note(message: str) -> None:
    """Print a message on stderr."""
    typer.echo(f"flowspan: {message}", err=True)


def fail(message: str, code: int = 1) -> NoReturn:
    """Print why the command cannot go on, and exit."""
    note(message)
    raise typer.Exit(code)


def console() -> "Console":
    """Return a console as wide as the terminal, or of a fixed width for a pipe."""
    from rich.console import Console  # noqa: PLC0415 - heavy, and only drawing needs it

    if hasattr(sys.stdout, "reconfigure"):  # the output's encoding may lack a character of a name
        sys.stdout.reconfigure(errors="replace")
    columns = os.environ.get("COLUMNS", "")
    width = None
    if not sys.stdout.isatty():
        width = int(columns) if columns.isdecimal() and int(columns) else PIPED_WIDTH
    return Console(width=width, highlight=False, soft_wrap=False)


def print_lines(lines: "Iterable[Text]", console: "Console") -> None:
    """Print lines that already fit the width."""
    for line in lines:
        console.print(line, no_wrap=True, overflow="crop", crop=True)


def draw(view: "Callable[..., Iterable[Text]]", found: object) -> None:
    """Print the lines of a view, as wide as the terminal, in ASCII if it shows nothing else."""
    screen = console()
    print_lines(view(found, width=screen.width, unicode=shows_unicode(screen)), screen)


def shows_unicode(screen: "Console") -> bool:
    """Return whether an output can show more than ASCII."""
    return screen.encoding.startswith("utf")


def write_file(path: Path, pieces: "Iterable[bytes]") -> None:
    """Write to a file or to standard output; exit if the file cannot be written."""
    if path == STDOUT:
        sys.stdout.flush()
        sys.stdout.buffer.writelines(pieces)
        return
    try:
        with path.open("wb") as stream:
            stream.writelines(pieces)
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror or error}")


def warn(problems: "Sequence[Problem]") -> None:
    """Print what could not be read: the first few problems, and how many more there are."""
    for problem in problems[:_WARNINGS_SHOWN]:
        typer.echo(f"flowspan: warning: {problem}", err=True)
    if len(problems) > _WARNINGS_SHOWN:
        more = len(problems) - _WARNINGS_SHOWN
        typer.echo(f"flowspan: warning: {more:,} more like these", err=True)
