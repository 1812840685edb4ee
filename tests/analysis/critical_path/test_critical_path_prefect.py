"""The critical path of flows that real Prefect ran."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from opentelemetry.exporter.otlp.json.file import FileSpanExporter
from prefect import flow, get_client, task
from prefect.cache_policies import NO_CACHE
from tiling import check

from clocks import timed_wait
from flowspan.analysis.one_trace import analyse
from flowspan.read import trace_files
from processes import PATIENCE
from support import time_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from prefect.futures import PrefectFuture

    from flowspan.analysis.one_trace import Analysis
    from support import RecordedSpans

    Analyser: TypeAlias = "Callable[[], tuple[Analysis, list[str], list[str]]]"


@pytest.fixture
def analysed(spans: RecordedSpans, tmp_path: Path) -> Analyser:
    """Analyse the recorded spans; return span names and causes along the path."""

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


Work: TypeAlias = Callable[[], object]


@task(cache_policy=NO_CACHE)
def extract(work: Work) -> None:
    work()


@task(cache_policy=NO_CACHE)
def report(work: Work) -> None:
    work()


@task(cache_policy=NO_CACHE)
def load(work: Work, *_: object) -> None:
    work()


def sleep() -> None:
    time.sleep(0.1)


def after(*futures: PrefectFuture[Any]) -> Work:
    """Return work that ends some time after other runs ended."""
    waits = [future.wait for future in futures]

    def work() -> None:
        for wait in waits:
            wait(PATIENCE)
        sleep()

    return work


def shares(found: Analysis) -> list[str]:
    """Return the names of tasks, the largest share of the path first.

    Prefect's engine has a share too, which grows on a busy machine, so flows are left out.
    """
    return [one.name for one in found.tasks if not one.name.startswith("RUN ")]


def test_upstream(analysed: Analyser) -> None:
    """The path follows the link to the upstream run, past another task that ended later."""
    is_awaited = threading.Event()
    began = time.monotonic()

    @flow
    def linked() -> None:
        first = extract.submit(lambda: is_awaited.wait(PATIENCE))
        other = report.submit(after(first))
        waiting = timed_wait(first)

        def longer() -> None:
            after(other)()
            time.sleep(time.monotonic() - began)  # than anything before

        last = load.submit(longer, first)
        assert waiting.begun.wait(PATIENCE)
        is_awaited.set()
        last.wait()

    linked()
    found, names, _ = analysed()
    assert names == ["RUN linked", "extract", "load", "RUN linked"]
    assert shares(found)[0] == "load"
    (bystander,) = (one for one in found.tasks if one.name == "report")
    assert bystander.slack is not None
    assert bystander.slack > 0


def test_slot(
    analysed: Analyser, spans: RecordedSpans, refused: Mapping[str, threading.Event]
) -> None:
    """A task that waited for a tag's slot leads to the task that held it."""
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name("tag:one-at-a-time", limit=1)
    holder = extract.with_options(tags=["one-at-a-time"])
    waiter = load.with_options(tags=["one-at-a-time"])
    is_held = threading.Event()

    def hold() -> None:
        is_held.set()
        assert refused["tag:one-at-a-time"].wait(PATIENCE)

    @flow
    def slotted() -> None:
        holder.submit(hold)
        assert is_held.wait(PATIENCE)
        waiter.submit(after(report.submit(sleep))).wait()

    slotted()
    _, names, causes = analysed()
    assert names == ["RUN slotted", "extract", "load", "RUN slotted"]
    # It polls for the slot, so it usually gets it late.
    is_late = time_of(spans.one("load"), "Running") > (spans.one("extract").end_time or 0)
    assert ("concurrency" in causes) == is_late


def test_retries(analysed: Analyser, spans: RecordedSpans) -> None:
    """A retried run is on the path with its attempts and the waits between them."""
    tries = []

    @task(retries=1, retry_delay_seconds=0.5, cache_policy=NO_CACHE)
    def flaky() -> None:
        sleep()
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError

    @flow
    def retried() -> None:
        flaky.submit().wait()

    retried()
    found, _, _ = analysed()
    (one,) = (one for one in found.tasks if one.name == "flaky")
    assert one.retries == 1
    causes = [s.cause for s in found.critical_path]
    at = causes.index("retry")
    assert causes[at - 1 : at + 2] == ["execution", "retry", "execution"]
    waited = time_of(spans.one("flaky"), "Retrying") - time_of(spans.one("flaky"), "AwaitingRetry")
    assert found.retry_cost >= found.retry_cost_on_path > waited > 0


def test_subflows(analysed: Analyser) -> None:
    """The path goes down through three levels of subflows and up again."""

    @flow
    def inner() -> None:
        extract(sleep)

    @flow
    def middle() -> None:
        inner()

    @flow
    def outer() -> None:
        other = report.submit(sleep)
        middle()
        load(after(other))

    outer()
    _, names, _ = analysed()
    assert names == [
        *("RUN outer", "RUN middle", "RUN inner", "extract", "RUN inner", "RUN middle"),
        *("RUN outer", "load", "RUN outer"),
    ]


def test_gathered(analysed: Analyser) -> None:
    """If tasks are awaited together, the last one is on the path."""
    others: list[asyncio.Future[None]] = []

    @task(cache_policy=NO_CACHE)
    async def quick() -> None:
        await asyncio.sleep(0.1)

    @task(cache_policy=NO_CACHE)
    async def slow() -> None:
        await asyncio.wait(others)
        await asyncio.sleep(0.1)

    @flow
    async def gathered() -> None:
        others.extend(asyncio.ensure_future(quick()) for _ in range(2))
        await asyncio.gather(*others, slow())

    asyncio.run(gathered())
    _, names, _ = analysed()
    assert names == ["RUN gathered", "slow", "RUN gathered"]
