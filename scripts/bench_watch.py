"""Measure `flowspan watch`: how soon the spans of flow runs are there, and what that takes.

    python scripts/bench_watch.py [--runs 2000] [--tasks 10] [--rate 5] [--within SECONDS]

A real Prefect server and a real `flowspan watch` run on loopback. No flow's function runs: flow
runs are created and ended through Prefect's client, and task runs through the events that its task
engine emits, so that the server, not the flows, has the processors. Nobody reports spans, as if no
flow was instrumented; so each run and each task run is filled in.

Runs begin at the given rate, and end as soon as their tasks have. With ``--within``, all begin
first, and then all end within so many seconds, or as fast as the server takes it.

The delay of a run is from the time of its last state, by the server's clock, until an OTLP endpoint
has its span. Memory is resident: the peak, and how much it grew once a tenth of the runs was there.
The exit code says whether each span came once.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import platform
import re
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from bench import ROOT, Unable, clean_environment, positive, prefect_server, process, show_progress

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Coroutine, Iterator, Sequence
    from uuid import UUID

    from prefect import Flow
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas import OrchestrationResult
    from prefect.client.schemas.objects import FlowRun, State

T = TypeVar("T")

WATCH: Final = (sys.executable, "-c", "from flowspan.cli.main import main; main()", "watch")
START: Final = 240.0
"""Seconds that it may take to start."""
SILENCE: Final = 180.0
"""Seconds without a new span after which the rest counts as missing."""
AT_ONCE: Final = 4
"""More requests at once than this make SQLite refuse some."""
MIB: Final = 2**20
TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass
class Sink:
    """What an OTLP endpoint has got.

    Attributes:
        url: Where it is.
        times: How often each span came, by its id.
        arrivals: When the span of each flow run came, in seconds since the epoch, by the run's id.
    """

    url: str = ""
    times: Counter[bytes] = field(default_factory=Counter)
    arrivals: dict[str, float] = field(default_factory=dict)

    def take(self, body: bytes) -> None:
        """Take note of exported spans."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # noqa: PLC0415
            ExportTraceServiceRequest,
        )

        now = time.time()
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                self.times[span.span_id] += 1
                if not span.parent_span_id:
                    ids = (
                        a.value.string_value for a in span.attributes if a.key == "prefect.run.id"
                    )
                    self.arrivals.setdefault(next(ids), now)


class Watch:
    """A `flowspan watch` that runs."""

    def __init__(self, started: subprocess.Popen[bytes], log: Path) -> None:
        self._started = started
        self._log = log

    def cpu(self) -> float:
        """Return the CPU seconds so far."""
        stat = Path(f"/proc/{self._started.pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident(self, name: str = "VmRSS") -> int:
        """Return the resident memory in bytes, now or as ``VmHWM`` at its peak."""
        status = Path(f"/proc/{self._started.pid}/status").read_text()
        found = re.search(rf"{name}:\s+(\d+) kB", status)
        return int(found[1]) * 1024 if found else 0

    def stop(self) -> int:
        """End it; return how many requests it says that it has made."""
        self._started.terminate()
        self._started.wait(60)
        said = re.findall(r"([\d,]+) requests to Prefect's API", self._log.read_text())
        if not said:
            raise Unable(f"flowspan watch does not say its load:\n{self._log.read_text()[-2000:]}")
        return int(said[-1].replace(",", ""))


class Sampler:
    """Looks at the memory of a `Watch` each second, once some runs are there."""

    def __init__(self, watch: Watch, taken: Sink, runs: int) -> None:
        self._samples: list[int] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, args=(watch, taken, runs), daemon=True)
        self._thread.start()

    def _look(self, watch: Watch, taken: Sink, runs: int) -> None:
        while not self._is_over.wait(1):
            if len(taken.arrivals) >= runs:
                self._samples.append(watch.resident())

    def stop(self) -> int:
        """Return how many bytes it grew: from the first tenth of the samples to the last."""
        self._is_over.set()
        self._thread.join()
        tenth = max(1, len(self._samples) // 10)
        first, last = self._samples[:tenth], self._samples[-tenth:]
        return round(statistics.mean(last) - statistics.mean(first)) if last else 0


@dataclass
class Figures:
    """What was measured: seconds, bytes, and `growth` in bytes since a tenth of the runs."""

    seconds: float
    ends: dict[str, float]
    taken: Sink
    cpu: float
    peak: int
    growth: int
    requests: int


def main() -> int:
    """Run the benchmark and print its figures."""
    arguments = parse()
    try:
        with tempfile.TemporaryDirectory(prefix="flowspan-bench-") as name:
            return measure(Path(name), arguments)
    except Unable as reason:
        print(f"Cannot measure: {reason}", file=sys.stderr)
        return 1


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=positive, default=2000, help="flow runs")
    parser.add_argument("--tasks", type=int, default=10, help="task runs in each")
    parser.add_argument("--rate", type=float, default=5.0, help="flow runs that begin per second")
    parser.add_argument("--within", type=float, help="seconds within which all runs end")
    return parser.parse_args()


