"""Rows of task runs and flow runs, as their spans show them."""

import asyncio
import time
from typing import Any

import pandas as pd  # type: ignore[import-untyped]
import pytest
from prefect import flow, task
from prefect.cache_policies import INPUTS, NO_CACHE

import flowspan
from clocks import Timed
from flowspan import semconv
from flowspan.values import LAST_INT
from kinds import KINDS, flow_around, make_task
from support import RecordedSpans, attributes, result, seconds

FRAME = pd.DataFrame({"x": range(5)})


def rows(span: Any) -> tuple[Any, Any]:
    """Return the input and output rows."""
    return attributes(span).get(semconv.ROWS_INPUT), attributes(span).get(semconv.ROWS_OUTPUT)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_result_and_arguments_are_counted(spans: RecordedSpans, kind: str) -> None:
    """A task that takes and returns tables has their rows, and output rows per second."""
    slept = Timed()

    @task(cache_policy=NO_CACHE)
    def step(frame: Any, label: str) -> Any:
        with slept:
            time.sleep(0.05)
        return frame.head(3)

    @task(name="step", cache_policy=NO_CACHE)
    async def async_step(frame: Any, label: str) -> Any:
        with slept:
            await asyncio.sleep(0.05)
        return frame.head(3)

    flow_around(kind, step if kind == "sync" else async_step, FRAME, "label")()
    span = spans.one("step")
    assert rows(span) == (5, 3)
    a_second = attributes(span)[semconv.ROWS_PER_SECOND]
    assert 3 / seconds(span) < a_second <= 3 / slept.seconds
    assert a_second == pytest.approx(3 / attributes(span)[semconv.EXECUTION])
    assert rows(spans.one("RUN main")) == (None, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_told_takes_the_place_of_what_is_counted(spans: RecordedSpans, kind: str) -> None:
    """record_rows() overrides the count, adds up, and keeps names apart."""

    def body() -> pd.DataFrame:
        flowspan.record_rows(10)
        flowspan.record_rows(4, name="rejects")
        flowspan.record_rows(100, "input")
        return FRAME

    flow_around(kind, make_task(kind, body))()
    span = spans.one("step")
    assert rows(span) == (100, 14)
    assert attributes(span)["prefect.rows.output.rejects"] == 4


def test_what_is_no_table_has_no_rows(spans: RecordedSpans) -> None:
    """Texts, numbers and dicts have no rows, and neither has a failure."""

    @task
    def text(x: int) -> str:
        return "flights" * x

    @task
    def fail() -> None:
        raise ValueError

    @flow
    def main() -> None:
        text(3)
        fail(return_state=True)

    main(return_state=True)
    assert [rows(span) for span in spans.runs] == [(None, None)] * 3


def test_rows_count_once(spans: RecordedSpans) -> None:
    """A cached result counts nothing; of several attempts, only the successful one counts."""
    attempts: list[int] = []

    @task(cache_policy=INPUTS, persist_result=True, name="cached")
    def cached(_: float) -> list[dict[str, int]]:
        return [{"n": 1}] * 7

    @task(retries=1)
    def flaky() -> list[dict[str, int]]:
        attempts.append(1)
        if len(attempts) == 1:
            raise ConnectionError
        return [{"n": 1}] * 2

    @flow
    def main(key: float) -> None:
        cached(key)
        cached(key)
        flaky()

    main(time.time())
    assert [rows(span) for span in spans.named("cached")] == [(None, 7), (None, None)]
    assert rows(spans.one("flaky")) == (None, 2)
    assert rows(spans.one("RUN main")) == (None, 9)


def test_rows_of_a_flow_are_those_of_its_leaves(spans: RecordedSpans) -> None:
    """A flow's output is that of its last runs: not what was consumed, nor what tasks called."""

    @task(cache_policy=NO_CACHE)
    def extract(n: int) -> list[dict[str, int]]:
        return [{"n": i} for i in range(n)]

    @task(cache_policy=NO_CACHE)
    def keep_half(items: list[dict[str, int]]) -> list[dict[str, int]]:
        extract(1000)
        return items[: len(items) // 2]

    @flow
    def inner() -> list[dict[str, int]]:
        return keep_half(extract(30))

    @flow
    def main() -> None:
        keep_half(extract.submit(100))  # type: ignore[call-overload]
        keep_half(inner())
        inner()

    main()
    first, second, third = (rows(span)[1] for span in spans.named("keep_half")[:3])
    assert (first, second, third) == (50, 15, 7)
    assert [rows(span)[1] for span in spans.named("RUN inner")] == [15, 15]
    assert rows(spans.one("RUN main"))[1] == 50 + 7 + 15


def test_a_new_type_can_be_taught(spans: RecordedSpans) -> None:
    """register_rows() adds a type; if its function raises, only the count is lost."""

    class Batch:
        def __init__(self, size: int) -> None:
            self.size = size

    class Broken(Batch):
        pass

    def fail(_: Broken) -> int:
        raise RuntimeError("cannot count")

    flowspan.register_rows(Batch, lambda batch: batch.size)
    flowspan.register_rows(Broken, fail)

    @task(cache_policy=NO_CACHE)
    def step(batch: Batch) -> Batch:
        return batch

    @flow
    def main() -> None:
        step(Batch(12))
        step(Broken(12))

    main()
    assert [rows(span) for span in spans.named("step")] == [(12, 12), (None, None)]
    assert [result(span) for span in spans.named("step")] == ["success", "success"]


def test_sums_end_with_the_integers_of_otlp(spans: RecordedSpans) -> None:
    """Counts that are valid each never add up to a number that no exporter can encode."""

    class Batch:
        pass

    flowspan.register_rows(Batch, lambda _: LAST_INT)

    @task(cache_policy=NO_CACHE)
    def step(one: Batch, other: Batch) -> Batch:
        return one

    @flow
    def main() -> None:
        step(Batch(), Batch())
        step(Batch(), Batch())

    main()
    assert [rows(span) for span in spans.named("step")] == [(LAST_INT, LAST_INT)] * 2
    assert rows(spans.one("RUN main")) == (None, LAST_INT)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (("many",), TypeError, "as an int"),
        ((True,), TypeError, "as an int"),
        ((-1,), ValueError, "0 or more"),
        ((2**63,), ValueError, r"at most 2\*\*63 - 1"),
        ((1, "sideways"), ValueError, "'output' or 'input'"),
    ],
)
def test_bad_calls_are_loud(arguments: Any, error: type[Exception], said: str) -> None:
    """A bad number or direction raises in the call, with what to pass."""
    with pytest.raises(error, match=said):
        flowspan.record_rows(*arguments)


def test_outside_a_run_nothing_happens() -> None:
    """A test can call a task's function without Prefect and flowspan."""
    flowspan.record_rows(3)
    asyncio.run(_tell())


async def _tell() -> None:
    flowspan.record_rows(3, "input", "flights")
