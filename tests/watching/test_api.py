"""The API layer of `flowspan watch`, against a real Prefect server."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from prefect import flow, task
from prefect.settings import PREFECT_API_URL, temporary_settings

from flowspan.watching.api import (
    PAGE,
    Api,
    ApiError,
    NoApiError,
    as_text,
    batches,
    nanoseconds,
    path_without_ids,
)
from processes import PATIENCE

T = TypeVar("T")


def ask(question: Callable[[Api], Awaitable[T]]) -> T:
    async def run() -> T:
        async with Api() as api:
            return await question(api)

    return asyncio.run(run())


@task
def step(number: int) -> int:
    return number


@flow(name="asked about")
def of_many() -> str:
    for number in range(3):
        step(number)
    from prefect.runtime import flow_run

    return str(flow_run.id)


def test_it_asks_for_all_pages(prefect_server: str) -> None:
    """All objects come, however small a page is, and each page is one request."""
    runs = {of_many() for _ in range(3)}

    async def read(api: Api) -> tuple[set[str], int]:
        body = {"flows": {"name": {"any_": ["asked about"]}}}
        found = [
            run["id"] async for page in api.pages("/flow_runs/filter", body, 2) for run in page
        ]
        assert len(found) == len(set(found))
        return set(found), api.requests["/flow_runs/filter"]

    found, requests = ask(read)
    assert runs <= found
    assert requests == len(found) // 2 + 1


def test_many_ids_are_one_request(prefect_server: str) -> None:
    """The task runs of many flow runs come in one answer."""
    runs = [of_many() for _ in range(3)]

    async def read(api: Api) -> tuple[int, int]:
        deadline = time.monotonic() + PATIENCE
        while True:  # task runs reach the API as events
            asked = sum(api.requests.values())
            found = await api.all_of("/task_runs/filter", "task_runs", "flow_run_id", runs)
            if len(found) == 9 or time.monotonic() > deadline:
                return len(found), sum(api.requests.values()) - asked
            await asyncio.sleep(0.2)

    assert ask(read) == (9, 1)


def test_events_come_in_order_from_all_pages(prefect_server: str) -> None:
    """Events of several pages come once each, the oldest first."""
    runs = [of_many() for _ in range(20)]

    async def read(api: Api) -> list[dict[str, Any]]:
        resources = {"id": [f"prefect.flow-run.{run}" for run in runs]}
        deadline = time.monotonic() + PATIENCE
        while True:  # the server stores events some time after it has got them
            events = [event async for event in api.events(resource=resources)]
            ended = [event for event in events if event["event"] == "prefect.flow-run.Completed"]
            if len(ended) == len(runs) or time.monotonic() > deadline:
                return events
            await asyncio.sleep(0.2)

    events = ask(read)
    assert len(events) >= 60
    assert len({event["id"] for event in events}) == len(events)
    times = [event["occurred"] for event in events]
    assert times == sorted(times)


def test_a_missing_object_is_none(prefect_server: str) -> None:
    """Asking for a run that is not there is no failure."""
    missing = "/flow_runs/00000000-0000-0000-0000-000000000000"
    assert ask(lambda api: api.get(missing)) is None


def test_no_url_is_said(prefect_server: str) -> None:
    """Without a URL nothing starts a server of its own; the message names the setting."""
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(NoApiError, match="PREFECT_API_URL"),
    ):
        Api()


@pytest.mark.parametrize(
    ("url", "kind", "words"),
    [
        ("http://127.0.0.1:9/api", ApiError, "does not answer"),
        ("{server}/nothing", NoApiError, "is not Prefect's API"),
    ],
)
def test_a_wrong_url_is_said(
    prefect_server: str, url: str, kind: type[ApiError], words: str
) -> None:
    """The message says which URL was asked, and what is wrong with it."""
    url = url.replace("{server}", prefect_server.removesuffix("/api"))
    with (
        temporary_settings({PREFECT_API_URL: url}),
        pytest.raises(kind, match=words) as raised,
    ):
        ask(lambda api: api.check())
    assert url in str(raised.value)


def test_the_clock_of_the_server(prefect_server: str) -> None:
    """The server's time is known to some seconds; here it is our own."""

    async def read(api: Api) -> int:
        await api.check()
        return api.now

    assert abs(ask(read) - time.time_ns()) < 4e9


def test_moments_keep_microseconds() -> None:
    """A moment survives the way to the API's text and back."""
    text = "2026-11-27T21:14:14.825427Z"
    assert nanoseconds(text) == 1795814054825427000
    assert nanoseconds(as_text(nanoseconds(text))) == nanoseconds(text)


def test_paths_are_counted_without_ids() -> None:
    """Requests for different runs count as the same."""
    assert path_without_ids("/flow_runs/f508bf71-16c1-478c-8228-732d63c33690") == "/flow_runs/ID"
    assert path_without_ids("/flow_runs/filter") == "/flow_runs/filter"


def test_batches() -> None:
    """Every id is in one batch."""
    ids = [str(number) for number in range(2 * PAGE + 1)]
    found = list(batches(ids, PAGE))
    assert [len(batch) for batch in found] == [PAGE, PAGE, 1]
    assert [one for batch in found for one in batch] == ids