def measure(folder: Path, arguments: argparse.Namespace) -> int:
    """Run all of it in `folder`."""
    # Unlike for other benchmarks, the server is as it is by default.
    stored = {
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED": "true",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "1",
    }
    with (
        sink() as taken,
        prefect_server(folder, **stored) as api,
        watching(folder, api, taken.url) as watch,
    ):
        # Before Prefect is imported.
        own = {"PREFECT_API_URL": api, "PREFECT_CLIENT_MAX_RETRIES": "20"}
        os.environ.update(clean_environment(folder) | own)
        cpu, begun = watch.cpu(), time.monotonic()
        sampler = Sampler(watch, taken, arguments.runs // 10)
        ends = asyncio.run(make_runs(arguments))
        seconds = time.monotonic() - begun
        wait_for_spans(taken, arguments.runs * (arguments.tasks + 1))
        growth = sampler.stop()
        cpu, peak = watch.cpu() - cpu, watch.resident("VmHWM")
        requests = watch.stop()
    show_progress("")
    return report(arguments, Figures(seconds, ends, taken, cpu, peak, growth, requests))


@contextmanager
def sink() -> Iterator[Sink]:
    """Serve an OTLP endpoint over HTTP."""
    taken = Sink()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                taken.take(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    taken.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield taken
    finally:
        server.shutdown()


@contextmanager
def watching(folder: Path, api: str, endpoint: str) -> Iterator[Watch]:
    """Start `flowspan watch`, and look at its memory twice a second."""
    env = clean_environment(folder) | {
        "PREFECT_API_URL": api,
        "PYTHONPATH": str(ROOT / "src"),
        "FLOWSPAN_WATCH_DIR": str(folder / "watch"),
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }
    log = folder / "watch.log"
    show_progress("starting flowspan watch")
    with process(WATCH, env, log) as started:
        watch = Watch(started, log)
        deadline = time.monotonic() + START
        while "Watching" not in log.read_text():
            if started.poll() is not None or time.monotonic() > deadline:
                raise Unable(f"flowspan watch did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield watch


class Load:
    """Flow runs with task runs in them.

    Attributes:
        ends: When each flow run has ended, in seconds since the epoch, by its id.
    """

    def __init__(self, client: PrefectClient, tasks: int) -> None:
        from prefect import flow  # noqa: PLC0415 - after the environment is set

        self._client = client
        self._tasks = tasks
        self._flow = flow(name="watched")(lambda: None)
        self.ends: dict[str, float] = {}

    async def begin(self) -> UUID:
        """Begin a flow run, and run its tasks; return its id."""
        from prefect.states import Running  # noqa: PLC0415 - as above

        run = await self._client.create_flow_run(self._flow, state=Running())
        for number in range(self._tasks):
            run_task(run, self._flow, number)
        return run.id

    async def end(self, run_id: UUID) -> None:
        """End a flow run."""
        from prefect.states import Completed  # noqa: PLC0415 - as above

        answer: OrchestrationResult[Any] = await self._client.set_flow_run_state(
            run_id, Completed()
        )
        assert answer.state is not None  # noqa: S101 - it is accepted
        self.ends[str(run_id)] = answer.state.timestamp.timestamp()
        show_progress(f"{len(self.ends):,} runs have ended")

    async def whole(self) -> None:
        """Begin a flow run, and end it."""
        await self.end(await self.begin())


def run_task(flow_run: FlowRun, flow: Flow[..., Any], number: int) -> None:
    """Emit the events of a task run, as Prefect's task engine does."""
    from prefect._internal.uuid7 import uuid7  # noqa: PLC0415 - as above
    from prefect.client.schemas.objects import TaskRun  # noqa: PLC0415 - as above
    from prefect.context import FlowRunContext  # noqa: PLC0415 - as above
    from prefect.states import Completed, Pending, Running  # noqa: PLC0415 - as above
    from prefect.utilities.engine import emit_task_run_state_change_event  # noqa: PLC0415

    run = TaskRun(
        id=uuid7(),
        name=f"step-{number}",
        flow_run_id=flow_run.id,
        task_key="step-0123abcd",
        dynamic_key=str(number),
    )
    before = last = None
    states: list[State[Any]] = [Pending(), Running(), Completed()]
    # Events are related to the flow run of their context.
    with FlowRunContext.model_construct(flow_run=flow_run, flow=flow):
        for state in states:
            state.state_details.flow_run_id, state.state_details.task_run_id = flow_run.id, run.id
            run.run_count += state.is_running()
            last = emit_task_run_state_change_event(run, before, state, follows=last)
            before = state


async def make_runs(arguments: argparse.Namespace) -> dict[str, float]:
    """Make all runs; return when each has ended."""
    from prefect.client.orchestration import get_client  # noqa: PLC0415 - as above
    from prefect.events.worker import EventsWorker  # noqa: PLC0415 - as above

    async with get_client() as client:
        load = Load(client, arguments.tasks)
        if arguments.within is None:
            await at_rate(arguments.rate, [load.whole] * arguments.runs)
        else:
            show_progress("beginning all runs")
            ids = await at_rate(1000, [load.begin] * arguments.runs)
            await asyncio.to_thread(EventsWorker.instance().wait_until_empty)
            rate = arguments.runs / arguments.within
            await at_rate(rate, [partial(load.end, run_id) for run_id in ids])
    return load.ends


async def at_rate(rate: float, calls: Sequence[Callable[[], Coroutine[Any, Any, T]]]) -> list[T]:
    """Make calls at a rate, or more slowly if too many are not done; return what they return."""
    gate = asyncio.Semaphore(AT_ONCE)
    begun = time.monotonic()

    async def one(number: int) -> T:
        await asyncio.sleep(begun + number / rate - time.monotonic())
        async with gate:
            return await calls[number]()

    return await asyncio.gather(*map(one, range(len(calls))))


def wait_for_spans(taken: Sink, count: int) -> None:
    """Wait until there are as many spans, or none has come for a while."""
    known, since = -1, time.monotonic()
    while len(taken.times) < count and time.monotonic() - since < SILENCE:
        if len(taken.times) != known:
            known, since = len(taken.times), time.monotonic()
            show_progress(f"{known:,} of {count:,} spans")
        time.sleep(0.2)


def report(arguments: argparse.Namespace, found: Figures) -> int:
    """Print the figures; return 1 if a span is missing, or came twice."""
    ends, taken = found.ends, found.taken
    count = arguments.runs * (arguments.tasks + 1)
    delays = sorted(taken.arrivals[run] - end for run, end in ends.items() if run in taken.arrivals)
    doubled = sum(times > 1 for times in taken.times.values())
    print(
        f"Prefect {version('prefect')}, Python {platform.python_version()}, load {os.getloadavg()}"
    )
    print(f"{len(ends):,} flow runs of {arguments.tasks} tasks ended in {found.seconds:,.0f} s")
    print(f"spans       {len(taken.times):,} of {count:,}, {doubled:,} more than once")
    if delays:
        late = delays[math.ceil(0.99 * len(delays)) - 1]
        print(
            f"delay       median {statistics.median(delays):.1f} s, 99 % {late:.1f} s,"
            f" longest {delays[-1]:.1f} s"
        )
    print(f"CPU         {found.cpu:.1f} s, {found.cpu / len(ends) * 1000:.1f} ms per flow run")
    print(f"memory      peak {found.peak / MIB:.0f} MiB, growth {found.growth / MIB:+.0f} MiB")
    print(f"requests    {found.requests:,}, {found.requests / len(ends):.2f} per flow run")
    return int(doubled > 0 or len(taken.times) != count)


if __name__ == "__main__":
    sys.exit(main())
