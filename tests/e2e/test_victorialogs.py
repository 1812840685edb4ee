"""Log lines of a real flow, through the Collector, in a real VictoriaLogs."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from commands import flowspan
from compose import DATA_SOURCES, LOG_QUERIES, MACROS
from flowspan import semconv
from flowspan.read.log_files import Log, load
from flowspan.read.server import base_url
from flowspan.read.victorialogs import load as load_from
from processes import run_script
from running import Collector, VictoriaLogs, read, running, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from subprocess import CompletedProcess

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("victorialogs")]


@dataclass
class Reported:
    """One run in VictoriaLogs, and the files with the same log lines."""

    url: str
    folder: Path
    lines: Sequence[Log]

    def run_of(self, flow: str) -> str:
        lines = (log for log in self.lines if log.text(semconv.FLOW_NAME) == flow)
        (found,) = {log.flow_run_id for log in lines}
        assert found is not None
        return found

    @property
    def link(self) -> str:
        """The query of Grafana's link from a span to the log lines of its trace."""
        link: str = DATA_SOURCES["jaeger"]["jsonData"]["tracesToLogsV2"]["query"]
        return link.replace("$${__trace.traceId}", str(self.lines[0].trace_id))

    def ask(self, query: str) -> list[dict[str, str]]:
        answer = read(f"{self.url}/select/logsql/query?query={quote(query)}")
        return [json.loads(line) for line in answer.splitlines()]


def send(api: str, folder: Path, endpoint: str, **variables: str) -> Sequence[Log]:
    """Run the flow; it sends to `endpoint` and writes to `folder`, because of FLOWSPAN_FILES."""
    done = run_script(
        "reporting.py",
        env={
            **os.environ,
            "PREFECT_API_URL": api,
            "PREFECT_LOGGING_LEVEL": "INFO",
            "FLOWSPAN_DIR": str(folder),
            "FLOWSPAN_FILES": "also",
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
            **variables,
        },
    )
    assert done.returncode == 0, done.stderr
    return load(folder, "latest").logs


@pytest.fixture(scope="module")
def reported(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reported]:
    """Run the flow with the Collector and VictoriaLogs."""
    folder = tmp_path_factory.mktemp("victorialogs")
    victorialogs = VictoriaLogs(folder / "v")
    collector = Collector(folder / "c", "victorialogs", VICTORIALOGS_URL=victorialogs.url)
    with running(victorialogs, collector):
        lines = send(prefect_server, folder / "f", collector.endpoint())
        found = Reported(victorialogs.url, folder / "f", lines)
        wait_for(lambda: len(found.ask(found.link)) >= len(lines), what="all log lines")
        yield found


def logs(reported: Reported, *arguments: str) -> CompletedProcess[str]:
    return flowspan("logs", *arguments, "--victorialogs", reported.url, cwd=reported.folder)


def from_files(reported: Reported, *arguments: str) -> CompletedProcess[str]:
    return flowspan("logs", *arguments, "--file", str(reported.folder), cwd=reported.folder)


@pytest.mark.parametrize("wanted", ["latest", "trace", "name", "reporting", "inner"])
@pytest.mark.parametrize("options", [(), ("--level", "WARNING"), ("--task", "load")])
def test_the_lines_are_the_same(reported: Reported, wanted: str, options: tuple[str, ...]) -> None:
    """By trace, by run, by name and as the latest, whatever is filtered."""
    if wanted == "inner" and options:
        pytest.skip("it has no tasks and no warnings")
    first = reported.lines[0]
    ids = {
        "latest": "latest",
        "trace": str(first.trace_id)[:8],
        "name": first.text(semconv.FLOW_RUN_NAME),
    }
    run = ids.get(wanted) or reported.run_of(wanted)
    expected = from_files(reported, run, *options)
    found = logs(reported, run, *options)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == expected.stdout
    assert found.stdout


def test_the_objects_are_the_same_but_for_types(reported: Reported) -> None:
    """Times, ids, levels, bodies and loggers are the same; attributes are, as text."""

    def objects(done: CompletedProcess[str]) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in done.stdout.splitlines()]
        for one in found:
            for part in ("attributes", "resource"):
                one[part] = {name: str(value) for name, value in one[part].items()}
        return found

    run = reported.run_of("reporting")
    found = objects(logs(reported, run, "--json"))
    assert found == objects(from_files(reported, run, "--json"))
    resource = found[0]["resource"]
    assert (resource["service.name"], resource["deployment.environment.name"]) == (
        "prefect",
        "test",
    )


def test_an_unknown_run_is_told_from_the_known(reported: Reported) -> None:
    """The message says that there is no such run, and lists those that logged last."""
    done = logs(reported, "0123456789abcdef" * 2)
    assert done.returncode == 1
    assert f"{reported.url} holds no log lines of trace or run" in done.stderr
    for flow in ("reporting", "inner"):
        assert reported.run_of(flow) in done.stderr


def test_the_streams_are_services(reported: Reported) -> None:
    """With the Collector's layer a process makes no stream of its own."""
    rows = reported.ask(f'trace_id:="{reported.lines[0].trace_id}"')
    assert {row["_stream"] for row in rows} == {'{service.name="prefect"}'}


@pytest.mark.parametrize("title", LOG_QUERIES)
def test_the_dashboard_shows_warnings(reported: Reported, title: str) -> None:
    """The panel's query finds the lines of level WARNING and above, of any flow or of one."""
    for flow, count in ((".*", 2), ("reporting", 2), ("other", 0)):
        query = LOG_QUERIES[title].replace("$service", MACROS["$service"]).replace("$flow", flow)
        rows = reported.ask(f'{query} trace_id:="{reported.lines[0].trace_id}"')
        assert len(rows) == count
        assert all(row[semconv.TASK_NAME] == "load" for row in rows)


def test_a_trace_leads_to_its_lines(reported: Reported) -> None:
    """Grafana's link from a span finds all lines of its trace, and nothing else."""
    found = sorted(row["_msg"] for row in reported.ask(reported.link))
    assert found == sorted(log.message for log in reported.lines)


def test_without_a_collector_it_is_the_same(
    reported: Reported, prefect_server: str, tmp_path: Path
) -> None:
    """The SDK may send to VictoriaLogs itself; then resources of any name are told apart."""
    endpoint = f"{reported.url}/insert/opentelemetry/v1/logs"
    lines = send(
        prefect_server,
        tmp_path,
        "",
        OTEL_EXPORTER_OTLP_LOGS_ENDPOINT=endpoint,
        OTEL_EXPORTER_OTLP_LOGS_PROTOCOL="http/protobuf",
        OTEL_RESOURCE_ATTRIBUTES="team=data",
    )
    trace_id = str(lines[0].trace_id)

    def all_of_them() -> Sequence[Log]:
        found = load_from(base_url(reported.url), trace_id).logs
        return found if len(found) == len(lines) else []

    found = wait_for(all_of_them, what="all log lines")
    assert {str(log.resource["team"]) for log in found} == {"data"}
    assert not any("team" in log.attributes for log in found)
    assert [log.message for log in found] == [log.message for log in lines]
