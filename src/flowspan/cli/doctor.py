"""``flowspan doctor``."""

import os
import sys

import typer

from flowspan.cli.output import PIPED_WIDTH


def doctor() -> None:
    """Check what would be recorded, where it would go, and what would record it twice.

    Exits with 1 if something is wrong.
    """
    from rich.console import Console  # noqa: PLC0415 - only the commands that print need it
    from rich.table import Table  # noqa: PLC0415 - same reason
    from rich.text import Text  # noqa: PLC0415 - same reason

    # gRPC reads it when it is imported. What it would print, the doctor explains.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from flowspan.cli.examination import Verdict, examine  # noqa: PLC0415 - imports Prefect

    styles = {Verdict.WELL: "green", Verdict.NOTE: "dim", Verdict.WRONG: "bold red"}
    table = Table.grid(padding=(0, 2))
    is_well = True
    for finding in examine():
        table.add_row(
            Text(finding.verdict.value, style=styles[finding.verdict]),
            Text(finding.subject),
            Text(finding.detail),
        )
        is_well = is_well and finding.verdict is not Verdict.WRONG
    Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH).print(table)
    if not is_well:
        raise typer.Exit(1)
