"""Run the programs of the end-to-end tests, on free ports of loopback. Every wait is bounded."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import programs
from flowspan.cli import demo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LAYERS = programs.ROOT / "collector"
DEMO = programs.ROOT / "examples" / "nyc_flights.py"

T = TypeVar("T")


# pytest-xdist gives each worker its name, gw0 and so on, and the number of workers.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
# Every worker has its own ports, and uses none twice. They are below the system's range for
# outgoing connections, one of which could otherwise take a port before its program does.
_PORTS = range(10_000 + _WORKER, 32_000, _WORKERS)
_untried = iter(random.sample(_PORTS, len(_PORTS)))


def free_ports(count: int) -> list[int]:
    """Return ports that nobody was listening on, all different."""
    return list(islice(filter(_is_free, _untried), count))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def read(url: str, timeout: float = 10) -> bytes:
    with urllib.request.urlopen(url, timeout=timeout) as response:  # noqa: S310 - loopback
        found: bytes = response.read()
    return found


def wait_for(find: Callable[[], T | None], seconds: float = 60, what: str = "it") -> T:
    """Return the first result that is neither empty nor a network error.

    Raises:
        TimeoutError: There was none in time.
    """
    deadline = time.monotonic() + seconds
    problem: object = None
    while time.monotonic() < deadline:
        try:
            if found := find():
                return found
        except OSError as error:
            problem = error
        time.sleep(0.2)
    raise TimeoutError(f"{what} did not come in {seconds:.0f} s (last problem: {problem})")


class Running:
    """One program in the background, with a log; it can be stopped, killed and started again."""

    def __init__(
        self, command: list[str], log: Path, health: str, variables: dict[str, str] | None = None
    ) -> None:
        self._command = command
        self._health = health
        # None of the machine's settings, especially no credentials.
        self._variables = {"PATH": os.environ["PATH"], **(variables or {})}
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    def wrap(self, command: list[str]) -> None:
        """Start the program through another one, which replaces itself by it."""
        self._command = [*command, *self._command]

    def start(self) -> None:
        """Start the program and wait until it is healthy; skip the test if it is missing."""
        if shutil.which(self._command[0]) is None:
            pytest.skip(f"there is no {self._command[0]}: `make e2e` builds it")
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, env=self._variables, stdout=output, stderr=output
            )
        wait_for(self._is_healthy, 60, f"health of {self._command[0]}")

    def _is_healthy(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"it ended:\n{self.log.read_text()[-4000:]}")
        return bool(read(self._health, 2) or True)

    @property
    def pid(self) -> int:
        """The process id while it runs."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """End it like an operator; it may finish its current work."""
        self._end(lambda process: process.terminate())

    def kill(self) -> None:
        """End it like a crash."""
        self._end(lambda process: process.kill())

    def _end(self, end: Callable[[subprocess.Popen[bytes]], None]) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            end(process)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


class Collector(Running):
    """The Collector with base.yaml and some layers, its queues below `folder`."""

    def __init__(self, folder: Path, *layers: str, **variables: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        names = ("GRPC", "HTTP", "HEALTH", "METRICS", "PROMETHEUS", "CLOUDWATCH")
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        configs = [f"--config={LAYERS / name}.yaml" for name in ("base", *layers)]
        super().__init__(
            [str(programs.COLLECTOR.path), *configs],
            folder / "collector.log",
            f"http://127.0.0.1:{self.ports['HEALTH']}",
            {
                **{f"COLLECTOR_{name}_PORT": str(port) for name, port in self.ports.items()},
                "COLLECTOR_STORAGE": str(folder / "queues"),
                **variables,
            },
        )

    def endpoint(self, protocol: str = "grpc") -> str:
        """The endpoint that flows send OTLP to."""
        port = self.ports["GRPC" if protocol == "grpc" else "HTTP"]
        return f"http://127.0.0.1:{port}"

    def own_metrics(self, **labels: str) -> dict[str, float]:
        """Return one of the Collector's own metrics, summed over all labels except those given."""
        totals: dict[str, float] = {}
        text = read(f"http://127.0.0.1:{self.ports['METRICS']}/metrics").decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if not labels.items() <= sample.labels.items():
                    continue
                totals[sample.name] = totals.get(sample.name, 0) + sample.value
        return totals

    def prometheus(self) -> str:
        """Return what Prometheus would scrape from the layers `jaeger` and `prometheus`."""
        return read(f"http://127.0.0.1:{self.ports['PROMETHEUS']}/metrics").decode()


