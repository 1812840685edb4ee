"""Read the spans of one trace, or of all traces since a time, from Jaeger.

This uses version 3 of the query API (https://www.jaegertracing.io/docs/latest/architecture/apis/),
which returns OTLP JSON: kinds, links, events and nanoseconds as they were exported, as far as
Jaeger's storage keeps them. The API of its UI has microseconds, and no attributes on links.
"""

import contextlib
import datetime as dt
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import httpx
import orjson

from flowspan import semconv
from flowspan.errors import SourceError
from flowspan.read import otlp_json as otlp
from flowspan.read import trace_files
from flowspan.read.lines import Problem
from flowspan.read.otlp_json import UnreadableError
from flowspan.read.selection import (
    LATEST,
    Summary,
    UnknownRunError,
    missing_runs,
    parse_wanted,
    steps_back,
    trace_of_root,
)
from flowspan.read.server import Server
from flowspan.read.span import Trace

_LOOKBACKS: Final = (dt.timedelta(days=1), dt.timedelta(days=30))  # the API has no "ever"
_DEPTH: Final = 10  # newest traces of each service to look at
_PAGE: Final = 100  # traces to request at once when reading all: old versions return whole traces
_NARROWEST: Final = dt.timedelta(minutes=1)  # the shortest time window that is still halved
_LONGEST_RUN: Final = dt.timedelta(days=1)  # Jaeger searches by start; a run may end much later
_LISTED: Final = 5  # traces to list if the wanted one is missing


def load(
    url: httpx.URL,
    wanted: str = LATEST,
    *,
    headers: Mapping[str, str] | None = None,
    flow: str | None = None,
    since: int = 0,
) -> Trace:
    """Read one trace.

    Args:
        url: See `server.base_url`.
        wanted: A trace id (32 hex digits), the id of a flow or task run in the trace (a UUID),
            or ``latest`` for the trace with a run that ended last, ``latest~1`` for the one before.
            The latest traces, and a run that is not the root of its trace, are only found if they
            are no older than 30 days.
        headers: Headers of every request.
        flow: Consider only traces with a run of this flow as the latest.
        since: Consider only traces that ended then or later, in nanoseconds since the epoch.

    Raises:
        ValueError: `wanted` is none of these.
        SourceError: Jaeger cannot be reached, refuses the request, or is something else.
        UnknownRunError: Jaeger has no such trace.
    """
    back = steps_back(wanted)
    trace_id, run_id = parse_wanted(wanted) if back is None else (None, None)
    problems: list[Problem] = []
    with contextlib.closing(_Api(url, headers or {})) as api:
        if run_id is None:
            candidates: Iterable[str] = api.latest_traces(flow, since, back or 0)
        else:
            candidates = _candidates(api, trace_id, run_id)
        for candidate in candidates:
            trace = api.trace(candidate)
            if trace.spans:
                return trace
            problems += trace.problems
        if run_id is None and (flow is not None or since):
            what, known = f"{missing_runs(wanted, flow, since)}.", api.recent_traces()
        elif back == 0:
            what, known = f"runs of the last {_LOOKBACKS[-1].days} days.", []
        else:
            what, known = f"trace or run {wanted}.", api.recent_traces()
        raise UnknownRunError(f"{api.place} holds no {what}", known[:_LISTED], problems)


def load_all(
    url: httpx.URL,
    problems: list[Problem],
    *,
    headers: Mapping[str, str] | None = None,
    flow: str | None = None,
    since: int,
) -> Iterator[Trace]:
    """Read every trace with a flow run that ended at a time or later, the latest first.

    Args:
        url: See `server.base_url`.
        problems: Problems are appended here.
        headers: Headers of every request.
        flow: Only read traces with a run of this flow.
        since: The time, in nanoseconds since the epoch.

    Raises:
        SourceError: Jaeger cannot be reached, refuses the request, or is something else.
    """
    wanted = (semconv.RUN_TYPE, "flow") if flow is None else (semconv.FLOW_NAME, flow)
    with contextlib.closing(_Api(url, headers or {})) as api:
        for found in api.all_since(wanted, since):
            trace = api.trace(found.trace_id)
            problems += trace.problems
            if trace.spans:
                yield trace


