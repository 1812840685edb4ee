"""Gauges of what waits and of what it waits for, which only the API as a whole shows."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Final, TypeAlias

from opentelemetry.metrics import Observation, get_meter

from flowspan import semconv
from flowspan._containment import Containment
from flowspan._version import __version__
from flowspan.units import NANOSECONDS
from flowspan.watching.api import ApiError
from flowspan.watching.explanation import explain_held
from flowspan.watching.facts import LATE_AFTER
from flowspan.watching.gathering import Gatherer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from opentelemetry.metrics import CallbackOptions, MeterProvider

    from flowspan.watching.api import Api
    from flowspan.watching.explanation import Explanation
    from flowspan.watching.facts import Facts
    from flowspan.watching.names import NameCache

_Attributes: TypeAlias = "frozenset[tuple[str, str]]"
_Series: TypeAlias = "Mapping[_Attributes, float]"

_logger = logging.getLogger("flowspan")
_contained = Containment("pools")

_PERIOD: Final = 30.0
_FRESH: Final = 180.0
"""Seconds after which an observation says nothing about now any more."""
_REMEMBERED: Final = 3600.0
"""Seconds for which a series that is gone is 0."""
_MOST_REASONS: Final = 10_000

_INSTRUMENTS: Final = (
    (semconv.METRIC_LATE, "{run}", "Flow runs that should have started and have not"),
    (semconv.METRIC_PENDING, "{run}", "Flow runs that somebody has taken up and not yet started"),
    (semconv.METRIC_AGE, "s", "Time since the start of the oldest running run of a flow"),
    (semconv.METRIC_WORKERS, "{worker}", "Workers that are online"),
    (semconv.METRIC_SLOTS, "{slot}", "Slots of a limit of concurrency"),
)


class PoolGauges:
    """Observes an API now and then; its gauges show the last observation, as long as it is fresh.

    A series that is gone is 0 for an hour, because many backends show the last value for minutes.
    """

    def __init__(self, api: Api, names: NameCache, provider: MeterProvider | None = None) -> None:
        """Create the gauges on a meter of `provider`, or of the global one if it is None."""
        self._gatherer = Gatherer(api, names)
        self._series: dict[str, _Series] = {}
        self._seen: dict[str, dict[_Attributes, float]] = {}
        self._observed = float("-inf")
        self._reasons: OrderedDict[str, str] = OrderedDict()
        meter = get_meter("flowspan", __version__, provider)
        for name, unit, description in _INSTRUMENTS:
            meter.create_observable_gauge(
                name, [self._callback(name)], unit=unit, description=description
            )

    async def run(self) -> None:
        """Observe the API every 30 seconds, for ever; while it does not answer, wait for it."""
        while True:
            with _contained:
                await self._try()
            await asyncio.sleep(_PERIOD)

    async def _try(self) -> None:
        try:
            await self.observe()
        except ApiError as error:  # the gauges keep what they show, for a while
            _logger.debug("Work pools are not observed: %s", error)

    async def observe(self) -> None:
        """Ask the API: one request for each work pool, and a dozen more.

        Raises:
            ApiError: The API gives no usable answer.
        """
        facts = await self._gatherer.everything()
        found = explain_held(facts)
        self._remember_reasons(found, facts.now)
        now = time.monotonic()
        for name, series in _measure(facts, found).items():
            seen = self._seen.setdefault(name, {})
            seen.update(dict.fromkeys(series, now))
            gone = {each: at for each, at in seen.items() if now - at <= _REMEMBERED}
            self._seen[name] = gone
            self._series[name] = {**dict.fromkeys(gone, 0), **series}
        self._observed = now

    def reason_of(self, run_id: str) -> str | None:
        """Return why a flow run was late, or else long pending, when it was last observed so."""
        return self._reasons.get(run_id)

    def _remember_reasons(self, found: Iterable[Explanation], now: int) -> None:
        for each in found:
            if each.run is None:
                continue
            if each.status == "late":
                self._reasons[each.run.id] = _code(each)
            elif each.status == "pending" and now - each.run.state.time > LATE_AFTER:
                self._reasons.setdefault(each.run.id, _code(each))
        while len(self._reasons) > _MOST_REASONS:
            self._reasons.popitem(last=False)

    def _callback(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observations(_: CallbackOptions) -> Iterator[Observation]:
            if time.monotonic() - self._observed <= _FRESH:
                for attributes, value in self._series.get(name, {}).items():
                    yield Observation(value, dict(sorted(attributes)))

        return observations


def _measure(facts: Facts, found: Sequence[Explanation]) -> dict[str, _Series]:
    """Return the values of all gauges, by name and attributes."""
    late, pending = (
        Counter(_reason(each) for each in found if each.status == status)
        for status in ("late", "pending")
    )
    workers = {
        _attributes({semconv.WORK_POOL_NAME: pool.name}): sum(
            worker.is_online(facts.now) for worker in pool.workers
        )
        for pool in facts.pools.values()
        if pool.workers is not None
    }
    return {
        semconv.METRIC_LATE: late,
        semconv.METRIC_PENDING: pending,
        semconv.METRIC_AGE: _ages(facts),
        semconv.METRIC_WORKERS: workers,
        semconv.METRIC_SLOTS: dict(_slots(facts)),
    }


def _reason(found: Explanation) -> _Attributes:
    return _attributes(
        {
            semconv.LATE_REASON: _code(found),
            semconv.FLOW_NAME: found.flow,
            semconv.WORK_POOL_NAME: found.pool,
        }
    )


def _code(found: Explanation) -> str:
    return found.code or semconv.UNKNOWN


def _ages(facts: Facts) -> _Series:
    ages: dict[_Attributes, float] = {}
    for run in facts.runs.values():
        if run.type == "flow" and run.state.type == semconv.RUNNING:
            flow = _attributes({semconv.FLOW_NAME: run.of})
            age = (facts.now - (run.started or run.state.time)) / NANOSECONDS
            ages[flow] = max(age, ages.get(flow, 0.0))
    return ages


def _slots(facts: Facts) -> Iterator[tuple[_Attributes, float]]:
    for pool in facts.pools.values():
        yield from _limit("work_pool", pool.name, pool.limit, len(facts.holding(pool=pool.name)))
    for queue in facts.queues.values():
        used = len(facts.holding(queue=queue.id))
        yield from _limit("work_queue", f"{queue.pool}/{queue.name}", queue.limit, used)
    for limit in facts.limits.values():
        if limit.is_active:
            kind, name = _kind(limit.name, facts)
            yield from _limit(kind, name, limit.limit, limit.used)


def _kind(name: str, facts: Facts) -> tuple[str, str]:
    """Return what a global limit is for, and that one's name."""
    kind, _, of = name.partition(":")
    if kind == "tag" and of:
        return kind, of
    if kind == "deployment" and of in facts.deployments:
        return kind, facts.deployments[of].name
    return "global", name


def _limit(
    kind: str, name: str, limit: int | None, used: int
) -> Iterator[tuple[_Attributes, float]]:
    if limit is None:
        return
    about = {semconv.LIMIT_TYPE: kind, semconv.LIMIT_NAME: name}
    for state, value in ((semconv.SLOTS_USED, used), (semconv.SLOTS_LIMIT, limit)):
        yield _attributes({**about, semconv.SLOT_STATE: state}), value


def _attributes(values: Mapping[str, str | None]) -> _Attributes:
    return frozenset((name, value) for name, value in values.items() if value is not None)
