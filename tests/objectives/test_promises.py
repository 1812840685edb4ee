"""Objectives are validated when they are read, and checked without a clock or an API."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flowspan.objectives.promises import Objectives, SuccessRate, Violation, objectives_for

Table = dict[str, Any]


def objectives(**table: Any) -> Objectives:
    return Objectives.model_validate(table)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (90, 90),
        (0.5, 0.5),
        ("90s", 90),
        ("10m", 600),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("1.5h", 5400),
        ("2d", 172_800),
        ("1d2h3m4s", 93_784),
    ],
)
def test_durations(written: object, seconds: float) -> None:
    """A duration is a number of seconds, or text with units from days to seconds."""
    assert objectives(max_duration=written).max_duration == seconds
    assert objectives(max_late=written).max_late == seconds


@pytest.mark.parametrize(
    "written",
    ["90", "", " ", "s", "30m1h", "1h1h", "10 minutes", "-5s", "1ms", "1,5h", "٣s", "1h30", "5s\n"],
)
def test_texts_that_are_no_duration(written: str) -> None:
    """Text that is not a duration raises, with examples of valid text."""
    with pytest.raises(ValidationError, match="text such as 90s, 1h30m or 2d"):
        objectives(max_duration=written)


@given(st.tuples(*[st.integers(0, 999)] * 4).filter(any))
def test_every_duration_can_be_written_in_units(parts: tuple[int, int, int, int]) -> None:
    """A duration in units equals the sum of its parts."""
    days, hours, minutes, seconds = parts
    text = f"{days}d{hours}h{minutes}m{seconds}s"
    expected = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    assert objectives(max_duration=text).max_duration == expected


@pytest.mark.parametrize(
    ("table", "place", "said"),
    [
        ({}, "", "at least one of max_duration, max_late"),
        ({"max_duration": None}, "", "at least one of"),
        ({"max_duration": 0}, "max_duration", "greater than 0"),
        ({"max_duration": "0s"}, "max_duration", "greater than 0"),
        ({"max_duration": True}, "max_duration", "valid number"),
        ({"max_duration": float("inf")}, "max_duration", "finite"),
        ({"max_duration": float("nan")}, "max_duration", "finite"),
        ({"max_duration": "9" * 400 + "s"}, "max_duration", "finite"),
        ({"max_late": -1}, "max_late", "greater than or equal to 0"),
        ({"max_late": float("nan")}, "max_late", "finite"),
        ({"min_rows": -1}, "min_rows", "greater than or equal to 0"),
        ({"min_rows": 1.0}, "min_rows", "valid integer"),
        ({"max_rows": True}, "max_rows", "valid integer"),
        ({"max_rows": "5"}, "max_rows", "valid integer"),
        ({"max_rows": 2**63}, "max_rows", "less than or equal to"),
        ({"min_rows": 2, "max_rows": 1}, "", "min_rows of 2, which is more than its max_rows of 1"),
        ({"max_task_share": 0}, "max_task_share", "greater than 0"),
        ({"max_task_share": 50}, "max_task_share", "write 0.5 for 50 %"),
        ({"max_task_share": 101}, "max_task_share", "less than or equal to 1"),
        ({"max_task_share": True}, "max_task_share", "valid number"),
        ({"min_success_rate": 95}, "min_success_rate.rate", "write 0.95 for 95 %"),
        ({"min_success_rate": 0}, "min_success_rate.rate", "greater than 0"),
        ({"min_success_rate": True}, "min_success_rate", "a share such as 0.95, or a table"),
        ({"min_success_rate": "95%"}, "min_success_rate", "a share such as 0.95, or a table"),
        ({"min_success_rate": {"runs": 5}}, "min_success_rate.rate", "required"),
        ({"min_success_rate": {"rate": 1, "run": 5}}, "min_success_rate.run", "not permitted"),
        ({"min_success_rate": {"rate": 1, "runs": 0}}, "min_success_rate.runs", "equal to 1"),
        ({"min_success_rate": {"rate": 1, "runs": 1001}}, "min_success_rate.runs", "equal to 1000"),
        ({"min_success_rate": {"rate": 1, "runs": 2.0}}, "min_success_rate.runs", "valid integer"),
        ({"min_success_rate": {"rate": 1, "days": 0}}, "min_success_rate.days", "greater than 0"),
        ({"min_success_rate": {"rate": 1, "days": 366}}, "min_success_rate.days", "equal to 365"),
        (
            {"min_success_rate": {"rate": 1, "days": 7, "runs": 5}},
            "min_success_rate",
            "both runs and days",
        ),
        ({"max_durations": 5}, "max_durations", "not permitted"),
    ],
)
def test_mistakes(table: Table, place: str, said: str) -> None:
    """Each mistake is reported at its key, with the reason."""
    with pytest.raises(ValidationError) as raised:
        Objectives.model_validate(table)
    (problem,) = raised.value.errors()
    assert ".".join(map(str, problem["loc"])) == place
    assert said in problem["msg"]


@pytest.mark.parametrize(
    ("written", "rate", "runs", "days"),
    [
        (0.95, 0.95, 20, None),
        (1, 1, 20, None),
        ({"rate": 0.5}, 0.5, 20, None),
        ({"rate": 0.5, "runs": 1000}, 0.5, 1000, None),
        ({"rate": 0.5, "days": 0.25}, 0.5, None, 0.25),
        ({"rate": 0.5, "runs": None, "days": 365}, 0.5, None, 365),
        (SuccessRate(rate=0.5, days=7), 0.5, None, 7),
    ],
)
def test_success_rates(written: object, rate: float, runs: int | None, days: float | None) -> None:
    """A success rate looks back over runs or days; a plain number over the last 20 runs."""
    found = objectives(min_success_rate=written).min_success_rate
    assert found is not None
    assert (found.rate, found.runs, found.days) == (rate, runs, days)


def test_extremes_are_allowed() -> None:
    """No delay, no rows, an exact number of rows, a whole run and a perfect record are valid."""
    table: Table = {"max_late": 0, "min_rows": 0, "max_rows": 0, "max_task_share": 1}
    found = objectives(**table, min_success_rate=1)
    assert {name: getattr(found, name) for name in table} == table


def test_objectives_do_not_change() -> None:
    """Objectives are immutable."""
    with pytest.raises(ValidationError, match="frozen"):
        objectives(max_duration=5).max_duration = 6


SLO = {
    "punctual": objectives(max_late=0),
    "nightly": objectives(max_duration=100, min_rows=7),
    "tag:prod": objectives(max_duration=10, max_late=60, min_rows=1, max_rows=50, max_task_share=1),
    "tag:eu": objectives(max_late=30, min_rows=5, max_rows=90, max_task_share=0.5),
    "tag:a": objectives(min_success_rate={"rate": 0.9, "runs": 5}),
    "tag:b": objectives(min_success_rate={"rate": 0.95, "days": 7}),
    "tag:c": objectives(min_success_rate={"rate": 0.95, "runs": 9}),
}


@pytest.mark.parametrize(
    ("flow", "tags", "expected"),
    [
        ("other", [], None),
        ("other", ["nightly", "unknown"], None),
        ("prod", [], None),
        ("nightly", [], {"max_duration": 100, "min_rows": 7}),
        ("nightly", ["eu"], {
            "max_duration": 100, "max_late": 30, "min_rows": 7, "max_rows": 90,
            "max_task_share": 0.5,
        }),
        ("other", ["prod", "eu"], {
            "max_duration": 10, "max_late": 30, "min_rows": 5, "max_rows": 50,
            "max_task_share": 0.5,
        }),
        ("nightly", {"prod", "eu"}, {
            "max_duration": 100, "max_late": 30, "min_rows": 7, "max_rows": 50,
            "max_task_share": 0.5,
        }),
        ("other", ["a"], {"min_success_rate": {"rate": 0.9, "runs": 5}}),
        ("other", ["a", "b"], {"min_success_rate": {"rate": 0.95, "days": 7}}),
        ("other", ["b", "c"], {"min_success_rate": {"rate": 0.95, "days": 7}}),
        ("punctual", ["prod"], {
            "max_duration": 10, "max_late": 0, "min_rows": 1, "max_rows": 50, "max_task_share": 1,
        }),
        ("other", ["c", "b", "a"], {"min_success_rate": {"rate": 0.95, "days": 7}}),
    ],
)  # fmt: skip
def test_flow_and_tags(flow: str, tags: list[str], expected: Table | None) -> None:
    """A flow's own objective overrides its tags'; among tags the strictest wins."""
    found = objectives_for(SLO, flow, tags)
    assert (found and found.model_dump(exclude_none=True)) == expected


def test_flow_and_tag_may_contradict() -> None:
    """If a flow needs more rows than its tag allows, one is violated and nothing raises."""
    slo = {"f": objectives(min_rows=100), "tag:small": objectives(max_rows=50)}
    found = objectives_for(slo, "f", ["small"])
    assert found is not None
    assert [v.objective for v in found.judge_rows(70)] == ["min_rows", "max_rows"]


@pytest.mark.parametrize(
    ("limit", "seconds", "running", "detail"),
    [
        (None, 1e9, True, None),
        (10, 10, True, None),
        (10, 9.9, False, None),
        (10, 12.3, True, "the run has been running for 12.3 s, more than 10 s"),
        (10, 10.001, False, "the run took 10.001 s, more than 10 s"),
        (600, 4000, False, "the run took 4000 s, more than 600 s"),
    ],
)
def test_duration(
    limit: float | None, seconds: float, detail: str | None, *, running: bool
) -> None:
    """A run that took, or is taking, too long violates max_duration."""
    promised = objectives(max_duration=limit, max_late=1)
    expected = detail and Violation("max_duration", limit or 0, seconds, f"max_duration: {detail}")
    assert promised.judge_duration(seconds, still_running=running) == expected


@pytest.mark.parametrize(
    ("limit", "seconds", "detail"),
    [
        (None, 1e9, None),
        (60, 60, None),
        (60, -5, None),
        (0, 0, None),
        (0, 0.25, "the run started 0.25 s behind schedule, more than 0 s"),
        (60, 61, "the run started 61 s behind schedule, more than 60 s"),
    ],
)
def test_late(limit: float | None, seconds: float, detail: str | None) -> None:
    """A run that starts too late violates max_late."""
    promised = objectives(max_late=limit, max_duration=1)
    expected = detail and Violation("max_late", limit or 0, seconds, f"max_late: {detail}")
    assert promised.judge_late(seconds) == expected


@pytest.mark.parametrize(
    ("least", "most", "rows", "detail"),
    [
        (None, None, 5, None),
        (1, 2, None, None),
        (1000, 2000, 1000, None),
        (1000, 2000, 2000, None),
        (1000, 2000, 999, "min_rows: the run produced 999 rows, less than 1,000"),
        (1000, 2000, 2001, "max_rows: the run produced 2,001 rows, more than 2,000"),
        (2, None, 1, "min_rows: the run produced 1 row, less than 2"),
        (1, None, 0, "min_rows: the run produced 0 rows, less than 1"),
        (None, 0, 1, "max_rows: the run produced 1 row, more than 0"),
    ],
)
def test_rows(least: int | None, most: int | None, rows: int | None, detail: str | None) -> None:
    """Too few and too many rows are violations; an unknown number is not."""
    promised = objectives(min_rows=least, max_rows=most, max_late=1)
    violations = promised.judge_rows(rows)
    assert [v.detail for v in violations] == ([detail] if detail else [])
    for violation in violations:
        limit = {"min_rows": least, "max_rows": most}[violation.objective]
        assert (violation.expected, violation.actual) == (limit, rows)


@pytest.mark.parametrize(
    ("limit", "shares", "detail"),
    [
        (None, {"a": 1.0}, None),
        (0.5, {}, None),
        (0.5, {"a": 0.5, "b": 0.5}, None),
        (0.5, {"a": 0.2, "b": 0.6, "c": 0.1}, "the task 'b' took 60 % of the run, more than 50 %"),
        (0.3, {"a": 0.4, "b": 2 / 3}, "the task 'b' took 66.67 % of the run, more than 30 %"),
    ],
)  # fmt: skip
def test_task_share(limit: float | None, shares: dict[str, float], detail: str | None) -> None:
    """If a task's share of the run is too large, the largest one is reported."""
    violation = objectives(max_task_share=limit, max_late=1).judge_task_share(shares)
    assert violation == (
        Violation("max_task_share", limit or 0, max(shares.values()), f"max_task_share: {detail}")
        if detail
        else None
    )


