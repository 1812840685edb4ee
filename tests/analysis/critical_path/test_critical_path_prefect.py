"""The critical path of flows that Prefect really ran."""

from __future__ import annotations

import asyncio
import time
from itertools import groupby
from typing import TYPE_CHECKING

import pytest
from opentelemetry.exporter.otlp.json.file import FileSpanExporter
from prefect import flow, get_client, task
from prefect.cache_policies import NO_CACHE
from tiling import check

from flowspan.analysis.one_trace import analyse
from flowspan.read import trace_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import TypeAlias

    from flowspan.analysis.one_trace import Analysis
    from support import RecordedSpans

    Analyser: TypeAlias = "Callable[[], tuple[Analysis, list[str], list[str]]]"


@pytest.fixture
def analysed(spans: RecordedSpans, tmp_path: Path) -> Analyser:
    """Analyse what has been recorded: with names of spans and causes along the path."""

    def of_all() -> tuple[Analysis, list[str], list[str]]:
        exporter = FileSpanExporter(tmp_path / "traces.jsonl")
        exporter.export(spans.all)
        exporter.shutdown()
        trace = trace_files.load(tmp_path)
        found = analyse(trace.spans)
        check(trace.spans, found)
        names = {span.span_id: span.name for span in trace.spans}
        on_path = [name for name, _ in groupby(names[s.span_id] for s in found.critical_path)]
        return found, on_path, [step.cause for step in found.critical_path]

    return of_all


@task(cache_policy=NO_CACHE)
def extract(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@task(cache_policy=NO_CACHE)
def report(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@task(cache_policy=NO_CACHE)
def load(seconds: float, *_: object) -> float:
    time.sleep(seconds)
    return seconds


def test_upstream(analysed: Analyser) -> None:
    """The path goes by link to the upstream run, past another task that ended later."""

    @flow
    def linked() -> None:
        first = extract.submit(0.3)
        other = report.submit(0.9)
        last = load.submit(1.2, first)
        other.wait()
        last.wait()

    linked()
    found, names, _ = analysed()
    assert names == ["RUN linked", "extract", "load", "RUN linked"]
    assert found.bottleneck is not None
    assert found.bottleneck.name == "load"
    (bystander,) = (one for one in found.tasks if one.name == "report")
    assert bystander.slack is not None
    assert bystander.slack > 0


def test_slot(analysed: Analyser, prefect_server: str) -> None:
    """A task that waited for the slot of a tag leads to the one that held it."""
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name("tag:one-at-a-time", limit=1)
    holder = extract.with_options(tags=["one-at-a-time"])
    waiter = load.with_options(tags=["one-at-a-time"])

    @flow
    def slotted() -> None:
        first = holder.submit(1.0)
        time.sleep(0.5)
        other = report.submit(0.1)
        second = waiter.submit(0.3)
        for future in (first, other, second):
            future.wait()

    slotted()
    _, names, causes = analysed()
    assert names == ["RUN slotted", "extract", "load", "RUN slotted"]
    assert "concurrency" in causes  # it asks for the slot now and then, so it gets it late


def test_retries(analysed: Analyser) -> None:
    """A run that was tried again is on the path with its attempts and what lies between them."""
    tries = []

    @task(retries=1, retry_delay_seconds=0.5, cache_policy=NO_CACHE)
    def flaky() -> None:
        time.sleep(0.2)
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError

    @flow
    def retried() -> None:
        flaky.submit().wait()

    retried()
    found, _, _ = analysed()
    assert found.bottleneck is not None
    assert (found.bottleneck.name, found.bottleneck.retries) == ("flaky", 1)
    causes = [s.cause for s in found.critical_path]
    at = causes.index("retry")
    assert causes[at - 1 : at + 2] == ["execution", "retry", "execution"]
    assert found.retry_cost >= found.retry_cost_on_path > 0.5e9


def test_subflows(analysed: Analyser) -> None:
    """The path goes through subflows, three levels down, and up again."""

    @flow
    def inner() -> None:
        extract(0.2)

    @flow
    def middle() -> None:
        inner()

    @flow
    def outer() -> None:
        report.submit(0.1)
        middle()
        load(0.2)

    outer()
    _, names, _ = analysed()
    assert names == [
        *("RUN outer", "RUN middle", "RUN inner", "extract", "RUN inner", "RUN middle"),
        *("RUN outer", "load", "RUN outer"),
    ]


def test_gathered(analysed: Analyser) -> None:
    """Of tasks that are awaited together, the last is on the path."""

    @task(cache_policy=NO_CACHE)
    async def quick() -> None:
        await asyncio.sleep(0.1)

    @task(cache_policy=NO_CACHE)
    async def slow() -> None:
        await asyncio.sleep(0.6)

    @flow
    async def gathered() -> None:
        await asyncio.gather(quick(), slow(), quick())

    asyncio.run(gathered())
    _, names, _ = analysed()
    assert names == ["RUN gathered", "slow", "RUN gathered"]
