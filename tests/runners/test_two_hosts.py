"""A Dask cluster on several hosts, one with a wrong clock, and one Collector for them all."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clusters import DASK
from commands import flowspan
from flowspan.text import MS
from hosts import HUB, Host, hosts
from processes import PATIENCE, PREFECT, background, environment, run_command
from running import Collector, Jaeger, free_ports, read, running, wait_for

BEHIND = 50
"""Milliseconds by which the clock of one host is late."""

STEPS = ("alpha", *("beta", "gamma") * 10)
"""The hosts of the steps. It takes a fast handover to see that a clock is behind."""


@dataclass(frozen=True)
class Relayed:
    """A flow whose steps went from host to host, and what arrived of it in Jaeger."""

    jaeger: str
    trace_id: str
    spans: list[dict[str, Any]]

    def named(self, name: str) -> list[dict[str, Any]]:
        return [span for span in self.spans if span["operationName"] == name]


def value(span: dict[str, Any], key: str) -> Any:
    return next(tag["value"] for tag in span["tags"] if tag["key"] == key)


@pytest.fixture(scope="module")
def relayed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relayed]:
    """Run the flow on alpha, with its tasks on all three."""
    folder = tmp_path_factory.mktemp("hosts")
    with ExitStack() as stack:
        alpha, beta, gamma = stack.enter_context(hosts("alpha", "beta", "gamma"))
        api, scheduler = free_ports(2)
        jaeger = Jaeger(folder / "jaeger")
        collector = Collector(
            folder / "collector",
            "jaeger",
            JAEGER_ENDPOINT=f"127.0.0.1:{jaeger.otlp}",
            COLLECTOR_HOST="0.0.0.0",  # noqa: S104 - nothing else is in this network
        )
        stack.enter_context(running(jaeger, collector))
        env = environment(
            folder / "embedded",
            PREFECT_API_URL=f"http://{HUB}:{api}/api",
            PREFECT_HOME=str(folder / "prefect"),
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{HUB}:{collector.ports['GRPC']}",
        )

        def start(name: str, *command: str) -> None:
            log = folder / f"{name}.log"
            stack.enter_context(background(*command, env=env, log=log))

        def start_worker(host: Host, clock: int = 0) -> None:
            options = ("--no-nanny", "--no-dashboard", "--host", host.address, "--name", host.name)
            command = (*DASK, "worker", f"tcp://{alpha.address}:{scheduler}", *options)
            start(host.name, *host.command(*command, clock=clock))

        start("server", *PREFECT, "server", "start", "--host", HUB, "--port", str(api))
        where = ("--no-dashboard", "--host", alpha.address, "--port", str(scheduler))
        start("scheduler", *alpha.command(*DASK, "scheduler", *where))
        start_worker(alpha)
        start_worker(beta)
        start_worker(gamma, clock=-BEHIND * MS)
        wait_for(lambda: read(f"http://{HUB}:{api}/api/health"), PATIENCE, "Prefect's server")
        script = (sys.executable, "relay.py", f"tcp://{alpha.address}:{scheduler}")
        done = run_command(*alpha.command(*script, *STEPS), env=env)
        assert done.returncode == 0, done.stderr
        assert not (folder / "embedded").exists()

        def arrived() -> dict[str, Any] | None:
            answer = json.loads(read(f"{jaeger.url}/api/traces?service=prefect"))["data"]
            return answer[0] if answer and len(answer[0]["spans"]) > len(STEPS) else None

        trace = wait_for(arrived, 30, "the trace")
        yield Relayed(jaeger.url, trace["traceID"], trace["spans"])


def test_the_trace_is_whole(relayed: Relayed) -> None:
    """Each step is there, below the flow, with the host that it was on and a link to the last."""
    (root,), steps = relayed.named("RUN relay"), relayed.named("step")
    assert len(relayed.spans) == 1 + len(STEPS)
    assert Counter(value(step, "host.name") for step in steps) == Counter(STEPS)
    assert value(root, "host.name") == "alpha"
    references = [reference for step in steps for reference in step["references"]]
    callers = [r["spanID"] for r in references if r["refType"] == "CHILD_OF"]
    assert callers == [root["spanID"]] * len(STEPS)
    followed = {r["spanID"] for r in references if r["refType"] != "CHILD_OF"}
    assert len(followed) == len(STEPS) - 1  # all but the last one
    assert followed < {step["spanID"] for step in steps}


def test_a_wrong_clock_is_shown(relayed: Relayed, tmp_path: Path) -> None:
    """The timeline names the host whose clock is behind, and by how much at least."""
    found = flowspan(
        "timeline", relayed.trace_id, "--jaeger", relayed.jaeger, "--json", cwd=tmp_path
    )
    assert found.returncode == 0, found.stderr
    (remark,) = json.loads(found.stdout)["remarks"]
    behind, rest = remark.split(" is at least ")
    assert behind == "The clock of gamma"
    assert 0 < float(rest.split(" ms behind")[0]) <= BEHIND
