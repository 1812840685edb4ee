"""Measure what flowspan costs a flow, compared with bare Prefect and Prefect's own spans.

    python scripts/bench.py [--tasks 1000] [--rounds 7] [--against OTHER/src]
    python scripts/bench.py --instructions [--tasks 30] [--rounds 1] [--against OTHER/src]

The same flow runs in a fresh process for each variant and round; the variants take turns:

    bare          Prefect with its telemetry off
    native otlp   Prefect's own spans, a plain SDK, OTLP over HTTP to a sink
    native file   the same with the JSON file exporter
    otlp spans    flowspan's spans to the same sink, without its metrics
    otlp          flowspan to the same sink
    embedded      flowspan with its embedded files
    ... against   the last two with flowspan's source from another folder, to evaluate a change

One Prefect server and one sink, each in its own process on loopback, serve all variants, so only
the flow's process is measured. The flow calls a trivial task directly, and one time in five submits
it to the thread pool. Prefect's log is off, which makes bare Prefect cheaper and flowspan's share
larger than in real life.

By default it reports CPU time per task: that of all threads, from the call of the flow until all
spans and all of Prefect's events have been sent, after a small flow has warmed up the process.
Ratios are computed within a round and their median is reported, so that a busy machine spoils
single rounds and not the result. Python's full garbage collections are counted but not part of the
CPU time: they scan everything that imports have left, take as long as dozens of tasks, and happen
once in hundreds of tasks, in one process or another. Wall time is shown for orientation: the server
takes most of it. Memory is the peak of the whole process.

With ``--instructions`` it counts machine instructions in user mode instead, which hardly depend on
the machine's other load: with ``perf``, or else with Valgrind (50 times slower, so by default on 30
tasks). Flows of two lengths are compared, so that one-time costs cancel out.

The exit code only says whether it could measure. The targets: flowspan takes at most 5 % more than
bare Prefect, and no more than Prefect's own spans.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ROOT: Final = Path(__file__).resolve().parent.parent
FULL_COLLECTION: Final = 2
CHILD_TIMEOUT: Final = 120.0
VALGRIND_TIMEOUT: Final = 900.0
SERVER_TIMEOUT: Final = 300.0
WARM_UP_TASKS: Final = 20
SUBMITTED: Final = 5  # every fifth task
TARGET_OVER_BARE: Final = 1.05

FILE: Final = "traces.jsonl"
BARE: Final = "bare"
NATIVE: Final = {"otlp": "native otlp", "embedded": "native file"}
"""The targets of each variant of flowspan."""


@dataclass(frozen=True)
class Variant:
    """One way to run the flow."""

    name: str
    mode: str
    """``bare``, ``native`` or ``flowspan``."""
    to_file: bool = False
    with_metrics: bool = True
    source: Path | None = None
    """The folder to import flowspan from, instead of the installed one."""


@dataclass(frozen=True)
class Sample:
    """The measurements of one process."""

    spans: int
    cpu: float = 0.0
    """Seconds per task."""
    wall: float = 0.0
    """Seconds per task."""
    peak: float = 0.0
    """Bytes of the whole process."""
    collections: int = 0
    """Number of full garbage collections."""
    collecting: float = 0.0
    """Seconds of CPU time for these, which `cpu` excludes."""


@dataclass(frozen=True)
class Bench:
    """The places of everything that a measured process needs."""

    folder: Path
    api: str
    sink: str


class Unable(Exception):  # noqa: N818 - not an error of this script
    """Nothing could be measured; the argument says why."""


def main() -> int:
    """Run the benchmark and print its tables."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    arguments = parse_arguments()
    chosen = variants(arguments.against)
    try:
        with tempfile.TemporaryDirectory(prefix="flowspan-bench-") as name:
            folder = Path(name)
            with sink() as url, prefect_server(folder) as api:
                bench = Bench(folder, api, url)
                if arguments.instructions:
                    count_instructions(bench, chosen, arguments.tasks, arguments.rounds)
                else:
                    measure_time(bench, chosen, arguments.tasks or 1000, arguments.rounds or 7)
    except Unable as reason:
        print(f"Cannot measure: {reason}", file=sys.stderr)
        return 1
    return 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=positive, help="task runs in the measured flow")
    parser.add_argument("--rounds", type=positive, help="processes for each variant")
    parser.add_argument("--instructions", action="store_true", help="count instructions, not time")
    parser.add_argument(
        "--against", type=Path, metavar="SRC", help="another src folder to measure flowspan from"
    )
    return parser.parse_args()


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def variants(against: Path | None) -> list[Variant]:
    """Return the variants to compare, in the order of the table."""
    chosen = [
        Variant(BARE, "bare"),
        Variant(NATIVE["otlp"], "native"),
        Variant("otlp spans", "flowspan", with_metrics=False),
        Variant("otlp", "flowspan"),
        Variant(NATIVE["embedded"], "native", to_file=True),
        Variant("embedded", "flowspan", to_file=True),
    ]
    if against is not None:
        source = against.resolve()
        if not (source / "flowspan").is_dir():
            sys.exit(f"{source} has no folder flowspan")
        chosen += [
            Variant("otlp against", "flowspan", source=source),
            Variant("embedded against", "flowspan", to_file=True, source=source),
        ]
    return chosen


