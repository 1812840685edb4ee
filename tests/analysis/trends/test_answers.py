"""Planted effects are found and reported, and nothing else is."""

import datetime as dt
import json
from itertools import starmap

import pytest
from made_runs import day_of, made, noise, retried
from run_files import time_zone

from flowspan.analysis.trends.answers import FlowTrends, answer
from flowspan.views.json.trends import to_json
from flowspan.views.trend_words import sentences


def told(trends: FlowTrends) -> str:
    """Return all sentences, one per line."""
    return "\n".join(sentence.text for sentence in sentences(trends))


@pytest.mark.parametrize("seed", range(20))
def test_a_step_is_found_on_its_date_within_a_day(seed: int) -> None:
    """From one of 60 nights on, the work takes 30 % longer."""
    factor, at = noise(seed, 0.08), 15 + seed
    found = answer(made(day, 60 * factor() * (1.3 if day >= at else 1)) for day in range(60))
    change = found.change
    assert change is not None
    assert change.kind == "step"
    assert change.date is not None
    assert abs((change.date - day_of(at)).days) <= 1
    assert change.after / change.before == pytest.approx(1.3, abs=0.1)
    assert change.task is not None
    assert change.task.name == "load"


def test_a_step_is_told_in_words() -> None:
    """The sentence has its date, the values before and after, and the task that caused it."""
    factor = noise(1, 0.02)
    found = answer(made(day, (90 if day >= 20 else 60) * factor()) for day in range(40))
    first, *_ = sentences(found)
    assert first.tone == "bad"
    assert first.text.startswith("a step on Sun 2026-06-21, slower since: ")
    assert "p < 0.001; mostly load, " in first.text


@pytest.mark.parametrize(("slope", "words"), [(0.5, "getting slower"), (-0.5, "getting faster")])
def test_a_trend_is_told_from_a_step(slope: float, words: str) -> None:
    """Half a second a day is found, and the interval contains it."""
    factor = noise(6, 0.03)
    found = answer(made(day, (60 + slope * day) * factor()) for day in range(60))
    assert found.change is not None
    assert found.change.kind == "trend"
    assert found.change.trend.low < slope < found.change.trend.high
    assert found.change.task is not None
    assert next(sentences(found)).text.startswith(words)


def test_what_is_certain_but_tiny_is_not_called_a_change() -> None:
    """One per cent in two months is not reported as a change, however regular."""
    found = answer(made(day, 60 + day * 0.01) for day in range(60))
    assert found.change is not None
    assert found.change.kind is None
    assert found.change.p < 0.001
    assert "no notable change of duration: " in told(found)


def test_failed_runs_do_not_count_as_fast_ones() -> None:
    """Later runs that fail within a second do not make the flow faster."""
    factor = noise(5)
    runs = [made(day, 60 * factor()) for day in range(60)]
    runs += [made(day, 1.5, hour=5, result="failure") for day in range(30, 60)]
    found = answer(runs)
    assert found.change is not None
    assert found.change.kind is None
    assert len(found.timed) == 60


def test_runs_without_a_pattern_raise_no_more_alarms_than_the_level_says() -> None:
    """Of 200 flows, about two change by chance and four have special days, but not many more."""
    changes = effects = shares = 0
    for seed in range(200):
        factor = noise(1000 + seed, 0.25)
        found = answer(made(day, 60 * factor()) for day in range(75))
        changes += found.change is not None and found.change.kind is not None
        effects += bool(found.calendar)
        shares += any(task.is_changing for task in found.tasks)
    assert changes <= 6
    assert effects <= 8  # two families of questions
    assert shares <= 6


def test_runs_of_one_day_that_resemble_each_other_are_not_taken_for_evidence() -> None:
    """A whole day may be slow: of 100 flows with ten runs a day, about one changes by chance."""
    alarms = 0
    for seed in range(100):
        factor = noise(seed, 0.25)
        days = [60 * factor() for _ in range(30)]
        found = answer(
            made(day, of_day, hour=hour) for day, of_day in enumerate(days) for hour in range(10)
        )
        alarms += found.change is not None and found.change.kind is not None
    assert alarms <= 5


