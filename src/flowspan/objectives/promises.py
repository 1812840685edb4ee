"""Objectives as data, and the check whether a run met them.

The table ``slo`` of a settings file (see `flowspan.settings`) has the objectives of a flow under
its name, and those of all flow runs with a tag under ``tag:NAME``, Prefect's own notation for
limits by tag::

    [slo.nightly]
    max_duration = "1h30m"
    min_rows = 1000
    min_success_rate = { rate = 0.95, days = 7 }

    [slo."tag:production"]
    max_late = 60

Nothing here reads a clock, a file or an API. A value exactly at its limit is no violation.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Final, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from flowspan.values import LAST_INT

TAG_PREFIX: Final = "tag:"

_DEFAULT_RUNS = 20
_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION = re.compile(r"\s*".join(rf"(?:([0-9]+(?:\.[0-9]+)?){unit})?" for unit in _SECONDS))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_duration(value: Any) -> Any:
    """Convert text such as ``1h30m`` to seconds; leave everything else to the field's checks."""
    if not isinstance(value, str):
        return value
    found = _DURATION.fullmatch(value)
    if found is None or not any(found.groups()):
        raise PydanticCustomError(
            "duration", "Input should be a number of seconds, or text such as 90s, 1h30m or 2d"
        )
    parts = zip(found.groups(), _SECONDS.values(), strict=True)
    return sum(float(number) * seconds for number, seconds in parts if number)


def _refuse_percentage(value: Any) -> Any:
    if _is_number(value) and 1 < value <= 100:  # noqa: PLR2004 - per cent
        raise PydanticCustomError(
            "percentage",
            "Input should be at most 1: write {share} for {percentage} %",
            {"share": f"{value / 100:g}", "percentage": f"{value:g}"},
        )
    return value


def _check_key(key: str) -> str:
    if not key.removeprefix(TAG_PREFIX):
        raise PydanticCustomError("key", "names neither a flow nor, as tag:NAME, a tag")
    return key


# Strict: neither true nor "5" is a number.
_Duration = Annotated[
    float, Field(strict=True, gt=0, allow_inf_nan=False), BeforeValidator(_read_duration)
]
_Delay = Annotated[
    float, Field(strict=True, ge=0, allow_inf_nan=False), BeforeValidator(_read_duration)
]
_Share = Annotated[
    float, Field(strict=True, gt=0, le=1, allow_inf_nan=False), BeforeValidator(_refuse_percentage)
]
_Rows = Annotated[int, Field(strict=True, ge=0, le=LAST_INT)]

FlowOrTag = Annotated[str, AfterValidator(_check_key)]
"""A key of the table: a flow's name, or ``tag:NAME``."""


class SuccessRate(BaseModel):
    """How many of a flow's last runs must succeed.

    A plain number is the `rate`. With neither `runs` nor `days`, the last 20 runs count.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: _Share
    """Share of the finished runs, above 0, at most 1."""

    runs: Annotated[int, Field(strict=True, ge=1, le=1000)] | None = None
    """How many finished runs to look back at."""

    days: Annotated[float, Field(strict=True, gt=0, le=365, allow_inf_nan=False)] | None = None
    """How many days to look back, instead of `runs`."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, value: Any) -> Any:
        if _is_number(value):
            value = {"rate": value}
        if not isinstance(value, Mapping | SuccessRate):
            raise PydanticCustomError(
                "success_rate", "Input should be a share such as 0.95, or a table that has a rate"
            )
        if isinstance(value, Mapping) and value.get("runs") is None and value.get("days") is None:
            return {**value, "runs": _DEFAULT_RUNS}
        return value

    @model_validator(mode="after")
    def _look_back_one_way(self) -> "SuccessRate":
        if self.runs is not None and self.days is not None:
            raise PydanticCustomError("success_rate", "has both runs and days: leave out one")
        return self


class Violation(NamedTuple):
    """An objective that a run did not meet."""

    objective: str
    """The name of its field in `Objectives`."""

    expected: float
    """The limit: seconds, rows (an int), or a share from 0 to 1."""

    actual: float
    """The actual value, in the same unit."""

    detail: str
    """One sentence for people that begins with the objective."""