def _candidates(api: "_Api", trace_id: str | None, run_id: str) -> Iterator[str]:
    """Yield the ids of traces that may be the wanted one, the cheapest to find first."""
    if trace_id is not None:
        yield trace_id
    yield trace_of_root(run_id)
    by_run = api.search((semconv.RUN_ID, run_id), (semconv.FLOW_RUN_ID, run_id))
    yield from (found.trace_id for found in by_run)


class _NoSuchApiError(SourceError):
    """The server does not know this part of Jaeger's API."""


class _Api(Server):
    """The requests to Jaeger that are needed; each raises `SourceError` if it fails."""

    def trace(self, trace_id: str) -> Trace:
        """Read a trace as it was stored; otherwise Jaeger adjusts clocks and adds warnings."""
        path = f"v3/traces/{trace_id}"
        raw = self._get(path, rawTraces="true", raw_traces="true")  # before 2.19 only the latter
        return trace_files.parse(raw or b"", trace_id, f"{self.place}/api/{path}")

    def recent_traces(self, least: int = 1) -> list[Summary]:
        """Return traces with runs, the one that ended last first; at least `least` if possible."""
        # A killed process leaves a trace of tasks without a flow.
        return self.search((semconv.RUN_TYPE, "flow"), (semconv.RUN_TYPE, "task"), least=least)

    def latest_traces(self, flow: str | None, since: int, back: int) -> list[str]:
        """Return the id of the latest trace with a run, or with a run of the flow, since a time.

        With `back`, return the trace that many before it. The list has at most one id.
        """
        if flow is None and not since:
            found = self.recent_traces(back + 1)
        else:
            by_type = ((semconv.RUN_TYPE, "flow"), (semconv.RUN_TYPE, "task"))
            attributes = by_type if flow is None else ((semconv.FLOW_NAME, flow),)
            # The API cannot search all time; and a run may have started before `since`.
            lookbacks = (_age(since) + _LONGEST_RUN,) if since else _LOOKBACKS
            found = self.search(*attributes, lookbacks=lookbacks, least=back + 1)
        return [one.trace_id for one in found if one.end >= since][back : back + 1]

    def search(
        self,
        *attributes: tuple[str, str],
        lookbacks: Iterable[dt.timedelta] = _LOOKBACKS,
        least: int = 1,
    ) -> list[Summary]:
        """Return traces where a span has one of the attributes, the one that ended last first.

        Only the newest traces of each service are found. The next look-back is only tried if the
        previous ones found fewer than `least`.
        """
        services = self._services()
        found: dict[str, Summary] = {}
        until = _soon()
        for lookback in lookbacks:
            since = until - lookback
            for service, (name, value) in itertools.product(services, attributes):
                some = self._search(service, {name: value}, since, until, _DEPTH)
                found |= {one.trace_id: one for one in some}
            if len(found) >= least:
                break
        return sorted(found.values(), key=lambda summary: summary.end, reverse=True)

    def all_since(self, attribute: tuple[str, str], since: int) -> list[Summary]:
        """Return all traces that ended at a time or later where a span has the attribute.

        If an answer has the maximum length, it may be incomplete: then this requests each half of
        its time window.
        """
        found: dict[str, Summary] = {}
        until = _soon()
        for service in self._services():
            windows = [(until - _age(since) - _LONGEST_RUN, until)]
            while windows:
                start, end = windows.pop()
                some = [*self._search(service, dict([attribute]), start, end, _PAGE)]
                found |= {one.trace_id: one for one in some if one.end >= since}
                if len(some) >= _PAGE and end - start > _NARROWEST:
                    middle = start + (end - start) / 2
                    windows += [(start, middle), (middle, end)]
        return sorted(found.values(), key=lambda summary: summary.end, reverse=True)

    def _services(self) -> list[str]:
        """Return the services; most storages cannot search without one."""
        document = _json(self._get("v3/services") or b"")
        services = document.get("services") or []
        return [str(service) for service in services] if isinstance(services, list) else []

    def _search(
        self,
        service: str,
        attributes: dict[str, str],
        since: dt.datetime,
        until: dt.datetime,
        depth: int,
    ) -> Iterator[Summary]:
        wanted = json.dumps(attributes)
        try:
            body = self._get(
                "v3/trace-summaries",
                **{
                    "query.serviceName": service,
                    "query.attributes": wanted,
                    "query.startTimeMin": since.isoformat(),
                    "query.startTimeMax": until.isoformat(),
                    "query.searchDepth": str(depth),
                },
            )
            yield from _each(body, "summaries", _summary)
        except _NoSuchApiError:
            # Before 2.19 only the UI's API can search attributes, and it returns whole traces.
            body = self._get(
                "traces",
                service=service,
                tags=wanted,
                start=str(int(since.timestamp() * 1e6)),
                end=str(int(until.timestamp() * 1e6)),
                limit=str(depth),
            )
            yield from _each(body, "data", _summary_of_all)

    def _get(self, path: str, **query: str) -> bytes | None:
        """Return Jaeger's answer, a JSON object; None if it has no such trace."""
        response = self.get(f"api/{path}", query)
        status, body = response.status_code, response.content
        if response.is_success and body.lstrip().startswith(b"{"):
            return body
        message = _error_message(body)
        if status == httpx.codes.NOT_FOUND and message is not None:
            return None
        if response.is_success or status == httpx.codes.NOT_FOUND:
            raise _NoSuchApiError(f"{self.place} does not answer as Jaeger's API (HTTP {status}).")
        raise self.refusal(response, message)


