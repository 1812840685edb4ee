"""``flowspan logs``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowspan.cli import output
from flowspan.cli.hints import floor_of, unknown
from flowspan.cli.options import DEFAULT_FILES, HOW_TO_NAME, WANTED, log_source_of
from flowspan.cli.output import fail, note

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flowspan.read.log_files import Log


def logs(
    context: typer.Context,
    run: Annotated[
        str,
        typer.Argument(
            metavar=WANTED,
            help=f"Run to print: {HOW_TO_NAME}. Default: the trace that logged last.",
            show_default=False,
        ),
    ] = "latest",
    *,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Print only lines of this task or task run.", show_default=False
        ),
    ] = None,
    level: Annotated[
        str | None,
        typer.Option(
            metavar="LEVEL",
            help="Print only lines of this level, e.g. WARNING, or above.",
            show_default=False,
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            envvar="FLOWSPAN_DIR",
            show_default=DEFAULT_FILES,
            help="File of OTLP JSON lines, or folder of logs*.jsonl files.",
        ),
    ] = None,
    victorialogs: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Read from VictoriaLogs instead, e.g. http://localhost:9428.",
            show_default=False,
        ),
    ] = None,
    events: Annotated[
        bool,
        typer.Option("--events", help="Print also the records that say which runs have not ended."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object for each line instead.")
    ] = False,
) -> None:
    """Print the log lines of a run, in order of time.

    For a flow run: its lines and its tasks'. For the first run of a trace: all lines of the trace.
    Nothing is cut. Stack traces and further lines of a message are indented.

    --victorialogs takes a URL with its base path, and with user and password if needed. Set
    FLOWSPAN_VICTORIALOGS_HEADERS to send headers, such as those that name a tenant.

    Exits with 1 if there is no such run or task, or if part of the files could not be read.
    """
    from flowspan.errors import SourceError  # noqa: PLC0415 - only some commands need it
    from flowspan.read import log_files  # noqa: PLC0415 - same reason
    from flowspan.read.selection import UnknownRunError  # noqa: PLC0415 - same reason

    source = log_source_of(context, file, victorialogs)
    floor = floor_of(level)
    try:
        found = source.load(run, events=events)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=WANTED) from None
    except SourceError as error:
        fail(f"{error}\n{source.advice}")
    except UnknownRunError as error:
        output.warn(error.problems)
        fail(unknown(error, source.advice, by_trace=False))
    of_task = found.logs if task is None else log_files.of_task(found.logs, task)
    if task is not None and not of_task:
        output.warn(found.problems)
        fail(_no_task(task, found.logs))
    shown = log_files.at_least(of_task, floor)
    if not shown:
        note("this run has no lines of this level or above.")
    _print_logs(shown, as_json=as_json)
    if found.problems:
        output.warn(found.problems)
        raise typer.Exit(1)


def _no_task(name: str, logs: "Iterable[Log]") -> str:
    from flowspan.text import clean  # noqa: PLC0415 - only a failure needs it

    tasks = sorted({clean(log.task_names[0]) for log in logs if log.task_names})
    lines = [f"  {task}" for task in tasks] or ["  none"]
    return "\n".join([f"this run has no lines of task {name!r}. Tasks with lines:", *lines])


def _print_logs(logs: "Sequence[Log]", *, as_json: bool) -> None:
    if as_json:
        import orjson  # noqa: PLC0415 - only this needs it

        from flowspan.read.log_files import as_object  # noqa: PLC0415 - same reason

        for log in logs:
            typer.echo(orjson.dumps(as_object(log), option=orjson.OPT_APPEND_NEWLINE), nl=False)
    else:
        from flowspan.views.terminal.logs import write  # noqa: PLC0415 - heavy

        console = output.console()
        for line in write(logs):
            if console.is_terminal:
                console.print(line, soft_wrap=True)
            else:  # ten times faster, which matters for many lines
                console.file.write(f"{line.plain}\n")
