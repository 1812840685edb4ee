"""The commands that read traces: ``flowspan timeline``, ``flowspan diff`` and ``flowspan logs``."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from flowspan import _output
from flowspan._messages import fail, note
from flowspan._options import (
    FOLDER,
    SINCE_HELP,
    Jaeger,
    Source,
    read_jaeger_option,
    read_since_option,
    refuse_two_sources,
)
from flowspan.timeline import exports

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flowspan.timeline.analysis import Analysis
    from flowspan.timeline.difference import Difference
    from flowspan.timeline.logs import Log, Logs
    from flowspan.timeline.read import Trace
    from flowspan.timeline.wanted import UnknownRunError

_WANTED: Final = "TRACE_ID|FLOW_RUN_ID|latest"

_HOW_TO_GET_SPANS: Final = (
    "Run a flow that calls flowspan.instrument() first: with no OTEL_* endpoint set it writes its\n"
    "spans to .flowspan/ in its working directory. Or name a file or folder with --file PATH."
)

_HOW_TO_GET_SPANS_TO_JAEGER: Final = (
    "Name the URL of Jaeger's UI, with the base path if it has one. Flows send their spans there\n"
    "with OTEL_EXPORTER_OTLP_ENDPOINT naming a Collector, or Jaeger's own OTLP receiver."
)

_HOW_TO_GET_LOGS: Final = (
    "Run a flow that calls flowspan.instrument() first: with no OTEL_LOGS_EXPORTER and no OTLP\n"
    "endpoint set, which would send them elsewhere, and FLOWSPAN_LOGS not false, it writes its\n"
    "log lines to .flowspan/ in its working directory. Or name a file or folder with --file PATH."
)


def timeline(
    context: typer.Context,
    trace: Annotated[
        str,
        typer.Argument(
            metavar=_WANTED,
            help="A trace id, the id of any run in it, or (default) the run that ended last; "
            "latest~1 is the one before.",
            show_default=False,
        ),
    ] = "latest",
    *,
    file: Source = FOLDER,
    jaeger: Jaeger = None,
    flow: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Show the latest run of this flow.", show_default=False),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="AGE|DATE", help=SINCE_HELP, show_default=False)
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print every span as one JSON document instead.")
    ] = False,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Collapse nothing, whatever the number of spans or log lines."),
    ] = False,
    top: Annotated[
        int, typer.Option(metavar="N", min=0, help="List so many tasks by their share.")
    ] = 10,
    with_logs: Annotated[
        bool, typer.Option("--logs", help="Show log lines below the spans they belong to.")
    ] = False,
    level: Annotated[
        str | None,
        typer.Option(
            metavar="LEVEL",
            help="Show log lines of this level, e.g. WARNING, or above.",
            show_default=False,
        ),
    ] = None,
    html: exports.Html = None,
    perfetto: exports.Perfetto = None,
    dot: exports.Dot = None,
) -> None:
    """Show where the time of a run went.

    Log lines come from the logs*.jsonl files beside those of the spans, and their times count from
    the left edge of the bars. 'flowspan logs' shows them in full.

    The URL of Jaeger is that of its UI, base path included, and may hold a user and a password.
    FLOWSPAN_JAEGER_HEADERS, such as 'Authorization=Bearer%20TOKEN,x-tenant=etl', is sent along.

    --html PATH writes a page that needs no other file and no network, with every span, the log
    lines that lie beside the spans, and the same numbers as --json.

    Exits with 1 if there is no such trace, or if something in its source could not be read.
    """
    exports.check(perfetto, dot, html, as_json=as_json)
    if level is not None and not with_logs:
        raise typer.BadParameter("It is the level of log lines: add --logs.", param_hint="--level")
    if with_logs and (jaeger is not None or str(file) == "-"):
        where = "Standard input" if jaeger is None else "Jaeger"
        raise typer.BadParameter(f"{where} has spans and no log lines.", param_hint="--logs")
    refuse_two_sources(jaeger, context)
    if not (flow is None and since is None) and not _is_latest(trace):
        raise typer.BadParameter(
            "They choose among the latest runs: leave out the id.", param_hint="--flow, --since"
        )
    floor = _floor(level)
    found = _find(file, jaeger, trace, flow, read_since_option(since))
    lines = _logs_beside(file, found.trace_id, floor) if with_logs else None
    analysis = _analyse(found)
    exports.write(found, analysis, perfetto, dot)
    if as_json:
        _print_json(found, analysis, lines)
    elif not exports.is_printed(perfetto, dot, html):
        _draw(found, analysis, lines, everything=everything, top=top)
    if html is not None:
        lines = lines or _logs_for_page(file, jaeger, found)
        _write_page(html, found, analysis, lines)
    problems = (*found.problems, *(lines.problems if lines else ()))
    if problems:
        _output.warn(problems)
        raise typer.Exit(1)


def diff(
    context: typer.Context,
    trace_a: Annotated[
        str,
        typer.Argument(
            metavar="TRACE_A",
            help="The run to compare with: an id as for 'flowspan timeline', a file, or (default) "
            "latest~1, the run before the latest.",
            show_default=False,
        ),
    ] = "latest~1",
    trace_b: Annotated[
        str,
        typer.Argument(
            metavar="TRACE_B",
            help="The run to explain, likewise, by default the latest.",
            show_default=False,
        ),
    ] = "latest",
    *,
    file: Annotated[
        Path,
        typer.Option(
            envvar="FLOWSPAN_DIR",
            help="File of OTLP JSON or protobuf, or folder of such files (traces*.jsonl where"
            " there are some).",
        ),
    ] = FOLDER,
    jaeger: Jaeger = None,
    flow: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Count only runs of this flow as the latest.", show_default=False
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as one JSON document instead.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Show tasks that hardly changed, too.")
    ] = False,
) -> None:
    """Explain why one run took longer than another.

    What counts is the change of each task's time on the critical path: these changes, with that of
    the flow's own time, add up to the change of the duration.

    Exits with 1 if there is no such run, or if something in its source could not be read.
    """
    from flowspan.timeline import difference  # noqa: PLC0415 - heavy

    if str(file) == "-":
        raise typer.BadParameter(
            "Standard input can be read but once: write it to a file.", param_hint="--file"
        )
    refuse_two_sources(jaeger, context)
    before, after = (_find_side(file, jaeger, wanted, flow) for wanted in (trace_a, trace_b))
    found = difference.compare(before, after)
    if as_json:
        typer.echo(difference.to_json(found), nl=False)
    else:
        _draw_difference(found, everything=everything)
    problems = tuple(dict.fromkeys((*before.problems, *after.problems)))
    if problems:
        _output.warn(problems)
        raise typer.Exit(1)


def logs(
    run: Annotated[
        str,
        typer.Argument(
            metavar="FLOW_RUN_ID|TRACE_ID|latest",
            help="The id of a flow run or of a trace, or (default) the trace that logged last.",
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
        Path,
        typer.Option(
            envvar="FLOWSPAN_DIR",
            help="File of OTLP JSON lines, or folder of logs*.jsonl files.",
        ),
    ] = FOLDER,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object for each line instead.")
    ] = False,
) -> None:
    """Print the log lines of a run, in order of time.

    Of a flow run these are its own and those of its tasks; of the one that a trace begins with,
    those of the whole trace. Nothing is cut; stacks of exceptions and further lines of a message
    are indented.

    Exits with 1 if there is no such run or task, or if something in the files could not be read.
    """
    from flowspan.otlp_json import SourceError  # noqa: PLC0415 - only some commands need it
    from flowspan.timeline import logs as reader  # noqa: PLC0415 - likewise
    from flowspan.timeline.wanted import UnknownRunError  # noqa: PLC0415 - likewise

    floor = _floor(level)
    try:
        found = reader.load(file, run, _trace_of_root)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="FLOW_RUN_ID|TRACE_ID|latest") from None
    except SourceError as error:
        fail(f"{error}\n{_HOW_TO_GET_LOGS}")
    except UnknownRunError as error:
        _output.warn(error.problems)
        ids = [known.run_id or known.trace_id for known in error.known]
        fail(_unknown(error, ids, _HOW_TO_GET_LOGS))
    of_task = found.logs if task is None else reader.of_task(found.logs, task)
    if task is not None and not of_task:
        _output.warn(found.problems)
        fail(_no_task(task, found.logs))
    shown = reader.at_least(of_task, floor)
    if not shown:
        note("no line of this run is of this level or above.")
    _print_logs(shown, as_json=as_json)
    if found.problems:
        _output.warn(found.problems)
        raise typer.Exit(1)


def _unknown(error: "UnknownRunError", ids: "Iterable[str]", how_to_get_them: str) -> str:
    from flowspan.timeline.text import clean, moment  # noqa: PLC0415 - only a failure needs it

    if not error.known:
        return f"{error}\n{how_to_get_them}"
    known = zip(ids, error.known, strict=True)
    lines = [f"  {one}  {moment(summary.end)}  {clean(summary.name)}" for one, summary in known]
    return "\n".join([f"{error} The latest there are:", *lines])


def _no_task(name: str, logs: "Iterable[Log]") -> str:
    from flowspan.timeline.text import clean  # noqa: PLC0415 - only a failure needs it

    tasks = sorted({clean(log.task_names[0]) for log in logs if log.task_names})
    lines = [f"  {task}" for task in tasks] or ["  none"]
    return "\n".join([f"no line of this run is of task {name!r}. Tasks with lines are:", *lines])


def _floor(level: str | None) -> int:
    """Tell the least severity number to show."""
    from flowspan.timeline.logs import parse_level  # noqa: PLC0415 - only some commands need it

    try:
        return 0 if level is None else parse_level(level)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--level") from None


def _is_latest(wanted: str) -> bool:
    from flowspan.timeline.wanted import steps_back  # noqa: PLC0415 - only some commands need it

    return steps_back(wanted) is not None


def _trace_of_root(run_id: str) -> str:
    from flowspan.identity import derive_trace_id  # noqa: PLC0415 - imports the SDK

    return f"{derive_trace_id(run_id):032x}"


def _find(
    file: Path, jaeger_url: str | None, wanted: str, flow: str | None = None, since: int = 0
) -> "Trace":
    """Load a trace, or say why there is none, and exit."""
    from flowspan.otlp_json import SourceError  # noqa: PLC0415 - only some commands need it
    from flowspan.timeline.wanted import UnknownRunError  # noqa: PLC0415 - likewise

    how_to_get_spans = _HOW_TO_GET_SPANS if jaeger_url is None else _HOW_TO_GET_SPANS_TO_JAEGER
    try:
        return _load(file, jaeger_url, wanted, flow, since)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=_WANTED) from None
    except SourceError as error:
        fail(f"{error}\n{how_to_get_spans}")
    except UnknownRunError as error:
        _output.warn(error.problems)
        fail(_unknown(error, [known.trace_id for known in error.known], how_to_get_spans))


def _load(file: Path, jaeger_url: str | None, wanted: str, flow: str | None, since: int) -> "Trace":
    from flowspan.timeline import read  # noqa: PLC0415 - only one command needs it

    if jaeger_url is None:
        return read.load(file, wanted, flow=flow, since=since)
    from flowspan.timeline import jaeger  # noqa: PLC0415 - heavy

    url, headers = read_jaeger_option(jaeger_url)
    return jaeger.load(
        url, wanted, trace_of_root=_trace_of_root, headers=headers, flow=flow, since=since
    )


def _find_side(file: Path, jaeger_url: str | None, wanted: str, flow: str | None) -> "Trace":
    """Load one of two traces; a file that is named in place of an id has it by itself.

    Of a flow, if one is named, where it is the latest that is wanted.
    """
    from flowspan.timeline.wanted import LATEST, is_wanted  # noqa: PLC0415 - only this needs it

    if not is_wanted(wanted) and Path(wanted).exists():
        return _find(Path(wanted), None, LATEST, flow)
    return _find(file, jaeger_url, wanted, flow if _is_latest(wanted) else None)


def _logs_beside(file: Path, trace_id: str, floor: int) -> "Logs":
    """Read the log lines of a trace from the folder that its spans come from."""
    from flowspan.otlp_json import SourceError  # noqa: PLC0415 - only some commands need it
    from flowspan.timeline import logs as reader  # noqa: PLC0415 - likewise

    folder = file if file.is_dir() else file.parent
    try:
        found = reader.load_trace(reader.find_files(folder), trace_id)
    except SourceError as error:
        note(f"{error}\n{_HOW_TO_GET_LOGS}")
        return reader.Logs((), ())
    shown = reader.at_least(found.logs, floor)
    if not shown:
        note(f"{folder} holds no log lines of this trace" + (" and level." if floor else "."))
    return replace(found, logs=tuple(shown))


def _logs_for_page(file: Path, jaeger_url: str | None, trace: "Trace") -> "Logs":
    """Read the log lines of a trace, if there are any where its spans come from."""
    from flowspan.otlp_json import SourceError  # noqa: PLC0415 - only some commands need it
    from flowspan.timeline import logs as reader  # noqa: PLC0415 - likewise
    from flowspan.timeline.sources import STDIN  # noqa: PLC0415 - likewise

    nothing = reader.Logs((), ())
    if jaeger_url is not None or file == STDIN:
        return nothing
    try:
        files = reader.find_files(file if file.is_dir() else file.parent)
    except SourceError:
        return nothing
    return reader.load_trace(files, trace.trace_id)


def _write_page(path: Path, trace: "Trace", analysis: "Analysis", lines: "Logs") -> None:
    from flowspan.timeline import page  # noqa: PLC0415 - only one option needs it

    _output.write_file(path, [page.to_html(trace.spans, analysis, lines.logs)])
    if path != _output.STDOUT:
        note(f"the page is in {path}: open it in a browser.")


def _analyse(trace: "Trace") -> "Analysis":
    from flowspan.timeline.analysis import analyse  # noqa: PLC0415 - heavy

    return analyse(trace.spans)


def _print_json(trace: "Trace", analysis: "Analysis", lines: "Logs | None") -> None:
    from flowspan.timeline import document, log_places, read, tree  # noqa: PLC0415 - heavy

    found = document.as_object(analysis)
    by_span = None
    if lines is not None:
        by_span = log_places.by_span(lines.logs, tree.build(trace.spans))
    for chunk in read.json_chunks(trace, by_span, found):
        typer.echo(chunk, nl=False)


def _draw(
    trace: "Trace", analysis: "Analysis", lines: "Logs | None", *, everything: bool, top: int
) -> None:
    from flowspan.timeline import log_places, summary, terminal, tree  # noqa: PLC0415 - heavy

    console = _output.console()
    unicode = console.encoding.startswith("utf")
    made = tree.build(trace.spans, everything=everything)
    placed = log_places.by_span(lines.logs if lines else (), made)
    drawn = terminal.draw(
        made,
        width=console.width,
        unicode=unicode,
        everything=everything,
        logs=log_places.by_row(placed, made),
        analysis=analysis,
    )
    _output.print_lines(drawn, console)
    console.print()
    _output.print_lines(
        summary.draw(analysis, width=console.width, unicode=unicode, top=top), console
    )


def _print_logs(logs: "Sequence[Log]", *, as_json: bool) -> None:
    if as_json:
        import orjson  # noqa: PLC0415 - only this needs it

        from flowspan.timeline.logs import as_object  # noqa: PLC0415 - likewise

        for log in logs:
            typer.echo(orjson.dumps(as_object(log), option=orjson.OPT_APPEND_NEWLINE), nl=False)
    else:
        from flowspan.timeline.log_lines import write  # noqa: PLC0415 - heavy

        console = _output.console()
        for line in write(logs):
            if console.is_terminal:
                console.print(line, soft_wrap=True)
            else:  # a tenth of the time, which counts where there are many
                console.file.write(f"{line.plain}\n")


def _draw_difference(found: "Difference", *, everything: bool) -> None:
    from flowspan.timeline import difference_lines  # noqa: PLC0415 - heavy

    console = _output.console()
    drawn = difference_lines.draw(
        found,
        width=console.width,
        unicode=console.encoding.startswith("utf"),
        everything=everything,
    )
    for line in drawn:  # its sentences are wrapped, its table fits
        console.print(line)