class Jaeger(Running):
    """Jaeger v2 as in docker-compose.yml, except for ports and folders.

    Traces are in memory unless `on_disk`, as they are there. `prometheus` is the source of its
    Monitor tab.
    """

    def __init__(
        self, folder: Path, *, on_disk: bool = False, prometheus: str | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.otlp, self.query, query_grpc, health = free_ports(4)
        config = yaml.safe_load((programs.ROOT / "compose" / "jaeger.yaml").read_text())
        extensions = config["extensions"]
        extensions["healthcheckv2"]["http"]["endpoint"] = f"127.0.0.1:{health}"
        stored, shown = extensions["jaeger_storage"], extensions["jaeger_query"]
        if on_disk:
            folders = {name: str(folder / name) for name in ("keys", "values")}
            stored["backends"]["traces"]["badger"]["directories"] = folders
        else:
            stored["backends"]["traces"] = {"memory": {"max_traces": 10_000}}
        if prometheus is None:
            del stored["metric_backends"], shown["storage"]["metrics"]
        else:
            stored["metric_backends"]["span_metrics"]["prometheus"]["endpoint"] = prometheus
        shown["http"] = {"endpoint": f"127.0.0.1:{self.query}"}
        shown["grpc"] = {"endpoint": f"127.0.0.1:{query_grpc}"}
        config["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"] = f"127.0.0.1:{self.otlp}"
        # Its own metrics would use a port that could be taken.
        config["service"]["telemetry"] = {"metrics": {"level": "none"}}
        path = folder / "jaeger.yaml"
        path.write_text(yaml.safe_dump(config))
        super().__init__(
            [str(programs.JAEGER.path), f"--config={path}"],
            folder / "jaeger.log",
            f"http://127.0.0.1:{health}/status",
            # If it traced itself, it would send the spans to itself, as there, but sooner.
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.otlp}",
                "OTEL_BSP_SCHEDULE_DELAY": "100",
            },
        )

    @property
    def url(self) -> str:
        """The URL of its HTTP API."""
        return f"http://127.0.0.1:{self.query}"


class Prometheus(Running):
    """Prometheus as in docker-compose.yml, except for ports and folders."""

    def __init__(self, folder: Path, port: int, collector: Collector) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        compose = programs.ROOT / "compose"
        config = yaml.safe_load((compose / "prometheus.yml").read_text())
        config["rule_files"] = [str(compose / name) for name in config["rule_files"]]
        ports = {"flowspan": "PROMETHEUS", "collector": "METRICS"}
        for job in config["scrape_configs"]:
            target = f"127.0.0.1:{collector.ports[ports[job['job_name']]]}"
            job["static_configs"] = [{"targets": [target]}]
        path = folder / "prometheus.yml"
        path.write_text(yaml.safe_dump(config))
        services = yaml.safe_load((programs.ROOT / "docker-compose.yml").read_text())["services"]
        flags = services["prometheus"]["command"]
        self.url = f"http://127.0.0.1:{port}"
        super().__init__(
            [
                str(programs.PROMETHEUS.path),
                f"--config.file={path}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                *(flag for flag in flags if flag.startswith("--enable-feature=")),
            ],
            folder / "prometheus.log",
            f"{self.url}/-/ready",
        )

    def ask(self, path: str, **query: str | float) -> Any:
        """Return an answer of its API."""
        answer = json.loads(read(f"{self.url}/api/v1/{path}?{urlencode(query)}"))
        assert answer["status"] == "success", answer
        return answer["data"]


class VictoriaLogs(Running):
    """VictoriaLogs as in docker-compose.yml, except for ports and folders."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        super().__init__(
            [
                str(programs.VICTORIALOGS.path),
                f"-httpListenAddr=127.0.0.1:{port}",
                f"-storageDataPath={folder / 'data'}",
            ],
            folder / "victorialogs.log",
            f"{self.url}/health",
        )


@contextmanager
def running(*started: Running) -> Iterator[None]:
    """Start programs, and stop them afterwards, the last one first."""
    with ExitStack() as stack:
        for each in started:
            stack.callback(each.stop)
            each.start()
        yield


def run_demo(api: str, folder: Path, endpoint: str, script: Path = DEMO, **variables: str) -> None:
    """Run the demo's flow; it sends to `endpoint` and writes embedded files to `folder`."""
    both = {f"OTEL_{signal}_EXPORTER": "embedded,otlp" for signal in ("TRACES", "METRICS", "LOGS")}
    done = subprocess.run(
        [sys.executable, str(script)],
        check=False,
        cwd=programs.ROOT,
        env={
            **os.environ,
            "PREFECT_API_URL": api,
            "FLOWSPAN_DIR": str(folder),
            "FLOWSPAN_SLO": demo.OBJECTIVES,
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            **both,
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr[-4000:]
