"""Compare what flowspan recorded with what Prefect's API has recorded of the same runs.

`reconcile` decides about fidelity: it reads the trees of runs below flow runs from the API, with
their state histories, and describes every difference from the spans, and from the metrics and the
log records that were recorded meanwhile.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from opentelemetry.sdk.trace import ReadableSpan
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import FlowRun, State, TaskRun

from flowspan import semconv
from flowspan.identity import derive_span_id
from flowspan.read import log_files, metric_files
from flowspan.read.log_files import Log
from processes import PATIENCE
from support import (
    RecordedMetrics,
    account,
    accounted,
    attributes,
    context,
    embedded_spans,
    seconds,
)

_TOLERANCE = 5_000_000  # nanoseconds
_PAGE = 200
# Every 20 seconds, a service of Prefect's server looks for runs of a cancelled flow run without a
# final state, such as NotReady ones, and cancels them. That is long after the engine has left them,
# so it is not compared.
_CANCELLED_BY_SERVER = "The parent flow run was cancelled."
_LAST_WORDS = "Finished in state "
"""How Prefect begins the line that it logs at the end of a run."""


@dataclass(frozen=True)
class KnownRun:
    """A run in Prefect's API; `parents` are the runs that may have called it."""

    id: str
    name: str
    is_flow: bool
    seconds_running: float
    parents: frozenset[str]
    upstream: frozenset[str]
    states: tuple[State[Any], ...]

    @property
    def level(self) -> str:
        return "flow" if self.is_flow else "task"

    @property
    def last(self) -> State[Any]:
        return self.states[-1]

    @property
    def has_ended(self) -> bool:
        """Whether its engine has left it: after NotReady, it does, though that is not final."""
        return self.last.is_final() or self.last.name == "NotReady"

    @property
    def first_running(self) -> int | None:
        return next((_ns(s) for s in self.states if s.is_running()), None)


@dataclass(frozen=True)
class Totals:
    """Counts and durations of runs, over all flows and tasks."""

    runs: Counter[tuple[str, str]]
    """By level, ``flow`` or ``task``, and name of the last state."""
    retries: int
    seconds: dict[str, float]
    """By level, in Running states."""

    @classmethod
    def of(cls, metrics: RecordedMetrics) -> "Totals":
        runs: Counter[tuple[str, str]] = Counter()
        for level in ("flow", "task"):
            for point in metrics.points(f"prefect.{level}.runs"):
                runs[level, point.attributes[semconv.RUN_STATE_NAME]] += int(point.value)
        return cls(
            +runs,
            int(metrics.total("prefect.task.run.retries")),
            {
                "flow": metrics.total("cicd.pipeline.run.duration", phase="executing"),
                "task": metrics.total("prefect.task.run.duration"),
            },
        )

    @classmethod
    def of_files(cls, folder: Path) -> "Totals":
        """Add up the embedded files of all processes."""
        found = metric_files.load(folder)
        runs: Counter[tuple[str, str]] = Counter()
        for counter in found.counters:
            for level in ("flow", "task"):
                if counter.name == f"prefect.{level}.runs":
                    runs[level, counter.attributes[semconv.RUN_STATE_NAME]] += counter.value
        retries = (c.value for c in found.counters if c.name == semconv.METRIC_TASK_RUN_RETRIES)

        def total(name: str, **wanted: str) -> float:
            return sum(
                histogram.values.total
                for histogram in found.histograms
                if histogram.name == name and wanted.items() <= histogram.attributes.items()
            )

        executing = {semconv.PIPELINE_RUN_STATE: "executing"}
        return cls(
            runs,
            sum(retries),
            {
                "flow": total(semconv.METRIC_PIPELINE_RUN_DURATION, **executing),
                "task": total(semconv.METRIC_TASK_RUN_DURATION),
            },
        )

    def since(self, before: "Totals") -> "Totals":
        return Totals(
            self.runs - before.runs,
            self.retries - before.retries,
            {level: total - before.seconds[level] for level, total in self.seconds.items()},
        )