def _soon() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc) + dt.timedelta(hours=1)  # clocks differ


def _age(since: int) -> dt.timedelta:
    """Return how long ago a time will be in an hour."""
    return _soon() - dt.datetime.fromtimestamp(since // 10**9, dt.timezone.utc)


def _each(
    body: bytes | None, key: str, read_one: Callable[[dict[str, Any]], Summary]
) -> Iterator[Summary]:
    """Read a list in an answer; skip malformed items."""
    with contextlib.suppress(UnreadableError):
        for item in otlp.mappings(_json(body or b"").get(key), key):
            with contextlib.suppress(UnreadableError):
                yield read_one(item)


def _summary(raw: dict[str, Any]) -> Summary:
    """Read an item of ``/api/v3/trace-summaries``."""
    trace_id = otlp.identifier(raw.get("traceId"), otlp.TRACE_ID, "trace id")
    end = otlp.unsigned(raw.get("maxEndTimeUnixNano"), "end")
    return Summary(trace_id, None, otlp.text(raw.get("rootOperationName")), end)


def _summary_of_all(raw: dict[str, Any]) -> Summary:
    """Read an item of ``/api/traces``: a trace whose times are in microseconds."""
    trace_id = otlp.identifier(raw.get("traceID"), otlp.TRACE_ID, "trace id")
    spans = otlp.mappings(raw.get("spans"), "spans")
    ends = (
        otlp.unsigned(span.get("startTime"), "start")
        + otlp.unsigned(span.get("duration"), "length")
        for span in spans
    )
    roots = (span for span in spans if not span.get("references"))
    name = otlp.text(next(roots, {}).get("operationName"))
    return Summary(trace_id, None, name, max(ends, default=0) * 1_000)


def _json(body: bytes) -> dict[str, Any]:
    """Parse a JSON object; return an empty one if it is not valid."""
    with contextlib.suppress(orjson.JSONDecodeError):
        document = orjson.loads(body)
        return document if isinstance(document, dict) else {}
    return {}


def _error_message(body: bytes) -> str | None:
    """Return Jaeger's error message; None if the answer is not Jaeger's."""
    error = _json(body).get("error")
    return otlp.text(error.get("message")) if isinstance(error, dict) else None