def test_a_weekday_and_a_month_end_are_found() -> None:
    """Mondays take 30 % longer, the last of the month 50 %, and a step does not hide either."""
    factor = noise(7, 0.05)

    def seconds(day: int) -> float:
        date = day_of(day)
        is_last = (date + dt.timedelta(days=1)).day == 1
        usual = 60 * (1.3 if date.weekday() == 0 else 1) * (1.5 if is_last else 1)
        return usual * factor() + (40 if day >= 70 else 0)

    found = answer(made(day, seconds(day)) for day in range(150))
    assert found.calendar is not None
    assert [effect.days for effect in found.calendar] == ["Mondays", "the last day of the month"]
    monday, last = found.calendar
    assert monday.inside / monday.outside == pytest.approx(1.2, abs=0.1)
    assert last.inside > last.outside
    assert "longer on Mondays: " in told(found)
    assert "longer on the last day of the month: " in told(found)


def test_a_flow_of_month_ends_alone_has_no_other_days_to_compare() -> None:
    """Thirty months with one run each have no calendar effect."""
    factor = noise(8)
    ends = [day for day in range(1000) if (day_of(day) + dt.timedelta(days=1)).day == 1]
    assert answer(made(day, 60 * factor()) for day in ends).calendar == ()


def test_days_are_local_and_survive_a_change_of_clocks() -> None:
    """Runs before and after 2:30 repeats belong to one day, and no day is counted twice."""
    with time_zone("Europe/Berlin"):
        night = dt.datetime(2026, 10, 25, tzinfo=dt.timezone.utc)
        starts = [night.timestamp() + minutes * 60 for minutes in (-60, 30, 90, 22 * 60)]
        runs = [made(0, 60, run_id=str(s), start=int(s * 1e9)) for s in starts]
        found = answer(runs)
        assert [(str(day.date), day.finished) for day in found.days] == [("2026-10-25", 4)]
        daily = answer(made(day, 60) for day in range(130, 160))
        assert len(daily.days) == 30


def test_success_is_held_against_the_target_by_day() -> None:
    """Cancelled and unfinished runs do not count, and a value at the target meets it."""
    results = ["success"] * 18 + ["failure", "timeout"]
    runs = [made(0, 60, hour=hour, result=one) for hour, one in enumerate(results)]
    runs += [made(1, 60, hour=n, result=one) for n, one in enumerate(["success", "error"])]
    runs += [made(2, 60, result="cancellation"), made(3, 60, result=None)]
    found = answer(runs, target=0.9)
    assert [(day.finished, day.succeeded) for day in found.days] == [(20, 18), (2, 1)]
    assert [day.date for day in found.missed] == [day_of(1)]
    assert found.success_rate == pytest.approx(19 / 22)
    assert "below the target of 90 % on 1 of 2 days: 2026-06-02 (1 of 2)" in told(found)
    assert "at the target of 50 % or above on each of 2 days" in told(answer(runs, target=0.5))
    assert "target" not in told(answer(runs))


def test_retries_are_told_by_task_error_and_hour() -> None:
    """Half of the nightly runs are retried, and one run by day."""
    runs = [retried(day, 2) if day % 2 else made(day, 10) for day in range(30)]
    runs += [made(day, 10, hour=hour) for day in range(30) for hour in (8, 12, 16)]
    runs.append(retried(40, 12, "extract", None))
    found = answer(runs)
    assert found.retries.by_task == {"load": 15, "extract": 1}
    assert found.retries.by_error == {"TimeoutError": 15, None: 1}
    assert [hour.hour for hour in found.retries.telling] == [2]
    text = told(found)
    assert "16 retries in 16 of 121 runs: load 15, extract 1; after TimeoutError 15" in text
    assert "more frequent from 02:00 to 03:00: 15 of 60 tasks, at other hours 1 of 182" in text