def reconcile(
    spans: Iterable[ReadableSpan],
    *flow_run_ids: UUID | str,
    totals: Totals | None = None,
    logs: Iterable[Log] | None = None,
    apart_from: str | None = None,
    timeout: float = PATIENCE,
) -> list[str]:
    """Return every difference between the run spans and the API's runs below flow runs.

    With `totals` and `logs` of exactly these runs, it also compares the metrics and Prefect's last
    log record of each run. Differences that have `apart_from` in their text are left out.

    Task runs reach the API as events, some time after they have ended, so the comparison is
    repeated until it finds nothing or `timeout` seconds have passed.
    """
    by_run: dict[str, list[ReadableSpan]] = {}
    for span in spans:
        if (run_id := attributes(span).get(semconv.RUN_ID)) is not None:
            by_run.setdefault(run_id, []).append(span)
    deadline = time.monotonic() + timeout
    while True:
        with get_client(sync_client=True) as client:
            runs: dict[str, KnownRun] = {}
            for flow_run_id in flow_run_ids:
                runs |= known_runs(client, UUID(str(flow_run_id)))
        differences = _compare(by_run, runs)
        if totals is not None:
            differences += _differing_metrics(totals, runs)
        if logs is not None:
            differences += _differing_logs(logs, runs)
        if apart_from is not None:
            differences = [line for line in differences if apart_from not in line]
        if not differences or time.monotonic() > deadline:
            return differences
        time.sleep(0.3)


def reconcile_files(
    folder: Path, flow_run_ids: Iterable[UUID | str], *, apart_from: str | None = None
) -> list[str]:
    """Return every difference of the embedded files from the API's runs below all these flow runs.

    The files have the spans, metrics and log records of exactly these runs.
    """
    spans = embedded_spans(folder).all
    traces = {f"{context(span).trace_id:032x}" for span in spans}
    files = log_files.find_files(folder)
    logs = [log for trace in traces for log in log_files.load_trace(files, trace).logs]
    totals = Totals.of_files(folder)
    return reconcile(spans, *flow_run_ids, totals=totals, logs=logs, apart_from=apart_from)


def known_runs(client: SyncPrefectClient, flow_run_id: UUID) -> dict[str, KnownRun]:
    """Read a flow run and all runs below it from the API, by their ids.

    The task run that represents a subflow in its parent is that subflow, not a separate run.
    """
    root = client.read_flow_run(flow_run_id)
    runs = {str(root.id): _known(root, frozenset(), frozenset(), _flow_states(client, root.id))}
    pending = [root.id]
    subflows_of: dict[str, set[str]] = {}
    waiting: list[tuple[FlowRun | TaskRun, TaskRun, list[State[Any]]]] = []
    while pending:
        task_runs = _task_runs(client, pending.pop())
        subflows = _subflows(client, task_runs)
        for task_run in task_runs:
            own = [run for run in subflows if run.parent_task_run_id == task_run.id]
            if not own:
                states = client.read_task_run_states(task_run.id)
                waiting.append((task_run, task_run, states))
            else:
                subflows_of[str(task_run.id)] = {str(subflow.id) for subflow in own}
            for subflow in own:
                waiting.append((subflow, task_run, _flow_states(client, subflow.id)))
                pending.append(subflow.id)
    for run, inputs_of, states in waiting:
        inputs = {
            name: {
                run_id
                for item in items
                if hasattr(item, "id")
                for run_id in subflows_of.get(str(item.id), {str(item.id)})
            }
            for name, items in inputs_of.task_inputs.items()
        }
        listed = inputs.pop("__parents__", set())
        upstream = frozenset().union(*inputs.values())
        # Prefect also lists a running upstream run as a parent, such as a generator in whose loop
        # this was called, or a run whose result is awaited.
        parents = listed - upstream or {str(inputs_of.flow_run_id), *listed}
        runs[str(run.id)] = _known(run, frozenset(parents), upstream, states)
    return runs