# Time


def measure_time(bench: Bench, chosen: Sequence[Variant], tasks: int, rounds: int) -> None:
    """Measure CPU time, wall time and memory, and report whether the targets are met."""
    samples: dict[str, list[Sample]] = {variant.name: [] for variant in chosen}
    for done in range(rounds):
        for variant in chosen:
            show_progress(f"round {done + 1} of {rounds}: {variant.name}")
            folder = Path(tempfile.mkdtemp(dir=bench.folder))
            sample = run_child(bench, variant, folder, tasks)
            check_spans(variant, sample, WARM_UP_TASKS + tasks, flows=2)
            samples[variant.name].append(sample)
    show_progress("")
    print(
        f"{tasks} tasks, {rounds} rounds, Python {sys.version.split()[0]}, {os.cpu_count()} cores"
    )
    print(
        f"{'':<18}{'CPU ms/task':>12}{'min-max':>14}{'of bare':>9}{'quartiles':>14}"
        f"{'of native':>11}{'full GCs':>10}{'wall ms/task':>14}{'peak MB':>9}"
    )
    cpu = {name: [sample.cpu * 1000 for sample in taken] for name, taken in samples.items()}
    for name, taken in samples.items():
        wall = statistics.median(sample.wall for sample in taken) * 1000
        peak = statistics.median(sample.peak for sample in taken) / 1e6
        collections = statistics.mean(sample.collections for sample in taken) * 1000 / tasks
        print(
            f"{name:<18}{statistics.median(cpu[name]):>12.3f}{spread(cpu[name]):>14}"
            f"{format_ratios(cpu, name)}{collections:>10.1f}{wall:>14.2f}{peak:>9.0f}"
        )
    everything = [sample for taken in samples.values() for sample in taken]
    if count := sum(sample.collections for sample in everything):
        each = sum(sample.collecting for sample in everything) / count * 1000
        print(f"full GCs are per 1000 tasks; each took {each:.0f} ms, not part of the CPU time")
    print_verdicts(cpu)


def run_child(bench: Bench, variant: Variant, folder: Path, tasks: int) -> Sample:
    """Run the flow in a fresh process."""
    command = [sys.executable, __file__, "--child", variant.mode, str(tasks)]
    output = run(command, folder, environment_of(bench, variant, folder), CHILD_TIMEOUT)
    return Sample(**json.loads(output) | {"spans": spans_exported(bench, variant, folder)})


# Instructions


def count_instructions(
    bench: Bench, chosen: Sequence[Variant], tasks: int | None, rounds: int | None
) -> None:
    """Count instructions per task, and report whether the targets are met."""
    count = count_with_perf if perf_counts_instructions() else count_with_valgrind
    if count is count_with_valgrind:
        for tool in ("valgrind", "callgrind_control"):
            if shutil.which(tool) is None:
                raise Unable(f"perf counts no instructions here, and there is no {tool}")
    # Valgrind is slow but sees the flows only; perf is fast but counts start-up, which varies.
    tasks = tasks or (30 if count is count_with_valgrind else 300)
    rounds = rounds or (1 if count is count_with_valgrind else 5)
    samples: dict[str, list[float]] = {variant.name: [] for variant in chosen}
    for done in range(rounds):
        for variant in chosen:
            show_progress(f"round {done + 1} of {rounds}: {variant.name}")
            samples[variant.name].append(count(bench, variant, tasks) / 1e6)
    show_progress("")
    tool = count.__name__.rpartition("_")[2]
    print(f"{tasks} and {2 * tasks} tasks, {rounds} rounds, by {tool}")
    print(
        f"{'':<18}{'M instr./task':>14}{'min-max':>14}{'of bare':>9}{'quartiles':>14}"
        f"{'of native':>11}"
    )
    for name, taken in samples.items():
        print(
            f"{name:<18}{statistics.median(taken):>14.3f}{spread(taken):>14}"
            f"{format_ratios(samples, name)}"
        )
    print_verdicts(samples)


