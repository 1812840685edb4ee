"""Generate traces of any size that look like flowspan's, for benchmarks and tests.

A flow maps three tasks over its items: `extract`, then `transform`, which waits for the result of
its `extract`, then `load`, which sometimes needs a second attempt. Sixteen workers take the items
in turn. Each run has the attributes, events and links of a real one, about 2.5 kB.
"""

from __future__ import annotations

import random
import uuid
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EPOCH: Final = 1_700_000_000_000_000_000
BATCH: Final = 512  # spans on a line: what the SDK exports at once
WORKERS: Final = 16

_MS: Final = 1_000_000
_RETRIED: Final = 20  # every so many items
_RETRY_DELAY: Final = 50 * _MS

_RESOURCE: Final = {
    "telemetry.sdk.language": "python",
    "telemetry.sdk.name": "opentelemetry",
    "telemetry.sdk.version": "1.45.1",
    "service.instance.id": "562acfa4-db73-44db-8ce2-ef24bea2455e",
    "telemetry.distro.name": "flowspan",
    "telemetry.distro.version": "0.1.0",
    "service.name": "prefect",
    "process.pid": 4711,
}


def write(path: Path, spans: int, *, seed: int = 0) -> str:
    """Write a trace of about that many spans, at least five; return its id."""
    trace = _Trace(seed)
    with path.open("wb") as file:
        for batch in _batches(trace.spans(spans)):
            file.write(_line(batch))
    return trace.id


