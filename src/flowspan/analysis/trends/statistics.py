"""The statistical tests of trends. They use ranks: durations have outliers and are not normal.

Results that are not significant at `LEVEL` are not put into words. All tests take numbers in order
of time and return None if there is nothing to compare.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from numpy.typing import NDArray

    _Numbers: TypeAlias = NDArray[np.float64]

LEVEL: Final = 0.01
"""A p-value below this is significant: one false alarm in a hundred questions."""

CONFIDENCE: Final = 0.95
"""The confidence of the interval around a slope."""

_MOST_POINTS: Final = 1000  # the slopes of all pairs are in memory at once


@dataclass(frozen=True, slots=True)
class Trend:
    """A steady change: `slope` per unit of time, its interval, and its significance.

    `start` and `end` are the values of the line at both ends. `tau` and `p` are Kendall's tau of
    the values against time and its p-value, which is the test of Mann and Kendall.
    """

    slope: float
    low: float
    high: float
    start: float
    end: float
    tau: float
    p: float


@dataclass(frozen=True, slots=True)
class StepChange:
    """A sudden change: `index` of the first value after it, medians `before` and `after`."""

    index: int
    before: float
    after: float
    p: float


@dataclass(frozen=True, slots=True)
class Correlation:
    """Spearman's rank correlation."""

    rho: float
    p: float


def trend(times: Sequence[float], values: Sequence[float]) -> Trend | None:
    """Fit a line by the median of the slopes of all pairs (Theil and Sen), and test for a trend.

    See `scipy.stats.theilslopes` and `scipy.stats.kendalltau`. More than 1,000 values are reduced
    to the medians of neighbours first.
    """
    x, y = _thin(times), _thin(values)
    if len(x) < 2 or x.min() == x.max():  # noqa: PLR2004 - a slope is between two
        return None
    line = stats.theilslopes(y, x, alpha=CONFIDENCE)
    tau, p = _kendall(x, y)
    return Trend(
        slope=float(line.slope),
        low=float(line.low_slope),
        high=float(line.high_slope),
        start=float(line.intercept + line.slope * x[0]),
        end=float(line.intercept + line.slope * x[-1]),
        tau=tau,
        p=p,
    )


def step(values: Sequence[float]) -> StepChange | None:
    """Find the most likely place of a single change of level.

    The test of A. N. Pettitt, "A Non-Parametric Approach to the Change-Point Problem", Applied
    Statistics 28 (1979) 126-135: with the ranks r of n values,
    U(t) = 2 (r1 + ... + rt) - t (n + 1) and K = max |U(t)|, p is about
    2 exp(-6 K^2 / (n^3 + n^2)). Pettitt places the change at this maximum, which is biased towards
    the middle. Here U is first divided by its standard deviation, whose square is proportional to
    t (n - t).
    """
    y = np.asarray(values, dtype=float)
    n = len(y)
    if n < 2:  # noqa: PLR2004 - before and after
        return None
    ranks = stats.rankdata(y)
    before = np.arange(1, n)
    distance = np.abs(2 * np.cumsum(ranks)[:-1] - before * (n + 1))
    p = min(1.0, 2 * math.exp(-6 * float(distance.max()) ** 2 / (n**3 + n**2)))
    index = int(np.argmax(distance / np.sqrt(before * (n - before)))) + 1
    return StepChange(index, float(np.median(y[:index])), float(np.median(y[index:])), p)


def correlation(x: Sequence[float], y: Sequence[float]) -> Correlation | None:
    """Return how far one grows with the other, whatever the curve."""
    if len(set(x)) < 2 or len(set(y)) < 2:  # noqa: PLR2004 - a constant follows nothing
        return None
    found = stats.spearmanr(x, y)
    return Correlation(float(found.statistic), float(found.pvalue))


def without(x: Sequence[float], y: Sequence[float]) -> list[float]:
    """Subtract from each y the value of the fitted line (Theil and Sen) at its x."""
    line = stats.theilslopes(_thin(y), _thin(x))
    return [float(b - line.intercept - line.slope * a) for a, b in zip(x, y, strict=True)]


def differ(groups: Sequence[Sequence[float]]) -> float:
    """Return the p-value of Kruskal and Wallis's test that any group differs."""
    if len(groups) < 2 or len({value for group in groups for value in group}) < 2:  # noqa: PLR2004
        return 1.0  # nothing to compare, or all are equal
    return float(stats.kruskal(*groups).pvalue)


def lies_apart(group: Sequence[float], others: Sequence[float]) -> float:
    """Return the p-value of Mann and Whitney's test that one group differs from the others."""
    return float(stats.mannwhitneyu(group, others).pvalue)


def more_often(hits: int, of: int, other_hits: int, of_others: int) -> float:
    """Return the p-value of Fisher's test that something is more frequent here than elsewhere."""
    table = [[hits, of - hits], [other_hits, of_others - other_hits]]
    return float(stats.fisher_exact(table, alternative="greater").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of questions that are asked together, so that all share one level.

    S. Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of
    Statistics 6 (1979) 65-70: the k-th smallest of m is multiplied by m - k + 1, and none is
    smaller than the one before it.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _kendall(x: _Numbers, y: _Numbers) -> tuple[float, float]:
    if y.min() == y.max():
        return 0.0, 1.0
    found = stats.kendalltau(x, y)
    return float(found.statistic), float(found.pvalue)


def _thin(values: Sequence[float]) -> _Numbers:
    numbers = np.asarray(values, dtype=float)
    if len(numbers) <= _MOST_POINTS:
        return numbers
    return np.array([np.median(part) for part in np.array_split(numbers, _MOST_POINTS)])
