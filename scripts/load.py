"""Measure how many spans per second the Collector accepts without loss on this machine.

    python scripts/load.py [--rates 1000 2000 ...] [--seconds 15] [--wrap COMMAND]

Sends OTLP over gRPC at rising rates to a Collector with base.yaml and jaeger.yaml, which sends to
a sink that only counts. The spans are as large as flowspan's, 512 per request like the SDK's
batches. A rate is sustained if all spans were accepted on time, and had reached the sink within ten
seconds of the last one.

The Collector has the variables of docker-compose.yml, and its memory is compared with the limit
there. Only memory that the kernel cannot reclaim counts; the mapped file of the queue is shown
separately. COMMAND runs the Collector under a limit, such as
"systemd-run --scope --quiet -p MemoryMax=512M".

It takes at most three minutes, and uses two whole cores at its end. It stays on loopback.
"""

import argparse
import math
import re
import shlex
import sys
import tempfile
import threading
import time
from concurrent import futures
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc  # type: ignore[import-untyped]
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

import programs

sys.path.append(str(programs.ROOT / "tests" / "e2e"))
from running import Collector, running, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opentelemetry.proto.trace.v1.trace_pb2 import Span
    from typing_extensions import Self

RATES: Final = (1_000, 2_000, 5_000, 10_000, 15_000, 20_000, 30_000, 40_000)
EXPORT: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
SPANS: Final = 512
"""Spans per request: the SDK's largest batch."""
SENDERS: Final = 8
DRAIN: Final = 10.0
MIB: Final = 2**20


@dataclass
class Result:
    """The result of one rate."""

    rate: int
    due: int
    taken: int
    refused: int
    arrived: int
    seconds: float
    queued: float
    memory: int
    resident: int
    cpu: float

    @property
    def is_sustained(self) -> bool:
        """Whether everything was accepted on time and arrived."""
        lost = self.refused or self.arrived != self.taken
        return not lost and self.taken >= 0.97 * self.due

    def __str__(self) -> str:
        verdict = "sustained" if self.is_sustained else "NOT sustained"
        return (
            f"{self.rate:>8,} {self.taken / self.seconds:>10,.0f} {self.refused:>9,}"
            f" {self.taken - self.arrived:>9,} {self.queued / MIB:>7.1f} {self.memory / MIB:>7.0f}"
            f" {self.resident / MIB:>9.0f} {self.cpu:>6.0%}  {verdict}"
        )


HEADER: Final = "  wanted    taken/s   refused   missing   queue  memory  resident    CPU"


def requests(count: int = 20) -> list[bytes]:
    """Return requests of spans like flowspan's, each with runs of another flow."""
    return [_request(number).SerializeToString() for number in range(count)]


def _request(number: int) -> ExportTraceServiceRequest:
    message = ExportTraceServiceRequest()
    resource_spans = message.resource_spans.add()
    for key in ("service.name", "service.instance.id", "host.name", "telemetry.distro.name"):
        resource_spans.resource.attributes.add(key=key).value.string_value = f"prefect-{key}"
    scope_spans = resource_spans.scope_spans.add()
    scope_spans.scope.name = "flowspan"
    now = time.time_ns()
    for index in range(SPANS):
        _fill(scope_spans.spans.add(), number, index, now)
    return message


def _fill(span: "Span", flow: int, index: int, now: int) -> None:
    """Make a span a task run's: three state changes, and a link to the run that it waited for."""
    run, task = divmod(index, 16)
    span.trace_id = (flow << 64 | run + 1).to_bytes(16, "big")
    span.span_id = (flow << 32 | index + 1).to_bytes(8, "big")
    span.parent_span_id = (flow << 32 | run * 16 + 1).to_bytes(8, "big") if task else b""
    span.name = f"task-{task}"
    span.start_time_unix_nano, span.end_time_unix_nano = now - 10**9, now
    uuid = "0198c0de-0000-7000-8000-000000000000"
    texts = {
        "prefect.run.id": uuid,
        "prefect.run.name": f"task-{task}-a1b",
        "prefect.run.type": "task",
        "prefect.run.state.type": "COMPLETED",
        "prefect.run.state.name": "Completed",
        "prefect.flow.name": f"flow-{flow}",
        "prefect.flow_run.id": uuid,
        "prefect.task.name": f"task-{task}",
        "prefect.task.key": f"task_{task}-0123abcd",
        "cicd.pipeline.task.name": f"task-{task}",
        "cicd.pipeline.task.run.id": uuid,
        "cicd.pipeline.task.run.result": "success",
        "cicd.pipeline.task.run.url.full": f"http://127.0.0.1:4200/runs/task-run/{uuid}",
        "prefect.run.parameter.rows": "pandas.core.frame.DataFrame",
    }
    for key, text in texts.items():
        span.attributes.add(key=key).value.string_value = text
    for key in ("prefect.wait.queue", "prefect.execution", "prefect.orchestration"):
        span.attributes.add(key=key).value.double_value = 0.25
    for state in ("Pending", "Running", "Completed"):
        event = span.events.add(name=state, time_unix_nano=now)
        event.attributes.add(key="prefect.state.type").value.string_value = state.upper()
        event.attributes.add(key="prefect.state.name").value.string_value = state
        event.attributes.add(key="prefect.state.id").value.string_value = uuid
    link = span.links.add(trace_id=span.trace_id, span_id=span.span_id)
    link.attributes.add(key="prefect.link.type").value.string_value = "dependency"