class Objectives(BaseModel):
    """The objectives of one flow's runs, or of those with one tag; at least one.

    Durations are seconds, or text of whole or decimal numbers with the units ``d``, ``h``, ``m``
    and ``s``, in this order, such as ``90s``, ``1h30m`` or ``2d``. Shares range from 0 to 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_duration: _Duration | None = None
    """How long a run may be running."""

    max_late: _Delay | None = None
    """How late a run may start."""

    min_rows: _Rows | None = None
    """The fewest rows that a run may produce."""

    max_rows: _Rows | None = None
    """The most rows that a run may produce."""

    max_task_share: _Share | None = None
    """The share of the run's duration that one task may take."""

    min_success_rate: SuccessRate | None = None
    """The share of the flow's last runs that must have succeeded."""

    @model_validator(mode="after")
    def _promise_what_can_be_kept(self) -> "Objectives":
        if all(getattr(self, name) is None for name in Objectives.model_fields):
            names = ", ".join(Objectives.model_fields)
            raise PydanticCustomError(
                "no_objective", "Input should set at least one of {names}", {"names": names}
            )
        least, most = self.min_rows, self.max_rows
        if least is not None and most is not None and least > most:
            raise PydanticCustomError(
                "rows",
                "has a min_rows of {least}, which is more than its max_rows of {most}",
                {"least": least, "most": most},
            )
        return self

    def judge_duration(self, seconds: float, *, still_running: bool) -> Violation | None:
        """Check the seconds that a run took, or has taken so far, against `max_duration`."""
        fact = "the run has been running for" if still_running else "the run took"
        return _judge(
            "max_duration", self.max_duration, seconds, f"{fact} {_seconds(seconds)}", _seconds
        )

    def judge_late(self, seconds: float) -> Violation | None:
        """Check the seconds between a run's scheduled and actual start against `max_late`."""
        fact = f"the run started {_seconds(seconds)} behind schedule"
        return _judge("max_late", self.max_late, seconds, fact, _seconds)

    def judge_rows(self, rows: int | None) -> list[Violation]:
        """Check a run's rows against `min_rows` and `max_rows`; None (unknown) violates neither.

        Both can only be violated if `objectives_for` has combined them.
        """
        if rows is None:
            return []
        fact = f"the run produced {_count(rows, 'row')}"
        judged = (
            _judge("min_rows", self.min_rows, rows, fact, "{:,}".format),
            _judge("max_rows", self.max_rows, rows, fact, "{:,}".format),
        )
        return [violation for violation in judged if violation is not None]

    def judge_task_share(self, shares: Mapping[str, float]) -> Violation | None:
        """Check the largest share against `max_task_share`.

        Args:
            shares: Each task's share of the run's duration, from 0 to 1, by task name.
        """
        if not shares:
            return None
        task, share = max(shares.items(), key=lambda item: item[1])
        fact = f"the task {task!r} took {_percents(share)} of the run"
        return _judge("max_task_share", self.max_task_share, share, fact, _percents)

    def judge_success_rate(self, succeeded: int, finished: int) -> Violation | None:
        """Check the last runs against `min_success_rate`; no runs are no violation.

        Args:
            succeeded: How many of the finished runs succeeded.
            finished: How many runs finished, maybe fewer than ``min_success_rate.runs``.
        """
        promised = self.min_success_rate
        if promised is None or finished == 0:
            return None
        if promised.days is None:
            runs = f"the last {_count(finished, 'run')}"
        else:
            runs = f"the {_count(finished, 'run')} in the last {_number(promised.days)} d"
        rate = succeeded / finished
        fact = f"{succeeded:,} of {runs} succeeded ({_percents(rate)})"
        found = _judge("min_success_rate", promised.rate, rate, fact, _percents)
        return found and found._replace(detail=f"{found.detail}, by Prefect's API")


def objectives_for(
    slo: Mapping[str, Objectives], flow_name: str, tags: Collection[str]
) -> Objectives | None:
    """Return the objectives of a flow run, or None if it has none.

    Each objective is the flow's own, or the strictest of its tags. For the success rate, the
    highest rate is the strictest; it keeps its `runs` or `days`. The combination is not validated
    again: a flow's own `min_rows` may be above its tag's `max_rows`.

    Args:
        slo: Objectives by flow name or ``tag:NAME``.
        flow_name: The flow's name, not the run's.
        tags: The tags of the flow run.
    """
    own = slo.get(flow_name)
    keys = [f"{TAG_PREFIX}{tag}" for tag in sorted(tags)]  # equal rates need a stable order
    tagged = [slo[key] for key in keys if key in slo]
    if not tagged:
        return own
    chosen = {name: _choose(name, own, tagged) for name in Objectives.model_fields}
    return Objectives.model_construct(**chosen)


def _choose(name: str, own: Objectives | None, tagged: list[Objectives]) -> Any:
    if own is not None and (value := getattr(own, name)) is not None:
        return value
    values = [value for tag in tagged if (value := getattr(tag, name)) is not None]
    strictest = min if name.startswith("max_") else max
    return strictest(values, key=lambda value: getattr(value, "rate", value), default=None)


def _judge(
    objective: str, limit: float | None, actual: float, fact: str, show: Callable[[float], str]
) -> Violation | None:
    if limit is None:
        return None
    is_most = objective.startswith("max_")
    if actual <= limit if is_most else actual >= limit:
        return None
    detail = f"{objective}: {fact}, {'more' if is_most else 'less'} than {show(limit)}"
    return Violation(objective, limit, actual, detail)


def _number(value: float, decimals: int = 3) -> str:
    return f"{value:.{decimals}f}".rstrip("0").rstrip(".")


def _seconds(value: float) -> str:
    return f"{_number(value)} s"


def _percents(share: float) -> str:
    return f"{_number(share * 100, decimals=2)} %"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
