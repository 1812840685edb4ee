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
from flowspan.read.run_search import RunSearch, of_span
from flowspan.read.selection import (
    LATEST,
    Summary,
    UnknownRunError,
    Wanted,
    missing_runs,
    parse_wanted,
    trace_of_root,
)
from flowspan.read.server import Server
from flowspan.read.span import Trace
from flowspan.read.subtree import below
from flowspan.units import NANOSECONDS

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
        wanted: A run or a trace, as `parse_wanted` takes it, but not the first digits of a run id.
            Only the id of a trace, or of its root, finds runs that are older than 30 days.
        headers: Headers of every request.
        flow: Consider only runs of this flow as the latest, including those that others called.
        since: Consider only runs that ended then or later, in nanoseconds since the epoch.

    Raises:
        ValueError: `wanted` is empty.
        SourceError: Jaeger cannot be reached, refuses the request, or is something else.
        UnknownRunError: Jaeger has no such run.
        AmbiguousRunError: It has several.
    """
    meant = parse_wanted(wanted)
    problems: list[Problem] = []
    with contextlib.closing(_Api(url, headers or {})) as api:
        for trace, run_id in _candidates(api, meant, flow, since):
            if trace.spans:
                return below(trace, run_id)
            problems += trace.problems
        if meant.back is not None and (flow is not None or since):
            what, known = f"{missing_runs(wanted, flow, since)}.", api.recent_traces()
        elif meant.back == 0:
            what, known = f"runs of the last {_LOOKBACKS[-1].days} days.", []
        else:
            what, known = f"trace or run {wanted}.", api.recent_traces()
        if meant.digits and not meant.run_id:
            what += " It cannot search for the first digits of a run id, only for the whole id."
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


def _candidates(
    api: "_Api", meant: Wanted, flow: str | None, since: int
) -> Iterator[tuple[Trace, str | None]]:
    """Yield traces that may be meant, the cheapest to find first, and the flow run in each."""
    if meant.back is not None:
        yield from _latest(api, meant.back, flow, since)
    elif meant.run_id is None:
        yield from _named(api, meant)
    else:
        if meant.trace_id is not None:
            yield api.trace(meant.trace_id), None
        yield api.trace(trace_of_root(meant.run_id)), meant.run_id
        attributes = (semconv.RUN_ID, meant.run_id), (semconv.FLOW_RUN_ID, meant.run_id)
        for found in api.search(*attributes):
            yield api.trace(found.trace_id), meant.run_id


def _latest(
    api: "_Api", back: int, flow: str | None, since: int
) -> Iterator[tuple[Trace, str | None]]:
    """Yield the latest trace, or the one `back` before it. With a flow, count its runs instead."""
    for trace_id in api.latest_traces(flow, since, back):
        trace = api.trace(trace_id)
        if flow is None:
            yield trace, None
            continue
        runs = _runs_of(trace, flow, since)
        if back < len(runs):
            yield trace, runs[back]
            return
        back -= len(runs)


def _runs_of(trace: Trace, flow: str, since: int) -> list[str | None]:
    """Return the ids of the runs of a flow in a trace, the one that ended last first."""
    ends: dict[str | None, int] = {}
    for found in map(of_span, trace.spans):
        one = found.of_flow
        if one.name == flow and one.end >= since:
            ends[one.run_id] = max(one.end, ends.get(one.run_id, 0))
    return sorted(ends, key=ends.__getitem__, reverse=True)


def _named(api: "_Api", meant: Wanted) -> Iterator[tuple[Trace, str | None]]:
    """Yield the trace of the run with a name, or of the id with these first digits.

    Raises:
        AmbiguousRunError: There are several.
    """
    ids = [found.trace_id for found in api.search((semconv.RUN_NAME, meant.name))]
    ids += api.beginning_with(meant.digits) if meant.digits else []
    traces = {trace_id: api.trace(trace_id) for trace_id in ids[:_DEPTH]}
    search = RunSearch(meant)
    for trace in traces.values():
        for span in trace.spans:
            search.add(of_span(span))
    if (one := search.the_one(api.place, [])) is not None:
        yield traces[one.trace_id], one.run_id


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
        """Return the id of the latest trace with a run since a time, or of that `back` before it.

        With a flow, return the ids of the latest traces with a run of it.
        """
        if flow is None and not since:
            found = self.recent_traces(back + 1)
        else:
            by_type = ((semconv.RUN_TYPE, "flow"), (semconv.RUN_TYPE, "task"))
            attributes = by_type if flow is None else ((semconv.FLOW_NAME, flow),)
            # The API cannot search all time; and a run may have started before `since`.
            lookbacks = (_age(since) + _LONGEST_RUN,) if since else _LOOKBACKS
            found = self.search(*attributes, lookbacks=lookbacks, least=back + 1)
        ids = [one.trace_id for one in found if one.end >= since]
        return ids[back : back + 1] if flow is None else ids

    def beginning_with(self, digits: str) -> list[str]:
        """Return the ids of traces with a flow run that begin with some digits, the latest first.

        The API has no such search, so this goes through the ids of all traces.
        """
        for lookback in _LOOKBACKS:
            since = round((_soon() - lookback).timestamp()) * NANOSECONDS
            every = self.all_since((semconv.RUN_TYPE, "flow"), since)
            if found := [one.trace_id for one in every if one.trace_id.startswith(digits)]:
                return found
        return []

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
