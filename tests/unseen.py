"""Run random flows without flowspan, and compare what `flowspan watch` alone recorded of them."""

import os
import random
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from uuid import UUID, uuid4

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from opentelemetry.sdk.trace import ReadableSpan
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter

from flowspan import semconv
from flowspan.identity import derive_trace_id
from random_flows import Program, build, call, programs
from reconcile import Totals, reconcile
from support import attributes, context, exceptions
from watched import spans_of
from written import doubled

SEED = int(os.environ.get("WATCH_SEED") or random.SystemRandom().randrange(2**32))
"""What random flows, loads and moments depend on; tests print it when they fail."""

_SETTLED = 10.0
"""Seconds after which the API knows all about runs that `flowspan watch` took to be over."""

_ONLY_THE_PROCESS_KNOWS = {
    semconv.EXECUTION,
    semconv.ORCHESTRATION,
    semconv.WAIT_CONCURRENCY,
    semconv.ROWS_INPUT,
    semconv.ROWS_OUTPUT,
    semconv.ROWS_PER_SECOND,
    semconv.ENGINE_EXIT,
    semconv.THREAD_ID,
    semconv.PROCESS_ID,
}


def drawn(number: int, seed: int) -> list[Program]:
    """Return random programs, the same ones for the same seed."""
    found: list[Program] = []

    @hypothesis.seed(seed)
    @settings(
        max_examples=number,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(program=programs)
    def collect(program: Program) -> None:
        found.append(program)

    collect()
    return found


def this_second() -> str:
    """Return the time, as what an observer begins with that is to see nothing earlier."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def run_all(chosen: Sequence[Program]) -> dict[UUID, Program]:
    """Run programs as flows; return which flow run was which."""
    by_name = {f"unseen-{uuid4()}": program for program in chosen}
    for name, program in by_name.items():
        call(build(program, name=name))
    found: dict[UUID, Program] = {}
    with get_client(sync_client=True) as client:
        for name, program in by_name.items():
            for run in client.read_flow_runs(flow_filter=FlowFilter(name={"any_": [name]})):  # type: ignore[arg-type]
                found[run.id] = program
    assert len(found) == len(chosen)
    return found


def faults(folder: Path, runs: dict[UUID, Program], *, has_metrics: bool = True) -> list[str]:
    """Return what is wrong with what the files in `folder` have about these runs.

    With metrics, they must be those of these runs alone. An observer that is killed loses some.
    """
    spans = spans_of(folder, *runs)
    totals = Totals.of_files(folder) if has_metrics else None
    found = [*doubled(folder), *(line for span in spans for line in _guesses(span))]
    if reconcile(spans, *runs, totals=totals, timeout=_SETTLED):
        for run_id, program in runs.items():
            own = [span for span in spans if context(span).trace_id == derive_trace_id(str(run_id))]
            lines = reconcile(own, run_id, timeout=0)
            found += [str(program), *lines] if lines else []
        found += reconcile(spans, *runs, totals=totals, timeout=0)
    return found


def _guesses(span: ReadableSpan) -> Iterator[str]:
    """Yield what a span has that only the process of its run could know."""
    for name in _ONLY_THE_PROCESS_KNOWS & attributes(span).keys():
        yield f"{span.name}: has {name}"
    if exceptions(span):
        yield f"{span.name}: has an exception"
    if semconv.RUN_ID in attributes(span) and attributes(span).get(semconv.OBSERVED_BY) != "watch":
        yield f"{span.name}: does not say who observed it"