def perf_counts_instructions() -> bool:
    """Return whether ``perf`` is there and can count; on virtual machines it often cannot."""
    if shutil.which("perf") is None:
        return False
    command = ["perf", "stat", "-x,", "-e", "instructions:u", "true"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.returncode == 0 and re.search(r"^\d+,", done.stderr, re.MULTILINE) is not None


def count_with_perf(bench: Bench, variant: Variant, tasks: int) -> float:
    """Count in two whole processes, and divide the difference by the tasks."""
    counts = []
    for length in (tasks, 2 * tasks):
        folder = Path(tempfile.mkdtemp(dir=bench.folder))
        result = folder / "perf.txt"
        perf = ["perf", "stat", "-x,", "-e", "instructions:u", "-o", str(result)]
        command = [*perf, sys.executable, __file__, "--child", variant.mode, str(length)]
        run(command, folder, environment_of(bench, variant, folder), CHILD_TIMEOUT)
        spans = Sample(spans_exported(bench, variant, folder))
        check_spans(variant, spans, WARM_UP_TASKS + length, flows=2)
        found = re.search(r"^(\d+),", result.read_text(), re.MULTILINE)
        if found is None:
            raise Unable(f"perf printed no count:\n{result.read_text()}")
        counts.append(int(found[1]))
    return (counts[1] - counts[0]) / tasks


def count_with_valgrind(bench: Bench, variant: Variant, tasks: int) -> float:
    """Count in one process, in which Valgrind only looks at the two flows."""
    folder = Path(tempfile.mkdtemp(dir=bench.folder))
    command = [
        "valgrind",
        "--quiet",
        "--tool=callgrind",
        "--instr-atstart=no",
        f"--callgrind-out-file={folder / 'callgrind'}",
        sys.executable,
        __file__,
        "--child-in-valgrind",
        variant.mode,
        str(tasks),
    ]
    run(command, folder, environment_of(bench, variant, folder), VALGRIND_TIMEOUT)
    spans = Sample(spans_exported(bench, variant, folder))
    check_spans(variant, spans, WARM_UP_TASKS + 3 * tasks, flows=3)
    counts = [read_callgrind(folder / f"callgrind.{part}") for part in (1, 2)]
    return (counts[1] - counts[0]) / tasks


def read_callgrind(path: Path) -> int:
    """Return the number of instructions in one of Valgrind's dumps."""
    found = re.search(r"^(?:totals|summary): (\d+)", path.read_text(), re.MULTILINE)
    if found is None:
        raise Unable(f"{path.name} has no total")
    return int(found[1])


# Tables


def ratios(values: Mapping[str, Sequence[float]], name: str, base: str) -> list[float]:
    """Return the ratios within each round."""
    return [one / other for one, other in zip(values[name], values[base], strict=True)]


def format_ratios(values: Mapping[str, Sequence[float]], name: str) -> str:
    """Format the columns that compare a variant with others."""
    of_bare = ratios(values, name, BARE)
    base = NATIVE.get(name.removesuffix(" against"))
    of_native = f"{statistics.median(ratios(values, name, base)):.3f}" if base else ""
    middle = quartiles(of_bare) if name != BARE else ""
    return f"{statistics.median(of_bare):>9.3f}{middle:>14}{of_native:>11}"


def spread(values: Sequence[float]) -> str:
    """Format the minimum and the maximum."""
    return f"{min(values):.2f}-{max(values):.2f}"


def quartiles(values: Sequence[float]) -> str:
    """Format the quartiles."""
    if len(values) == 1:
        return ""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{low:.3f}-{high:.3f}"


def print_verdicts(values: Mapping[str, Sequence[float]]) -> None:
    """Compare each variant of flowspan with the targets."""
    for name in values:
        base = NATIVE.get(name.removesuffix(" against"))
        if base is None:
            continue
        for other, target in ((BARE, TARGET_OVER_BARE), (base, 1.0)):
            ratio = statistics.median(ratios(values, name, other))
            verdict = "met" if ratio <= target else "MISSED"
            print(f"{name}: {ratio:.3f} of {other}, target {target:.2f}: {verdict}")


def show_progress(text: str) -> None:
    """Show progress on a terminal, in one line that the next one replaces."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


# The processes around the measured one


def run(command: Sequence[str], folder: Path, env: Mapping[str, str], timeout: float) -> str:
    """Run a command in `folder` and return the last line that it prints."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise Unable(f"no end after {timeout:.0f} s: {' '.join(command)}") from None
    except subprocess.CalledProcessError as error:
        raise Unable(f"{' '.join(command)}\n{error.stdout}{error.stderr}") from None
    return (done.stdout.splitlines() or [""])[-1]


def environment_of(bench: Bench, variant: Variant, folder: Path) -> dict[str, str]:
    """Return the environment of a measured process."""
    env = clean_environment(bench.folder) | {
        "PREFECT_API_URL": bench.api,
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": str(variant.mode == "native").lower(),
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "PYTHONHASHSEED": "0",
        "FLOWSPAN_DIR": str(folder),
        "BENCH_FILE": str(folder / FILE) if variant.to_file else "",
    }
    if not variant.to_file:
        env["OTEL_EXPORTER_OTLP_ENDPOINT"] = bench.sink
        env["OTEL_EXPORTER_OTLP_PROTOCOL"] = "http/protobuf"
    if not variant.with_metrics:
        env["OTEL_METRICS_EXPORTER"] = "none"
    if variant.source is not None:
        env["PYTHONPATH"] = str(variant.source)
    return env


def clean_environment(folder: Path) -> dict[str, str]:
    """Return the environment without variables that affect telemetry or Prefect."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "FLOWSPAN_", "PREFECT_"))
        and name not in {"TRACEPARENT", "TRACESTATE"}
    }
    return env | {
        "DO_NOT_TRACK": "1",
        "NO_PROXY": "127.0.0.1",
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }


def spans_exported(bench: Bench, variant: Variant, folder: Path) -> int:
    """Return the number of spans that the sink has received since the last call."""
    if variant.to_file:
        return sum(
            len(scope["spans"])
            for line in (folder / FILE).read_text().splitlines()
            for resource_spans in json.loads(line)["resourceSpans"]
            for scope in resource_spans["scopeSpans"]
        )
    with urllib.request.urlopen(bench.sink, timeout=60) as response:  # noqa: S310
        return int(response.read())


def check_spans(variant: Variant, sample: Sample, tasks: int, flows: int) -> None:
    """Check that the measured trace is complete."""
    expected = 0 if variant.mode == "bare" else tasks + flows
    if sample.spans != expected:
        raise Unable(f"{variant.name} exported {sample.spans} spans, not {expected}")


@contextlib.contextmanager
def sink() -> Iterator[str]:
    """Receive OTLP over HTTP in a separate process; yield its URL."""
    command = [sys.executable, __file__, "--serve-sink"]
    with process(command, dict(os.environ), Path(os.devnull)) as started:
        port = started.stdout.readline().decode().strip()
        if not port:
            raise Unable("the sink did not start")
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def prefect_server(folder: Path, **variables: str) -> Iterator[str]:
    """Start a Prefect server with its own home and `variables`; yield the URL of its API."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = clean_environment(folder) | {
        # Nobody reads these here, and storing them would compete for the processors.
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
        **variables,
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
    log = folder / "server.log"
    show_progress("starting Prefect's server")
    with process([*command, "--port", str(port)], env, log) as started:
        api = f"http://127.0.0.1:{port}/api"
        deadline = time.monotonic() + SERVER_TIMEOUT
        while not is_healthy(api):
            if started.poll() is not None or time.monotonic() > deadline:
                raise Unable(f"Prefect's server did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield api


def is_healthy(api: str) -> bool:
    """Return whether Prefect's server answers."""
    try:
        with urllib.request.urlopen(f"{api}/health", timeout=2) as response:  # noqa: S310
            return bool(response.status == 200)  # noqa: PLR2004
    except OSError:
        return False


@contextlib.contextmanager
def process(command: Sequence[str], env: Mapping[str, str], log: Path) -> Iterator[Any]:
    """Start a process whose standard output can be read; stop it afterwards."""
    pipe = subprocess.PIPE
    with log.open("wb") as output:
        started = subprocess.Popen(command, env=env, stdout=pipe, stderr=output)
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.communicate()


def serve_sink() -> None:
    """Print the port, keep posted data, answer a GET with the number of spans since the last."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # noqa: PLC0415
        ExportTraceServiceRequest,
    )

    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                bodies.append(body)
            self.answer(b"")

        def do_GET(self) -> None:
            # Only here, where nothing is measured.
            requests = [ExportTraceServiceRequest.FromString(body) for body in bodies]
            bodies.clear()
            scopes = [
                scope
                for request in requests
                for resource_spans in request.resource_spans
                for scope in resource_spans.scope_spans
            ]
            self.answer(str(sum(len(scope.spans) for scope in scopes)).encode())

        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        print(server.server_port, flush=True)
        server.serve_forever()


# The measured process


def child(mode: str, tasks: int, *, in_valgrind: bool) -> None:
    """Run the flow with the telemetry of `mode`, and print the measurements as JSON."""
    flush = set_up(mode)
    from prefect import flow, task  # noqa: PLC0415
    from prefect.events.worker import EventsWorker  # noqa: PLC0415

    @task
    def add(left: int, right: int) -> int:
        return left + right

    @flow
    def bench(count: int) -> int:
        futures = [add.submit(index, 1) for index in range(0, count, SUBMITTED)]
        total = sum(add(index, 1) for index in range(count) if index % SUBMITTED)
        return total + sum(future.result() for future in futures)

    def run_flow(count: int) -> None:
        bench(count)
        flush()
        EventsWorker.instance().wait_until_empty()

    run_flow(WARM_UP_TASKS)
    gc.collect()
    if in_valgrind:
        # With so few tasks, one full collection after start-up would or would not happen.
        gc.freeze()
        ask_valgrind("--instr=on")
        for count in (tasks, 2 * tasks):
            run_flow(count)
            ask_valgrind("--dump")
        ask_valgrind("--instr=off")
        return
    full = FullCollections()
    gc.callbacks.append(full)
    wall, cpu = time.perf_counter(), time.process_time()
    run_flow(tasks)
    cpu, wall = time.process_time() - cpu - full.cpu, time.perf_counter() - wall
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = kilobytes * (1 if sys.platform == "darwin" else 1024)
    print()
    taken = {"cpu": cpu / tasks, "wall": wall / tasks, "peak": peak}
    print(json.dumps(taken | {"collections": full.count, "collecting": full.cpu}))


class FullCollections:
    """Measure the garbage collector's full collections; a callback for ``gc.callbacks``."""

    def __init__(self) -> None:
        self.count = 0
        self.cpu = 0.0
        self._started = 0.0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        """Record a collection; Python calls this before and after each."""
        if info["generation"] == FULL_COLLECTION:
            if phase == "start":
                self._started = time.thread_time()
            else:
                self.count += 1
                self.cpu += time.thread_time() - self._started


def set_up(mode: str) -> Callable[[], object]:
    """Set up telemetry as a user would, and return a function that exports all of it."""
    if mode == "bare":
        return lambda: None
    if mode == "flowspan":
        import flowspan  # noqa: PLC0415

        flowspan.instrument()
        return flowspan.flush
    from opentelemetry import trace  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter  # noqa: PLC0415

    exporter: SpanExporter
    if path := os.environ["BENCH_FILE"]:
        from opentelemetry.exporter.otlp.json.file import FileSpanExporter  # noqa: PLC0415

        exporter = FileSpanExporter(path)
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )

        exporter = OTLPSpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return provider.force_flush


def ask_valgrind(request: str) -> None:
    """Send a command to Valgrind, which runs this process."""
    subprocess.run(
        ["callgrind_control", request, str(os.getpid())], capture_output=True, check=True
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--serve-sink"]:
            serve_sink()
        case ["--child", mode, tasks]:
            child(mode, int(tasks), in_valgrind=False)
        case ["--child-in-valgrind", mode, tasks]:
            child(mode, int(tasks), in_valgrind=True)
        case _:
            sys.exit(main())