def _known(
    run: FlowRun | TaskRun,
    parents: frozenset[str],
    upstream: frozenset[str],
    states: list[State[Any]],
) -> KnownRun:
    own = [state for state in states if state.message != _CANCELLED_BY_SERVER]
    ordered = tuple(sorted(own, key=lambda state: state.timestamp))
    running = run.total_run_time.total_seconds()
    is_flow = isinstance(run, FlowRun)
    return KnownRun(str(run.id), run.name, is_flow, running, parents, upstream, ordered)


def _flow_states(client: SyncPrefectClient, flow_run_id: UUID) -> list[State[Any]]:
    return client.read_flow_run_states(flow_run_id)


def _task_runs(client: SyncPrefectClient, flow_run_id: UUID) -> list[TaskRun]:
    found: list[TaskRun] = []
    while True:
        page = client.read_task_runs(
            task_run_filter=TaskRunFilter(flow_run_id={"any_": [flow_run_id]}),  # type: ignore[arg-type]
            limit=_PAGE,
            offset=len(found),
        )
        found.extend(page)
        if len(page) < _PAGE:
            return found


def _subflows(client: SyncPrefectClient, task_runs: list[TaskRun]) -> list[FlowRun]:
    """Return the flow runs that these task runs represent.

    There may be two for one task run: a flow that is retried calls its subflow again, unless
    Prefect's server knows by then that it has completed.
    """
    if not task_runs:
        return []
    ids = [task_run.id for task_run in task_runs]
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter(parent_task_run_id={"any_": ids}),  # type: ignore[arg-type]
        limit=_PAGE,
    )


def _compare(by_run: dict[str, list[ReadableSpan]], runs: dict[str, KnownRun]) -> list[str]:
    differences = [f"span without a run: {by_run[i][0].name} ({i})" for i in by_run.keys() - runs]
    flows = [span for run in runs.values() if run.is_flow for span in by_run.get(run.id, ())]
    homes = {_process(span) for span in flows}
    for run in runs.values():
        found = by_run.get(run.id, [])
        if len(found) != 1:
            differences.append(f"{run.name}: {len(found)} run spans")
        else:
            # A process pool waits for futures itself, and the API does not learn of them.
            untold = () if _process(found[0]) in homes else runs
            differences += [f"{run.name}: {line}" for line in _differences(found[0], run, untold)]
    return differences


def _process(span: ReadableSpan) -> object:
    return span.resource.attributes.get("service.instance.id")


def _differences(span: ReadableSpan, run: KnownRun, untold: Collection[str]) -> list[str]:
    """Compare a span with its run, which may have upstream runs that the API was not told of."""
    if not run.states:
        return ["the API has no states"]
    found: list[str] = []

    def expect(what: str, actual: object, expected: object) -> None:
        if actual != expected:
            found.append(f"{what} is {actual!r}, the API says {expected!r}")

    a = attributes(span)
    state = a.get(semconv.RUN_STATE_TYPE), a.get(semconv.RUN_STATE_NAME)
    expect("state", state, _expected_state(a, run))
    parent = span.parent.span_id if span.parent else None
    if run.parents:
        possible = {derive_span_id(parent) for parent in run.parents}
        if parent not in possible:
            found.append(f"parent span {parent} is none of {possible}")
    links = [link for link in span.links if (link.attributes or {}).get(semconv.LINK_TYPE)]
    upstream = sorted(link.context.span_id for link in links)
    expected = {derive_span_id(i) for i in run.upstream}
    expected |= {*upstream} & {derive_span_id(i) for i in untold}
    expect("upstream", upstream, sorted(expected))
    expect("links of others", len(span.links) - len(links), 0)
    found += _differing_events(span, run)
    assert span.start_time is not None
    assert span.end_time is not None
    if run.last.is_final() and abs(span.end_time - _ns(run.last)) > _TOLERANCE:
        found.append(f"the end is {(span.end_time - _ns(run.last)) / 1e6:.1f} ms off")
    if run.first_running is not None and span.start_time > run.first_running + 1000:
        found.append(f"starts {(span.start_time - run.first_running) / 1e6:.3f} ms late")
    found += _differing_account(span)
    if context(span).span_id != derive_span_id(run.id):
        found.append("has a span id that is not derived from the run's")
    return found