def _batches(spans: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for span in spans:
        batch.append(span)
        if len(batch) == BATCH:
            yield batch
            batch = []
    yield batch


def _line(spans: list[dict[str, Any]]) -> bytes:
    scope = {"scope": {"name": "flowspan", "version": "0.1.0"}, "spans": spans}
    owner = {"resource": {"attributes": _attributes(_RESOURCE)}, "scopeSpans": [scope]}
    return orjson.dumps({"resourceSpans": [owner]}, option=orjson.OPT_APPEND_NEWLINE)


class _Trace:
    """A trace that is being generated; equal seeds give equal traces."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - times and ids of no consequence
        self.id = f"{self._random.getrandbits(128):032x}"
        self._root = self._new_id()
        self._flow_run = self._new_run_id()

    def spans(self, count: int) -> Iterator[dict[str, Any]]:
        """Yield `count` spans or two more, children first, in the order in which they end."""
        free = [EPOCH + 20 * _MS] * WORKERS
        made = 0
        number = 0
        while made < count - 1:
            worker = number % WORKERS
            for span in self._item(number, worker, free):
                yield span
                made += 1
            number += 1
        yield self._flow(max(free) + 5 * _MS)

    def _item(self, number: int, worker: int, free: list[int]) -> Iterator[dict[str, Any]]:
        start = free[worker]
        extract = self._run("extract", worker, start, [], rows=1_000)
        yield extract
        # A worker picks it up while its input is still being computed.
        start = int(extract["endTimeUnixNano"])
        transform = self._run(
            "transform", worker, start - 8 * _MS, [extract["spanId"]], dependencies=8 * _MS
        )
        yield transform
        start = int(transform["endTimeUnixNano"])
        is_retried = number % _RETRIED == _RETRIED - 1
        load = self._run("load", worker, start, [transform["spanId"]], is_retried=is_retried)
        if is_retried:
            yield from self._attempts(load)
        yield load
        free[worker] = int(load["endTimeUnixNano"]) + self._random.randrange(_MS)

    def _run(
        self,
        name: str,
        worker: int,
        start: int,
        upstream: list[str],
        *,
        dependencies: int = 0,
        is_retried: bool = False,
        rows: int | None = None,
    ) -> dict[str, Any]:
        execution = self._random.randrange(10 * _MS, 60 * _MS)
        before, after = self._random.randrange(_MS), self._random.randrange(_MS)
        retry = _RETRY_DELAY if is_retried else 0
        running = start + dependencies + before
        end = running + execution + retry + after
        run_id = self._new_run_id()
        attributes: dict[str, Any] = {
            "prefect.flow.name": "generated",
            "prefect.task.name": name,
            "prefect.run.type": "task",
            "prefect.wait.queue": self._random.randrange(50 * _MS) / 1e9,
        }
        if dependencies:
            attributes["prefect.wait.dependencies"] = dependencies / 1e9
        if retry:
            attributes["prefect.wait.retry"] = retry / 1e9
        attributes |= {
            "prefect.execution": execution / 1e9,
            "prefect.orchestration": (before + after) / 1e9,
            "prefect.run.state.type": "COMPLETED",
            "prefect.run.state.name": "Completed",
            "cicd.pipeline.task.run.result": "success",
            "prefect.run.id": run_id,
            "prefect.run.name": f"{name}-{run_id[:3]}",
            "prefect.run.count": 2 if is_retried else 1,
            "prefect.tags": ["generated", name],
            "prefect.run.parameter.item": "int",
            "cicd.pipeline.task.name": name,
            "cicd.pipeline.task.run.id": run_id,
            "prefect.task.key": f"{name}-6c4808fc",
            "prefect.task.cached": False,
            "prefect.flow_run.id": self._flow_run,
            "thread.id": 140_000_000_000_000 + worker,
            "thread.name": f"WorkerThread-{worker}",
        }
        if rows is not None:
            attributes["prefect.rows.output"] = rows
        states = [("PENDING", "Pending", start), ("RUNNING", "Running", running)]
        if is_retried:
            failed = running + execution // 2
            states.append(("SCHEDULED", "AwaitingRetry", failed))
            states.append(("RUNNING", "Retrying", failed + retry))
        states.append(("COMPLETED", "Completed", end))
        return self._span(name, self._root, start, end, attributes) | {
            "events": [self._event(*state) for state in states],
            "links": [self._link(span_id) for span_id in upstream],
        }

    def _attempts(self, run: dict[str, Any]) -> Iterator[dict[str, Any]]:
        _, running, failed, retried, _ = (int(event["timeUnixNano"]) for event in run["events"])
        end = int(run["endTimeUnixNano"])
        first = {"prefect.run.attempt": 1, "error.type": "ValueError"}
        yield self._span("attempt 1", run["spanId"], running, failed, first) | {
            "status": {"code": 2, "message": "no connection"}
        }
        yield self._span("attempt 2", run["spanId"], retried, end, {"prefect.run.attempt": 2})

    def _flow(self, end: int) -> dict[str, Any]:
        execution = end - EPOCH - 20 * _MS
        attributes = {
            "prefect.flow.name": "generated",
            "prefect.run.type": "flow",
            "cicd.pipeline.name": "generated",
            "prefect.execution": execution / 1e9,
            "prefect.orchestration": 0.02,
            "prefect.run.state.type": "COMPLETED",
            "prefect.run.state.name": "Completed",
            "cicd.pipeline.result": "success",
            "prefect.run.id": self._flow_run,
            "prefect.run.name": "little-millipede",
            "prefect.run.count": 1,
            "prefect.flow_run.id": self._flow_run,
        }
        states = (("RUNNING", "Running", EPOCH + 10 * _MS), ("COMPLETED", "Completed", end))
        return self._span("RUN generated", None, EPOCH, end, attributes) | {
            "spanId": self._root,
            "kind": 2,
            "events": [self._event(*state) for state in states],
        }

    def _span(
        self, name: str, parent: str | None, start: int, end: int, attributes: dict[str, Any]
    ) -> dict[str, Any]:
        span = {"traceId": self.id, "spanId": self._new_id()}
        if parent is not None:
            span["parentSpanId"] = parent
        return span | {
            "flags": 256,
            "name": name,
            "kind": 1,
            "startTimeUnixNano": str(start),
            "endTimeUnixNano": str(end),
            "attributes": _attributes(attributes),
            "status": {},
        }

    def _event(self, kind: str, name: str, time: int) -> dict[str, Any]:
        attributes = {
            "prefect.state.type": kind,
            "prefect.state.name": name,
            "prefect.state.id": self._new_run_id(),
            "prefect.state.message": "",
        }
        return {"timeUnixNano": str(time), "name": name, "attributes": _attributes(attributes)}

    def _link(self, span_id: str) -> dict[str, Any]:
        attributes = {"prefect.link.type": "dependency", "prefect.input.name": "rows"}
        return {
            "traceId": self.id,
            "spanId": span_id,
            "attributes": _attributes(attributes),
            "flags": 768,
        }

    def _new_id(self) -> str:
        return f"{self._random.getrandbits(64):016x}"

    def _new_run_id(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))


def _attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in values.items()]


def _value(value: Any) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case list():
            return {"arrayValue": {"values": [_value(item) for item in value]}}
        case _:
            return {"stringValue": value}