def test_retries_at_any_hour_have_no_hour_of_their_own() -> None:
    """One run in five is retried, at any time."""
    hours = [(day, hour) for day in range(30) for hour in range(24)]
    runs = [
        retried(day, hour) if (day * 24 + hour) % 5 == 0 else made(day, 10, hour=hour)
        for day, hour in hours
    ]
    assert answer(runs).retries.telling == ()


def test_duration_follows_rows_and_their_number_explains_the_change() -> None:
    """Both the data and the duration double in two months."""
    factor = noise(9, 0.03)
    rows = [1_000_000 + day * 20_000 for day in range(60)]
    found = answer(made(day, n / 20_000 * factor(), rows=n) for day, n in enumerate(rows))
    assert found.change is not None
    assert found.change.kind == "trend"
    assert found.rows is not None
    assert found.rows.explains
    assert "duration follows rows (rank correlation 0.9" in told(found)
    assert "their number explains the change" in told(found)


def test_a_change_that_rows_do_not_explain_is_told_so() -> None:
    """Duration follows the varying rows, with an additional step."""
    factor = noise(10, 0.3)
    rows = [round(1_000_000 * factor()) for _ in range(80)]
    runs = [made(d, n / 20_000 + (12 if d >= 40 else 0), rows=n) for d, n in enumerate(rows)]
    found = answer(runs)
    assert found.change is not None
    assert found.change.kind == "step"
    assert found.rows is not None
    assert (found.rows.follows, found.rows.explains) == (True, False)
    assert "but their number does not explain the change" in told(found)


def test_rows_that_have_nothing_to_do_with_it_are_told_so() -> None:
    """Duration varies independently of the rows."""
    first, second = noise(11), noise(12)
    found = answer(made(day, 60 * first(), rows=round(1e6 * second())) for day in range(40))
    assert found.rows is not None
    assert not found.rows.follows
    assert "does not follow rows closely" in told(found)


def test_too_few_runs_are_told_what_they_need() -> None:
    """Three runs give no answers, only what is missing."""
    found = answer(made(day, 60 + day) for day in range(3))
    assert (found.change, found.calendar, found.rows) == (None, None, None)
    assert told(found) == (
        "too few yet for a trend (3 of 10 runs that succeeded), "
        "a step (3 of 16 runs that succeeded), "
        "weekdays and month ends (3 of 28 days with runs that succeeded), "
        "rows against duration (0 of 10 runs that succeeded and counted rows)"
    )


def test_a_flow_that_never_succeeded_has_answers_all_the_same() -> None:
    """It has answers about failures and retries, but not about durations."""
    found = answer([made(day, 60, result="failure") for day in range(40)], target=0.9)
    assert (found.median, found.tasks, found.success_rate) == (None, (), 0)
    assert len(found.missed) == 40
    assert json.loads(to_json([found]))["flows"][0]["median"] is None


def test_runs_at_one_time_have_no_trend() -> None:
    """A replay of a day may produce such runs."""
    found = answer(starmap(made, [(0, 60 + n) for n in range(20)]))
    assert found.change is None


def test_the_document_says_what_the_answers_are() -> None:
    """A flow has all its keys, and all numbers are plain."""
    factor = noise(13, 0.02)
    runs = [made(d, (90 if d >= 30 else 60) * factor(), rows=d * 10) for d in range(60)]
    document = json.loads(to_json([answer(runs, target=0.95)]))
    assert (document["version"], document["level"]) == (1, 0.01)
    (flow,) = document["flows"]
    assert flow["change"]["kind"] == "step"
    assert flow["change"]["step"]["date"] == "2026-07-01"
    assert flow["tasks"][0]["name"] == "load"
    assert len(flow["tasks"][0]["over_time"]) == 60
    assert flow["days"][0] == {
        "date": "2026-06-01",
        "finished": 1,
        "succeeded": 1,
        "rate": 1.0,
    }
    assert isinstance(flow["runs"][0]["start"], int)
    assert flow["sentences"][0]["tone"] == "bad"
