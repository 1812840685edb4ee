"""Settle each flow run that has ended: see that all its spans are there, and fill in the others.

Events only say where to look; what is recorded comes from the API. So an event that is late,
doubled or lost changes nothing but when something is looked at. The life of a flow run here::

    ended in the API
          | sweep
          v            nothing missing, or not ours
       WAITING ----------------------------------------> SETTLED
          | ^  |                                            ^
          | |  | something missing, and no one will report  | delivered
     look | |  v it any more                                |
          +-+ INTENDED -------------------------------------+
     not yet    ^ | delivered, but more may become visible
                +-+ until the grace time ends

A look asks the API for the runs in a flow run. Then:

- A process that does not report (`Lineage`) is left alone if flowspan instruments it; it sends its
  own spans. If not, everything is missing, and is filled in once all task runs have ended. Task
  runs may become visible later than the end of their flow run, so there is a last look after the
  grace time.
- From a process that reports, spans are missing that are not reported after the grace time.

What always holds:

- All moments are by the server's clock; our own only measures how long to sleep.
- A run is INTENDED on disk before any of its spans is exported, and SETTLED after all are.
- `Cursor.since` is before the end of every flow run that is WAITING.
- Sweeps overlap, so a run whose end becomes visible late is found by a later one.
- What is held in memory are the ids of runs that ended since `Cursor.since`; while an endpoint
  takes no spans, no sweep adds to them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from flowspan import semconv
from flowspan.identity import derive_span_id
from flowspan.recording.run import State
from flowspan.units import NANOSECONDS
from flowspan.watching.api import ApiError, NoApiError, as_text, batches, nanoseconds
from flowspan.watching.history import has_ended, outline, read_states
from flowspan.watching.lineage import Lineages
from flowspan.watching.lost import LostRuns
from flowspan.watching.names import NameCache
from flowspan.watching.pools import PoolGauges
from flowspan.watching.reports import Reports
from flowspan.watching.spans import LOST, Filler, FlowHistory, Missing, end_below
from flowspan.watching.stream import Stream, delay

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flowspan.settings import Settings
    from flowspan.watching.api import Api, Object
    from flowspan.watching.cursor import Cursor
    from flowspan.watching.delivery import Delivery
    from flowspan.watching.history import Known, Outline
    from flowspan.watching.lineage import Lineage

FindSpans: TypeAlias = Callable[[int], Collection[int]]
"""Returns the ids of the spans of a trace that are at their destination."""

logger = logging.getLogger("flowspan")

_BATCH: Final = 25
"""Flow runs that are looked at together."""
_OVERLAP: Final = 120 * NANOSECONDS
"""How late the end of a run may become visible in the API."""
_SETTLING: Final = 2 * NANOSECONDS
"""How long the states of task runs take to reach the API, usually."""
_REPORTING: Final = 10 * NANOSECONDS
"""How long a process takes to report, usually: the SDK exports every five seconds."""
_PAUSE: Final = 1.0
"""The least seconds between two sweeps, since each is a request; the first look comes later."""
_POLL: Final = 5.0
"""The most seconds between two sweeps, while no stream says that a run has ended."""
_POLL_BESIDE_STREAM: Final = 30.0
_WHOLE_SWEEP: Final = 60.0
_SAID: Final = 300.0
"""Seconds between two lines that say what the load on the server is."""


@dataclass
class _Waiting:
    """A flow run that has ended.

    Attributes:
        ended: When.
        look: When to look at it.
        end: How it has ended, if the API takes it to be open.
        recorded: The ids of its spans, and those of its task runs, that are known to have arrived.
        is_reported: Whether its process says what it has exported.
        is_last: Whether nothing was missing, and only the last look is left.
    """

    ended: int
    look: int
    end: State | None = None
    recorded: set[int] = field(default_factory=set)
    is_reported: bool = False
    is_last: bool = False


class Service:
    """Watches one Prefect API."""

    def __init__(
        self,
        api: Api,
        delivery: Delivery,
        cursor: Cursor,
        settings: Settings,
        find: FindSpans | None = None,
    ) -> None:
        """Deliver what `api` shows to be missing.

        `find` returns the ids of the spans of a trace that are in the destination, if that can be
        read. It is asked where a span may be there although nobody says so.
        """
        self._api = api
        self._delivery = delivery
        self._cursor = cursor
        self._grace = round(settings.watch_grace * NANOSECONDS)
        self._find = find
        self._lineages = Lineages(api)
        self._names = NameCache(api)
        self._reports = Reports(api)
        self._lost = LostRuns(api, round(settings.watch_lost * NANOSECONDS), delivery.meters)
        self._taken_for_lost: dict[str, int] = {}
        self._pools = PoolGauges(api, self._names, delivery.meters)
        self._stream = Stream(self._hear)
        self._filler = Filler(delivery.tracer, settings, delivery.is_sampled, self._pools.reason_of)
        self._waiting = OrderedDict[str, _Waiting]()
        self._settled: dict[str, int] = {}  # when each ended
        self._intended: set[str] = set()
        self._swept = float("-inf")  # by our own clock
        self._hint = asyncio.Event()
        self.filled_in = 0
        self._said = time.monotonic()

    async def start(self, lookback: float) -> None:
        """Begin where an earlier process ended; the first one `lookback` seconds ago.

        Raises:
            ApiError: The API does not answer.
        """
        await self._api.check()
        if self._cursor.since is None:
            self._cursor.start(self._api.now - round(lookback * NANOSECONDS))
        self._settled = self._cursor.settled()
        intended, recorded = self._cursor.intended(), self._cursor.recorded()
        self._intended = {*intended}
        self._waiting.update(
            (one, _Waiting(ended, 0, recorded=recorded.get(one, set())))
            for one, ended in intended.items()
        )
        self._taken_for_lost = self._cursor.lost()
        since = as_text(self._cursor.since or 0)
        logger.info("Watching %s, from what ended at %s", self._api.url, since)

    async def run(self) -> None:
        """Settle flow runs as they end, for ever.

        Raises:
            NoApiError: The API refuses.
        """
        self._lost.reachable_since = self._api.now
        listening = asyncio.create_task(self._stream.run())
        observing = asyncio.create_task(self._pools.run())
        try:
            while True:
                await self._insist()
                await self._sleep()
        finally:
            listening.cancel()
            observing.cancel()

    async def _insist(self) -> None:
        """Do a step; while the API does not answer, try again, less and less often."""
        attempt = 0
        while (error := await self._try()) is not None:
            self._lost.reachable_since = self._api.now
            attempt += 1
            seconds = delay(attempt)
            logger.warning("%s; trying again in %.0f s", error, seconds)
            await asyncio.sleep(seconds)

    async def _try(self) -> ApiError | None:
        """Do a step; return why the API has not answered, if it has not."""
        try:
            await self._step()
        except NoApiError:
            raise
        except ApiError as error:
            return error
        return None

    def _hear(self, event: Object) -> None:
        """Take note of an event: it only says what to look at."""
        self._reports.hear(event)
        self._lost.hear(event)
        kind = event["resource"].get("prefect.state-type")
        if kind in semconv.FINAL_STATE_TYPES:
            self._hint.set()

    async def settle_all(self) -> None:
        """Settle all flow runs that have ended by now, and return.

        Those that need a last look get it from a later process.

        Raises:
            ApiError: The API does not answer.
        """
        await self._sweep(whole=True)
        await self._look_at_due()
        while not all(one.is_last for one in self._waiting.values()):
            await self._sleep()
            await self._look_at_due()

    async def _step(self) -> None:
        """Look once for runs that have ended, and at those that are due.

        Raises:
            ApiError: The API does not answer.
        """
        await self._sweep(whole=time.monotonic() - self._swept > _WHOLE_SWEEP)
        await self._look_at_due()
        self._advance()
        self._say_load()

    async def _sleep(self) -> None:
        """Wait until something may be due: at most a while, less if an event has come."""
        now = self._api.now
        next_look = min((one.look for one in self._waiting.values()), default=now + _OVERLAP)
        poll = _POLL_BESIDE_STREAM if self._stream.is_heard else _POLL
        seconds = min(poll, (next_look - now) / NANOSECONDS)
        self._hint.clear()
        await asyncio.sleep(_PAUSE)
        try:
            await asyncio.wait_for(self._hint.wait(), max(0, seconds - _PAUSE))
        except asyncio.TimeoutError:
            return

    # Which runs have ended

    async def _sweep(self, *, whole: bool) -> None:
        """Find the flow runs that have ended; the newest come first.

        If it is not a `whole` one, it ends at the first page that has nothing new.
        """
        since = self._cursor.since or 0
        body = {
            "flow_runs": {"end_time": {"after_": as_text(since)}},
            "sort": "END_TIME_DESC",
        }
        async for page in self._api.pages("/flow_runs/filter", body):
            new = [row for row in page if not self._is_known(row["id"], row["end_time"])]
            for row in new:
                ended = nanoseconds(row["end_time"])
                self._waiting[row["id"]] = _Waiting(ended, ended + _SETTLING)
            if not (new or whole):
                break
        if whole:
            await self._find_lost()
            self._swept = time.monotonic()

    async def _find_lost(self) -> None:
        for run_id, end in (await self._lost.find(self._taken_for_lost)).items():
            logger.warning("Flow run %s is lost: %s", run_id, end.message)
            self._waiting[run_id] = _Waiting(end.time, self._api.now, end)

    def _is_known(self, run_id: str, end_time: str | None = None) -> bool:
        """Return whether a run waits or is settled, and has not ended once more since then."""
        if run_id in self._waiting:
            return True
        is_new = end_time is not None and nanoseconds(end_time) > self._settled.get(run_id, 0)
        return run_id in self._settled and not is_new

    def _advance(self) -> None:
        """Forget the runs that ended before everything which is still open."""
        ends = [one.ended for one in self._waiting.values()]
        forgotten = self._cursor.advance(min([*ends, self._api.now - _OVERLAP]))
        for run_id in forgotten:
            self._settled.pop(run_id, None)
        self._reports.forget(forgotten)

    # What is missing

    async def _look_at_due(self) -> None:
        now = self._api.now
        due = [run_id for run_id, one in self._waiting.items() if one.look <= now]
        for batch in batches(due, _BATCH):
            recorded = await self._contained(batch)
            if recorded is not None:
                await self._deliver(recorded)
                continue
            for run_id in [one for one in batch if one in self._waiting]:
                await self._deliver(await self._contained([run_id]) or ())

    async def _contained(self, run_ids: Sequence[str]) -> list[FlowHistory] | None:
        """Look at runs; return None if one of them has something that we do not understand.

        If it is the only one, it is given up.
        """
        try:
            return await self._look(run_ids)
        except ApiError:
            raise
        except Exception:
            self._delivery.discard()
            if len(run_ids) == 1:
                logger.exception("Flow run %s cannot be filled in", run_ids[0])
                self._settle(run_ids)
            return None

    async def _look(self, run_ids: Sequence[str]) -> list[FlowHistory]:
        """Settle what is whole, and record what is missing; return what has been recorded."""
        rows = await self._api.all_of("/flow_runs/filter", "flow_runs", "id", run_ids)
        ended = [row for row in rows if has_ended(row) or self._is_orphan(row)]
        gone = {*run_ids} - {row["id"] for row in ended}
        self._settle(run_id for run_id in gone if self._waiting[run_id].recorded)
        for run_id in gone & self._waiting.keys():
            del self._waiting[run_id]  # deleted, or running again: it will end again
        lineages = await self._lineages.of(ended)
        for row in ended:
            waiting = self._waiting[row["id"]]
            waiting.look = self._api.now + _SETTLING
            waiting.is_reported = lineages[row["id"]].reports
            if row["end_time"]:  # perhaps once more
                waiting.ended, waiting.end = nanoseconds(row["end_time"]), None
        mine = [row for row in ended if not _is_left_alone(lineages[row["id"]])]
        self._settle(row["id"] for row in ended if row not in mine)
        overdue = {row["id"] for row in mine if self._is_overdue(row["id"])}
        # Without the stream there is no other way to hear of reports.
        unheard = overdue if self._stream.is_heard else lineages.keys()
        await self._reports.ask([i for i in unheard if lineages[i].reports])
        found = [(one, lineages[one.id]) for one in await outline(self._api, mine)]
        histories = await self._histories([(o, lin) for o, lin in found if self._may(o, lin)])
        return await self._fill_in(histories)

    def _is_orphan(self, row: Object) -> bool:
        """Return whether a run is over although it is open in the API."""
        waiting = self._waiting[row["id"]]
        if waiting.end is None and row["id"] in self._intended and row["parent_task_run_id"]:
            # An earlier process has settled its caller, and was killed before it came to this.
            waiting.end = State("CRASHED", "Crashed", "", "its flow run ended", waiting.ended)
        return waiting.end is not None

    def _is_overdue(self, run_id: str) -> bool:
        waiting = self._waiting[run_id]
        is_lost = waiting.end is not None and waiting.end.name == LOST
        return is_lost or waiting.ended + self._grace <= self._api.now

    def _may(self, found: Outline, lineage: Lineage) -> bool:
        """Return whether what is not there may be filled in now; else note when to look again."""
        waiting = self._waiting[found.id]
        if self._is_overdue(found.id):
            return True
        reported = self._reports.of(found.id)
        rows = [found.row, *found.tasks]
        if lineage.reports:
            if found.row["run_count"] <= 1 and all(_is_among(reported, row) for row in rows):
                return True
            waiting.look = max(waiting.ended + _REPORTING, self._api.now + _REPORTING)
        else:
            if all(map(has_ended, rows)):
                return True
            waiting.look = self._api.now + _SETTLING
        waiting.look = min(waiting.look, waiting.ended + self._grace)
        return False

    async def _histories(self, found: Iterable[tuple[Outline, Lineage]]) -> list[FlowHistory]:
        """Read the states of what nobody has reported."""
        found = list(found)
        asked: list[Object] = []
        for one, _ in found:
            reported = self._present(one.id)
            tasks = [task for task in one.tasks if not _is_among(reported, task)]
            is_whole = _is_among(reported, one.row) and one.row["run_count"] <= 1
            if tasks or one.open_below or not is_whole:
                asked += [one.row, *tasks]
            else:
                self._close([one.id])
        known = await read_states(self._api, asked)
        histories = []
        for one, lineage in found:
            if one.id not in known:  # or the API has lost its states
                if one.row in asked and self._is_overdue(one.id):
                    self._settle([one.id])
                continue
            runs = [known[row["id"]] for row in (one.row, *one.tasks) if row["id"] in known]
            missing = self._missing(runs, self._present(one.id))
            done = self._settled_until(runs[0])
            missing = [span for span in missing if span.stint.states[0].time > done]
            if missing and (one.id in self._intended or lineage.reports):
                missing = await self._without_present(one.id, missing, lineage.trace_id)
            histories.append(self._history(one, known[one.id], lineage, missing))
        return histories

    def _history(
        self, found: Outline, flow: Known, lineage: Lineage, missing: Sequence[Missing]
    ) -> FlowHistory:
        """Return a history; the subflows that were killed with the flow run wait from now on."""
        end = self._waiting[found.id].end or end_below(flow.last)
        if end.name == LOST:  # a subflow may have been heard of after its caller
            end = end._replace(time=max([end.time, *map(_begun, found.open_below)]))
        orphans = [row["id"] for row in found.open_below if not self._is_known(row["id"])]
        self._waiting.update((one, _Waiting(end.time, self._api.now, end)) for one in orphans)
        # Nothing else would lead another process to them, once their caller is settled.
        self._cursor.intend(dict.fromkeys(orphans, end.time))
        return FlowHistory(found, flow, lineage, missing, end)

    def _settled_until(self, flow: Known) -> int:
        """Return up to when a flow run has been settled before: it ended, and was started again.

        So did one that was taken for lost, and goes on after all.
        """
        settled = self._settled.get(flow.id, (self._cursor.since or 0) - 1)
        ends = (state.time for state in flow.states if state.is_final and state.time <= settled)
        return max([self._taken_for_lost.get(flow.id, 0), *ends])

    def _missing(self, runs: Sequence[Known], reported: Collection[int]) -> list[Missing]:
        found = [Missing(run, stint) for run in runs for stint in run.stints]
        return [
            one
            for one in found
            if one.span_id not in reported
            # A process that has not begun may yet come and take it up.
            and not (one.known.is_deferred and not one.known.has_ended)
        ]

    def _present(self, run_id: str) -> Collection[int]:
        """Return the ids of the spans of a flow run, and its task runs, known to have arrived."""
        return {*self._reports.of(run_id), *self._waiting[run_id].recorded}

    async def _without_present(
        self, run_id: str, missing: list[Missing], trace_id: int
    ) -> list[Missing]:
        """Return those that the destination lacks, if it can be read."""
        if self._find is None:
            return missing
        present = await asyncio.to_thread(self._find, trace_id)
        self._waiting[run_id].recorded |= {one.span_id for one in missing} & {*present}
        return [one for one in missing if one.span_id not in present]

    # How it is filled in

    async def _fill_in(self, histories: Sequence[FlowHistory]) -> list[FlowHistory]:
        lacking = [one for one in histories if one.missing]
        self._close(one.outline.id for one in histories if not one.missing)
        names = await self._names.of([one.outline.row for one in lacking])
        self._cursor.intend(self._ends(one.outline.id for one in lacking))
        for history in lacking:
            self._filler.fill_in(history, names)
        self._lost.count([one.outline.row for one in lacking if one.is_lost], names)
        return lacking

    async def _deliver(self, recorded: Sequence[FlowHistory]) -> None:
        if not recorded:
            return
        self.filled_in += await self._delivery.deliver()
        # Remembered for good, but not before: another process would take them for recorded.
        heard = {one.outline.id: one.end.time for one in recorded if one.end and one.is_lost}
        self._cursor.lose(heard)
        self._taken_for_lost.update(heard)
        for history in recorded:
            spans = {one.span_id for one in history.missing}
            self._waiting[history.outline.id].recorded |= spans
        self._close(one.outline.id for one in recorded)

    def _ends(self, run_ids: Iterable[str]) -> dict[str, int]:
        return {run_id: self._waiting[run_id].ended for run_id in run_ids}

    def _close(self, run_ids: Iterable[str]) -> None:
        """Settle flow runs, apart from those of which more may become visible."""
        closed = {run_id: self._waiting[run_id] for run_id in run_ids}
        early = {
            run_id: one
            for run_id, one in closed.items()
            if not one.is_reported and not self._is_overdue(run_id)
        }
        for one in early.values():
            one.look, one.is_last = one.ended + self._grace, True
        self._cursor.record({run_id: one.recorded for run_id, one in early.items()})
        self._settle(closed.keys() - early.keys())

    def _settle(self, run_ids: Iterable[str]) -> None:
        ends: Mapping[str, int] = self._ends(run_ids)
        self._cursor.settle(ends)
        for run_id in ends:
            del self._waiting[run_id]
        self._settled.update(ends)
        self._intended.difference_update(ends)

    def _say_load(self) -> None:
        if time.monotonic() - self._said > _SAID:
            self._said = time.monotonic()
            self.say_load()

    def say_load(self) -> None:
        """Log how many requests were made, and for what."""
        asked = ", ".join(f"{path} {count:,}" for path, count in self._api.requests.most_common(5))
        logger.info(
            "%s spans filled in, %s flow runs waiting; %s requests to Prefect's API so far (%s)",
            f"{self.filled_in:,}",
            f"{len(self._waiting):,}",
            f"{sum(self._api.requests.values()):,}",
            asked,
        )


def _is_left_alone(lineage: Lineage) -> bool:
    """Return whether a process has recorded the run, and does not say what it has exported."""
    is_sampled = lineage.flags is None or lineage.flags.sampled
    return lineage.is_instrumented and not (lineage.reports and is_sampled)


def _begun(row: Object) -> int:
    return nanoseconds(row["start_time"] or row["created"])


def _is_among(reported: Collection[int], row: Object) -> bool:
    """Return whether a process has reported a span of a run."""
    counts = range(row["run_count"] + 1)
    return any(derive_span_id(row["id"], count) in reported for count in counts)
