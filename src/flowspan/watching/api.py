"""Ask Prefect's API in pages and batches, through Prefect's own client, and count the requests.

Answers are the JSON objects of Prefect's REST API (https://docs.prefect.io/v3/api-ref/rest-api), so
that a field which a server lacks, or has more than the installed Prefect, breaks nothing. Moments
are nanoseconds since the epoch by the server's clock, unless a name says otherwise.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)

from flowspan.units import NANOSECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterator, Mapping
    from types import TracebackType

    from prefect.client.orchestration import PrefectClient
    from typing_extensions import Self

Object: TypeAlias = dict[str, Any]
"""A JSON object of the API."""

PAGE: Final = 200
"""The most objects that the API returns at once, by its default setting."""
EVENTS_PAGE: Final = 50
"""The most events that the API returns at once."""
_BATCH: Final = 50
"""Ids in one filter; a URL has none of them, so only the server's database limits it."""
_REFUSED: Final = frozenset({401, 403})
_MISSING: Final = 404
_TIMEOUT: Final = 30.0
_SHOWN: Final = 300
"""Characters of an error's text that a message shows."""
_MOST_INEXACT: Final = 3 * NANOSECONDS
"""How much the ``Date`` headers of a server may be behind its clock."""


class ApiError(Exception):
    """Prefect's API gives no usable answer; the message says what to do."""


class NoApiError(ApiError):
    """It is not set which API to ask, or the one that is set refuses; asking again is useless."""