@contextmanager
def sink() -> "Iterator[str]":
    """Accept everything at once, without reading it; yield host:port."""

    def take(_handler: Any, _details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda _message, _context: b"")

    class Taking(grpc.GenericRpcHandler):  # type: ignore[misc]
        service = take

    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[Taking()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait(5)


@dataclass
class Senders:
    """Threads that send in turn, each request exactly when it is due."""

    target: str
    rate: int
    seconds: float
    bodies: "Sequence[bytes]"
    taken: int = 0
    refused: int = 0
    _sent: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> float:
        """Send until the time is up; return how long it took."""
        began = time.monotonic()
        threads = [threading.Thread(target=self._send, args=(began,)) for _ in range(SENDERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.monotonic() - began

    def _send(self, began: float) -> None:
        with grpc.insecure_channel(self.target) as channel:
            export = channel.unary_unary(EXPORT)
            while True:
                with self._lock:
                    number, self._sent = self._sent, self._sent + 1
                due = began + number * SPANS / self.rate
                if max(due, time.monotonic()) >= began + self.seconds:
                    return
                time.sleep(max(0.0, due - time.monotonic()))
                try:
                    export(self.bodies[number % len(self.bodies)], timeout=10)
                except grpc.RpcError:
                    with self._lock:
                        self.refused += SPANS
                else:
                    with self._lock:
                        self.taken += SPANS


class Watch:
    """The Collector's peak memory and queue under load."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.memory = self.resident = 0
        self.queued = 0.0

    def __enter__(self) -> "Self":
        self._cpu = self._cpu_seconds()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.cpu = self._cpu_seconds() - self._cpu

    def _run(self) -> None:
        while not self._ended.wait(0.25):
            status = Path(f"/proc/{self._collector.pid}/status").read_text()
            sizes = {
                k: int(v) * 1024 for k, v in re.findall(r"^(\w+):\s+(\d+) kB", status, re.MULTILINE)
            }
            self.memory = max(self.memory, sizes["RssAnon"] + sizes["RssShmem"])
            self.resident = max(self.resident, sizes["VmRSS"])
            own = self._collector.own_metrics()
            self.queued = max(self.queued, own.get("otelcol_exporter_queue_size", 0))

    def _cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self._collector.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100


def measure(collector: Collector, rate: int, seconds: float, bodies: "Sequence[bytes]") -> Result:
    """Send at one rate, then wait at most `DRAIN` seconds until the sink has everything."""
    senders = Senders(collector.endpoint().removeprefix("http://"), rate, seconds, bodies)
    before = sent_on(collector)
    with Watch(collector) as watch:
        took = senders.run()
        with suppress(TimeoutError):
            wait_for(lambda: sent_on(collector) - before >= senders.taken, DRAIN)
    arrived = sent_on(collector) - before
    return Result(
        rate,
        math.ceil(rate * seconds / SPANS) * SPANS,
        senders.taken,
        senders.refused,
        arrived,
        took,
        watch.queued,
        watch.memory,
        watch.resident,
        watch.cpu / took,
    )


def sent_on(collector: Collector) -> int:
    """Return how many spans the sink has accepted, by the Collector's count."""
    return int(collector.own_metrics().get("otelcol_exporter_sent_spans_total", 0))


def compose() -> tuple[dict[str, str], int]:
    """Return the Collector's memory settings in docker-compose.yml, and its limit in bytes."""
    file = yaml.safe_load((programs.ROOT / "docker-compose.yml").read_text())
    service = file["services"]["collector"]
    names = ("COLLECTOR_MEMORY_MIB", "GOMEMLIMIT")
    settings = {k: str(v) for k, v in service["environment"].items() if k in names}
    return settings, int(service["mem_limit"].removesuffix("m")) * MIB


def main() -> int:
    """Print one line per rate, up to the first that is not sustained."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rates", type=int, nargs="+", default=RATES, metavar="SPANS")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--wrap", type=shlex.split, default=[], metavar="COMMAND")
    options = parser.parse_args()
    settings, limit = compose()
    bodies = requests()
    size = sum(map(len, bodies)) / len(bodies) / SPANS
    print(f"{SPANS} spans per request, {size:.0f} bytes each; {settings}, {limit // MIB} MiB")
    best = None
    with tempfile.TemporaryDirectory() as folder, sink() as target:
        collector = Collector(Path(folder), "jaeger", JAEGER_ENDPOINT=target, **settings)
        collector.wrap(options.wrap)
        with running(collector):
            print(HEADER)
            for rate in options.rates:
                result = measure(collector, rate, options.seconds, bodies)
                print(result, flush=True)
                if not result.is_sustained or result.memory > limit:
                    break
                best = result
    print(f"sustained: {best.rate:,} spans/s" if best else "none of these rates is sustained")
    return 0


if __name__ == "__main__":
    sys.exit(main())
