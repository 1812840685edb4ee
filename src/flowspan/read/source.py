"""The sources of traces and of log lines, each behind one protocol.

Heavy imports wait until a source is read. To add a source, write one more class and the option that
creates it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from flowspan.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import httpx

    from flowspan.places import Folders
    from flowspan.read.lines import Problem
    from flowspan.read.log_files import Logs
    from flowspan.read.span import Trace

_HOW_TO_GET_SPANS: Final = (
    "First run a flow that calls flowspan.instrument(). It writes its spans to .flowspan/ in its\n"
    "working directory, or to flowspan/ in Prefect's home under a worker, unless\n"
    "OTEL_TRACES_EXPORTER or an OTLP endpoint sends them elsewhere: flowspan doctor says where.\n"
    "Or name another file or folder with --file PATH."
)
_HOW_TO_GET_LOGS: Final = (
    "First run a flow that calls flowspan.instrument(). It writes its log lines to .flowspan/ in\n"
    "its working directory, or to flowspan/ in Prefect's home under a worker, unless\n"
    "FLOWSPAN_LOGS is false, or OTEL_LOGS_EXPORTER or an OTLP endpoint sends them elsewhere:\n"
    "flowspan doctor says where. Or name another file or folder with --file PATH."
)
_HOW_TO_REACH_VICTORIALOGS: Final = (
    "Name the URL of VictoriaLogs, with the base path if it has one. Flows send their log lines\n"
    "there with OTEL_EXPORTER_OTLP_ENDPOINT naming a Collector that has the layer victorialogs."
)
_HOW_TO_REACH_JAEGER: Final = (
    "Name the URL of Jaeger's UI, with the base path if it has one. Flows send their spans there\n"
    "with OTEL_EXPORTER_OTLP_ENDPOINT naming a Collector, or Jaeger's own OTLP receiver."
)


class TraceSource(Protocol):
    """A source of traces.

    Attributes:
        name: Its name in messages.
        advice: What a user can do if nothing is found.
        can_be_read_again: False if it is used up after the first reading.
        has_open_runs: Whether it may have runs that have not ended.
        searches_by_flow: Whether `traces` omits traces without a run of the flow. Then the names of
            the other flows are unknown.
        default_since: The age of the oldest traces to read by default. None for all.
        log_folder: The folders with the log lines of the traces. None if it has no log lines.
    """

    name: str
    advice: str
    can_be_read_again: bool
    has_open_runs: bool
    searches_by_flow: bool
    default_since: str | None
    log_folder: Path | Folders | None

    def load(self, wanted: str, *, flow: str | None = None, since: int = 0) -> Trace:
        """Read one trace.

        Args:
            wanted: A run or a trace, as `flowspan.read.selection.parse_wanted` takes it. If another
                flow run called this one, its trace has only what is below it.
            flow: For ``latest``, count only runs of this flow, including those that others called.
            since: And only those that ended then or later, in nanoseconds since the epoch.

        Raises:
            ValueError: `wanted` is empty.
            SourceError: There is nothing to read.
            UnknownRunError: There is no such run.
            AmbiguousRunError: There are several.
        """

    def traces(
        self, problems: list[Problem], *, flow: str | None = None, since: int = 0
    ) -> Iterator[Trace]:
        """Read every trace that ended at a time or later, the one that ended last first.

        Args:
            problems: Anything that could not be read is added here.
            flow: Only traces with a run of this flow are needed.
            since: In nanoseconds since the epoch.

        Raises:
            SourceError: There is nothing to read.
        """

    def logs(self, trace_id: str) -> Logs:
        """Read the log lines of a trace.

        Raises:
            SourceError: The source has no log lines.
        """


class FileSource:
    """A file of spans, folders of such files, or standard input."""

    advice = _HOW_TO_GET_SPANS
    searches_by_flow = False
    default_since: str | None = None

    def __init__(self, path: Path | Folders) -> None:
        from flowspan.read.texts import STDIN  # noqa: PLC0415 - heavy

        self._path = path
        self.can_be_read_again = self.has_open_runs = path != STDIN
        self.name = str(path) if path != STDIN else "Standard input"
        folder = path.parent if isinstance(path, Path) and not path.is_dir() else path
        self.log_folder = folder if path != STDIN else None

    def load(self, wanted: str, *, flow: str | None = None, since: int = 0) -> Trace:
        """Read one trace."""
        from flowspan.read import trace_files  # noqa: PLC0415 - heavy

        return trace_files.load(self._path, wanted, flow=flow, since=since)

    def traces(
        self,
        problems: list[Problem],
        *,
        flow: str | None = None,  # noqa: ARG002 - the flows of a trace are known once it is read
        since: int = 0,
    ) -> Iterator[Trace]:
        """Read every trace that ended at a time or later, the one that ended last first."""
        from flowspan.read import trace_files  # noqa: PLC0415 - heavy

        return trace_files.traces(self._path, problems, since)

    def logs(self, trace_id: str) -> Logs:
        """Read the log lines of a trace from the folders of its spans."""
        from flowspan.read import log_files  # noqa: PLC0415 - heavy

        if self.log_folder is None:
            raise SourceError(f"{self.name} has spans but no log lines.")
        return log_files.load_trace(log_files.find_files(self.log_folder), trace_id)


class LogSource(Protocol):
    """A source of log lines.

    Attributes:
        advice: What a user can do if nothing is found.
    """

    advice: str

    def load(self, wanted: str, *, events: bool) -> Logs:
        """Read the log lines of one run or trace; see `flowspan.read.log_files.find`.

        Args:
            wanted: What to find.
            events: Whether to include the reports of runs that have not ended.
        """


class FileLogSource:
    """A file of log lines, or folders of such files."""

    advice = _HOW_TO_GET_LOGS

    def __init__(self, path: Path | Folders) -> None:
        self._path = path

    def load(self, wanted: str, *, events: bool) -> Logs:
        """Read the log lines of one run or trace."""
        from flowspan.read import log_files  # noqa: PLC0415 - heavy

        return log_files.load(self._path, wanted, events=events)


class VictoriaLogsSource:
    """The query API of a VictoriaLogs."""

    advice = _HOW_TO_REACH_VICTORIALOGS

    def __init__(self, url: httpx.URL, headers: Mapping[str, str]) -> None:
        self._url = url
        self._headers = headers

    def load(self, wanted: str, *, events: bool) -> Logs:
        """Read the log lines of one run or trace."""
        from flowspan.read import victorialogs  # noqa: PLC0415 - heavy

        return victorialogs.load(self._url, wanted, headers=self._headers, events=events)


class JaegerSource:
    """The query API of a Jaeger."""

    name = "Jaeger"
    advice = _HOW_TO_REACH_JAEGER
    can_be_read_again = True
    has_open_runs = False
    searches_by_flow = True
    default_since: str | None = "30d"  # its API needs a start
    log_folder: Path | Folders | None = None

    def __init__(self, url: httpx.URL, headers: Mapping[str, str]) -> None:
        self._url = url
        self._headers = headers

    def load(self, wanted: str, *, flow: str | None = None, since: int = 0) -> Trace:
        """Read one trace."""
        from flowspan.read import jaeger  # noqa: PLC0415 - heavy

        return jaeger.load(self._url, wanted, headers=self._headers, flow=flow, since=since)

    def traces(
        self, problems: list[Problem], *, flow: str | None = None, since: int = 0
    ) -> Iterator[Trace]:
        """Read every trace that ended at a time or later, the one that ended last first."""
        from flowspan.read import jaeger  # noqa: PLC0415 - heavy

        return jaeger.load_all(self._url, problems, headers=self._headers, flow=flow, since=since)

    def logs(self, trace_id: str) -> Logs:  # noqa: ARG002 - Jaeger has no log lines
        """Raise an error: Jaeger stores only spans."""
        raise SourceError(f"{self.name} has spans but no log lines.")
