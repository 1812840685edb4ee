"""The formats of ``flowspan timeline``: one row each, and one view."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import typer

from flowspan.cli.output import STDOUT, console, note, print_lines, shows_unicode, write_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from flowspan.analysis.findings import Findings
    from flowspan.views.wishes import Wishes


@dataclass(frozen=True, slots=True)
class Format:
    """A way to write a trace.

    Attributes:
        view: The module whose ``render(findings, wishes)`` writes it: lines of text for the
            terminal, else pieces of bytes. Imported only when the format is asked for.
        option: Its option on the command line.
        help: What a file in this format is; completes the help of the option.
        done: The message about a written file: where it is, and how to open it.
        goes_with_json: Whether it can be combined with ``--json``.
    """

    view: str
    option: str = ""
    help: str = ""
    done: str = ""
    goes_with_json: bool = False

    @property
    def path(self) -> Any:
        """The option as a Typer parameter."""
        help_ = f"Also write {self.help}; - for standard output."
        return typer.Option(self.option, metavar="PATH", help=help_, show_default=False)

    def render(self, findings: Findings, wishes: Wishes) -> Iterable[Any]:
        """Return the lines or bytes to write."""
        pieces: Iterable[Any] = import_module(self.view).render(findings, wishes)
        return pieces


TERMINAL: Final = Format("flowspan.views.terminal.timeline")
JSON: Final = Format("flowspan.views.json.timeline", "--json")
HTML: Final = Format(
    "flowspan.views.html.timeline",
    "--html",
    "a page for the browser, with log lines",
    "the page is in {path}: open it in a browser.",
    goes_with_json=True,
)
PERFETTO: Final = Format(
    "flowspan.views.perfetto",
    "--perfetto",
    "the trace for Perfetto or speedscope",
    "wrote {path}; open it in https://ui.perfetto.dev",
)
DOT: Final = Format(
    "flowspan.views.dot",
    "--dot",
    "the graph of the runs for Graphviz",
    "wrote {path}; draw it with: dot -Tsvg -O",
)


def check(files: Mapping[Format, Path], *, as_json: bool) -> None:
    """Check that the chosen formats can be combined.

    Raises:
        typer.BadParameter: They cannot; the message says what to do instead.
    """
    refused = [
        one.option for one, path in files.items() if path == STDOUT or not one.goes_with_json
    ]
    if refused and as_json:
        raise typer.BadParameter(
            "They write different documents: run the command once for each.",
            param_hint=", ".join([JSON.option, *refused]),
        )
    if len(set(files.values())) < len(files):
        raise typer.BadParameter(
            "They would go to the same place: name a file for each.",
            param_hint=", ".join(one.option for one in files),
        )


def write(
    findings: Findings, wishes: Wishes, files: Mapping[Format, Path], *, as_json: bool
) -> None:
    """Print the trace, unless a file goes to standard output, and write the files.

    Prints on stderr where each file is and how to open it. Exits if one cannot be written.
    """
    if as_json:
        write_file(STDOUT, JSON.render(findings, wishes))
    elif STDOUT not in files.values():
        screen = console()
        fitting = replace(wishes, width=screen.width, unicode=shows_unicode(screen))
        print_lines(TERMINAL.render(findings, fitting), screen)
    for one, path in files.items():
        write_file(path, one.render(findings, wishes))
        if path != STDOUT:
            note(one.done.format(path=path))