def _is_observed(a: Mapping[str, Any]) -> bool:
    return a.get(semconv.OBSERVED_BY) == semconv.OBSERVED_BY_WATCH


def _expected_state(a: Mapping[str, Any], run: KnownRun) -> tuple[str, str | None]:
    """Return the state of a run, which may have been killed although it is open in the API."""
    if _is_observed(a) and not run.has_ended and a[semconv.RUN_STATE_TYPE] == "CRASHED":
        return "CRASHED", a[semconv.RUN_STATE_NAME]
    return run.last.type.value, run.last.name


def _differing_account(span: ReadableSpan) -> list[str]:
    if _is_observed(attributes(span)):  # which does not know how long the function ran
        return []
    found = [
        f"{p} is {t} s of {seconds(span)} s"
        for p, t in account(span).items()
        if not -1e-9 <= t <= seconds(span)
    ]
    if abs(accounted(span) - seconds(span)) > 1e-3:
        found.append(f"accounts for {accounted(span):.4f} s of {seconds(span):.4f} s")
    return found


def _differing_events(span: ReadableSpan, run: KnownRun) -> list[str]:
    events = {
        str((e.attributes or {})[semconv.STATE_ID]): (e.name, e.timestamp)
        for e in span.events
        if semconv.STATE_ID in (e.attributes or {})
        and (e.attributes or {}).get(semconv.STATE_MESSAGE) != _CANCELLED_BY_SERVER
    }
    names, known = {i: n for i, (n, _) in events.items()}, {str(s.id): s.name for s in run.states}
    if names != known:
        return [f"states are {names}, the API says {known}"]
    offsets = {state.name: events[str(state.id)][1] - _ns(state) for state in run.states}
    return [f"event {n} is {o / 1e6:.1f} ms off" for n, o in offsets.items() if abs(o) > _TOLERANCE]


def _differing_metrics(totals: Totals, runs: dict[str, KnownRun]) -> list[str]:
    ended = [run for run in runs.values() if run.has_ended]
    counted = Counter((run.level, str(run.last.name)) for run in ended)
    found = []
    if totals.runs != counted:
        found.append(f"counted {dict(totals.runs)} runs, the API has {dict(counted)}")
    retries = sum(state.name == "Retrying" for r in ended if not r.is_flow for state in r.states)
    if totals.retries != retries:
        found.append(f"counted {totals.retries} retries, the API has {retries}")
    for level, measured in totals.seconds.items():
        known = sum(run.seconds_running for run in ended if run.level == level)
        if abs(measured - known) > 0.01 * known:
            found.append(f"measured {measured:.6f} s in {level} runs, the API {known:.6f} s")
    return found


def _differing_logs(logs: Iterable[Log], runs: dict[str, KnownRun]) -> list[str]:
    last = Counter(log.span_id for log in logs if log.message.startswith(_LAST_WORDS))
    expected = {f"{derive_span_id(run.id):016x}": run for run in runs.values() if run.has_ended}
    found = [f"a log record of an unknown run {span_id}" for span_id in last.keys() - expected]
    found += [
        f"{run.name}: {last[span_id]} log records of its end in {run.last.name}"
        for span_id, run in expected.items()
        if last[span_id] != 1
    ]
    return found


def _ns(state: State[Any]) -> int:
    return round(state.timestamp.timestamp() * 1_000_000) * 1000