class Api:
    """Prefect's API, as ``PREFECT_API_*`` says; use as ``async with Api() as api:``.

    Attributes:
        url: Where it is.
        requests: How many requests were made, by path without ids.
    """

    def __init__(self) -> None:
        """Choose the API.

        Raises:
            NoApiError: ``PREFECT_API_URL`` is not set, in the environment or in Prefect's profile.
        """
        url: str | None = PREFECT_API_URL.value()
        if not url:
            raise NoApiError(
                "which Prefect API to ask is not set: set PREFECT_API_URL, such as "
                "http://localhost:4200/api, or choose a profile of Prefect that has it"
            )
        self.url = url
        self.requests: Counter[str] = Counter()
        self._client: PrefectClient
        self._settings = ExitStack()
        self._offset = 0  # of the server's clock, in nanoseconds
        self._is_offset_known = False

    async def __aenter__(self) -> Self:
        # Who waits for an answer also decides how long to try, and says so meanwhile.
        self._settings.enter_context(temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 1}))
        self._client = get_client(httpx_settings={"timeout": _TIMEOUT})
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._settings.close()
        await self._client.__aexit__(kind, error, traceback)

    @property
    def now(self) -> int:
        """The time by the server's clock, to some seconds; our own until it has answered."""
        return time.time_ns() + self._offset

    async def check(self) -> None:
        """Ask for little, to see that the API answers and lets us in.

        Raises:
            ApiError: It does not answer.
            NoApiError: It refuses, or is none.
        """
        await self.post("/flows/filter", {"limit": 1})

    # Requests

    async def get(self, path: str, **parameters: object) -> Any:
        """Return the answer to a GET; None if there is no such object.

        Raises:
            ApiError: As `check`.
        """
        return await self._ask("GET", path, params=parameters)

    async def post(self, path: str, body: Mapping[str, object]) -> Any:
        """Return the answer to a POST, such as one page of a filter.

        Raises:
            ApiError: As `check`.
        """
        return await self._ask("POST", path, json=body)

    async def pages(
        self, path: str, body: Mapping[str, object], size: int = PAGE
    ) -> AsyncIterator[list[Object]]:
        """Yield all that a filter selects, in pages.

        Objects that are added meanwhile may move others to a page that has been read. Sort so that
        new ones come last, or ask again.

        Raises:
            ApiError: As `check`.
        """
        offset = 0
        while page := await self.post(path, {**body, "limit": size, "offset": offset}):
            yield page
            offset += len(page)
            if len(page) < size:
                return

    async def all(self, path: str, body: Mapping[str, object]) -> list[Object]:
        """Return all that a filter selects, each object once.

        Raises:
            ApiError: As `check`.
        """
        # What is added meanwhile may move an object to the next page.
        found = {one["id"]: one async for page in self.pages(path, body) for one in page}
        return [*found.values()]

    async def all_of(
        self, path: str, kind: str, field: str, ids: Collection[str], **body: object
    ) -> list[Object]:
        """Return all objects one of whose ids is among `ids`, asking for many ids at once.

        Args:
            path: Such as ``/task_runs/filter``.
            kind: The key of the filter in the body, such as ``task_runs``.
            field: The field of this filter, such as ``flow_run_id``.
            ids: Any number.
            body: Other keys of the body.

        Raises:
            ApiError: As `check`.
        """
        found: list[Object] = []
        for batch in batches(ids, _BATCH):
            found += await self.all(path, {**body, kind: {field: {"any_": batch}}})
        return found

    async def events(self, **wanted: object) -> AsyncIterator[Object]:
        """Yield the events that a filter selects, the oldest first.

        Args:
            wanted: The parts of the filter: ``occurred``, ``event``, ``resource``, ``related``.

        Raises:
            ApiError: As `check`.
        """
        body = {"filter": {"order": "ASC", **wanted}, "limit": EVENTS_PAGE}
        page = await self.post("/events/filter", body)
        while page:
            for event in page["events"]:
                yield event
            if not page["next_page"]:
                return
            # The server's own idea of its address may be wrong behind a proxy.
            token = httpx.URL(page["next_page"]).params["page-token"]
            page = await self.get("/events/filter/next", **{"page-token": token})

    async def _ask(self, method: Any, path: str, **body: Any) -> Any:
        request: Any = path
        self.requests[path_without_ids(path)] += 1
        try:
            response = await self._client.request(method, request, **body)
        except PrefectHTTPStatusError as error:
            self._note_time(error.response)
            if error.response.status_code == _MISSING and method == "GET":
                return None
            raise self._refusal(error.response) from error
        except (httpx.HTTPError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise ApiError(
                f"Prefect's API at {self.url} does not answer ({reason}): check that the server "
                "runs and that PREFECT_API_URL is right"
            ) from error
        self._note_time(response)
        try:
            return response.json()
        except ValueError:
            raise self._no_api() from None

    def _note_time(self, response: httpx.Response) -> None:
        """Learn how far the server's clock is from ours; its ``Date`` header has seconds."""
        try:
            there = parsedate_to_datetime(response.headers["date"]).timestamp()
        except (KeyError, ValueError, TypeError):
            return
        offset = round((there - time.time()) * NANOSECONDS)
        # The header is cut to the second, may be as old as one, and took a while to come: so the
        # true offset is larger by up to three seconds. The largest of many is closest to it.
        if not self._is_offset_known or abs(offset - self._offset) > _MOST_INEXACT:
            self._offset, self._is_offset_known = offset, True
        else:
            self._offset = max(self._offset, offset)

    def _refusal(self, response: httpx.Response) -> ApiError:
        status = response.status_code
        if status in _REFUSED:
            return NoApiError(
                f"Prefect's API at {self.url} refuses the credentials (HTTP {status}): set "
                "PREFECT_API_KEY for Prefect Cloud, or PREFECT_API_AUTH_STRING for a server with "
                "basic authentication"
            )
        if status == _MISSING:
            return self._no_api()
        text = " ".join(response.text.split())[:_SHOWN]
        return ApiError(f"Prefect's API at {self.url} answers with HTTP {status}: {text}")

    def _no_api(self) -> NoApiError:
        return NoApiError(
            f"{self.url} is not Prefect's API: PREFECT_API_URL usually ends with /api, or for "
            "Prefect Cloud with /accounts/ID/workspaces/ID"
        )


def path_without_ids(path: str) -> str:
    """Return the path of a request with ``ID`` for each id and number in it."""
    parts = path.split("/")
    return "/".join("ID" if any(char.isdigit() for char in part) else part for part in parts)


def batches(ids: Collection[str], size: int) -> Iterator[list[str]]:
    """Yield `ids` in lists of at most `size`."""
    ordered = list(ids)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def nanoseconds(text: str) -> int:
    """Return a moment of the API, in ISO 8601, as nanoseconds since the epoch."""
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))  # Python 3.10 knows no Z
    # A float holds today's times in microseconds exactly, once they are rounded.
    return round(moment.timestamp() * 1_000_000) * 1000


def as_text(moment: int) -> str:
    """Return nanoseconds since the epoch as the API takes moments: ISO 8601, microseconds."""
    whole, rest = divmod(moment, NANOSECONDS)
    date = datetime.fromtimestamp(whole, timezone.utc).replace(microsecond=rest // 1000)
    return date.isoformat()