@pytest.mark.parametrize(
    ("promised", "succeeded", "finished", "detail"),
    [
        (None, 0, 5, None),
        (0.95, 0, 0, None),
        (0.95, 19, 20, None),
        (1, 20, 20, None),
        (0.95, 3, 5, "3 of the last 5 runs succeeded (60 %), less than 95 %"),
        (0.95, 0, 1, "0 of the last 1 run succeeded (0 %), less than 95 %"),
        (0.999, 998, 1000, "998 of the last 1,000 runs succeeded (99.8 %), less than 99.9 %"),
        (
            {"rate": 0.9, "days": 7},
            2,
            3,
            "2 of the 3 runs in the last 7 d succeeded (66.67 %), less than 90 %",
        ),
    ],
)
def test_success_rate(promised: Any, succeeded: int, finished: int, detail: str | None) -> None:
    """Too few successes are a violation; no finished run is not."""
    found = objectives(min_success_rate=promised, max_late=1)
    violation = found.judge_success_rate(succeeded, finished)
    if detail is None:
        assert violation is None
        return
    assert violation is not None
    assert found.min_success_rate is not None
    assert violation.detail == f"min_success_rate: {detail}, by Prefect's API"
    assert violation[:3] == (
        "min_success_rate",
        found.min_success_rate.rate,
        succeeded / finished,
    )


@given(st.integers(1, 1000), st.data())
def test_a_rate_that_is_met_exactly_is_kept(finished: int, data: st.DataObject) -> None:
    """For any number of runs, a rate is met from exactly the count that gives this share."""
    needed = data.draw(st.integers(1, finished))
    promised = objectives(min_success_rate=needed / finished)
    assert promised.judge_success_rate(needed, finished) is None
    assert promised.judge_success_rate(needed - 1, finished) is not None
