"""The distribution of values that histograms tell of, whatever their buckets.

Quantiles are estimated as Prometheus's ``histogram_quantile`` does: find the bucket that holds the
value of that rank, and take the values inside a bucket to be spread evenly, that is, interpolate
linearly (https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile).

OpenTelemetry's histograms may also tell their smallest and greatest value. These are exact, so they
leave their buckets, and bound what is left in them: a histogram of one or two values has no error,
and no estimate lies beyond the values that there were.
"""

import bisect
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

Bucket: TypeAlias = tuple[float, float, int]
"""Bounds and count of values that lie above the lower and do not exceed the upper bound."""


@dataclass(slots=True)
class Distribution:
    """Values of which only the counts in intervals are known.

    Attributes:
        count: How many values there are.
        total: Their sum, in their own unit.
        intervals: Counts by lower and upper bound, equal ones where the values are known exactly.
    """

    count: int = 0
    total: float = 0.0
    intervals: Counter[tuple[float, float]] = field(default_factory=Counter)

    def add(self, other: "Distribution") -> None:
        """Add the values of another distribution."""
        self.count += other.count
        self.total += other.total
        self.intervals.update(other.intervals)

    def add_histogram(
        self,
        buckets: Sequence[Bucket],
        *,
        total: float,
        least: float | None = None,
        most: float | None = None,
    ) -> None:
        """Add the values of a histogram.

        Args:
            buckets: In ascending order; the outermost bounds may be infinite.
            total: Sum of the values.
            least: The smallest value, if known.
            most: The greatest value, if known.
        """
        counts = [count for _, _, count in buckets]
        self.count += sum(counts)
        self.total += total
        if least is not None and most is not None:
            for value, place in _ends(counts, least, most):
                counts[place] -= 1
                self.intervals[value, value] += 1
        for (lower, upper, _), count in zip(buckets, counts, strict=True):
            bounds = _bounded(lower, upper, least, most)
            if count and all(map(math.isfinite, bounds)):
                self.intervals[bounds] += count

    def quantile(self, share: float) -> float | None:
        """Estimate the value that `share` of all values do not exceed; 1 is the greatest value.

        None if nothing is known about any value.
        """
        edges = sorted({edge for bounds in self.intervals for edge in bounds})
        if not edges:
            return None
        rank = share * sum(self.intervals.values())
        place = bisect.bisect_left(edges, rank, hi=len(edges) - 1, key=self._values_up_to)
        upper, lower = edges[place], edges[max(0, place - 1)]
        below = self._values_up_to(lower)
        inside = self._values_up_to(upper) - self.intervals[upper, upper] - below
        if below + inside < rank or inside <= 0:
            return upper
        return lower + (upper - lower) * (rank - below) / inside

    def _values_up_to(self, edge: float) -> float:
        """Count the values that do not exceed `edge`: a line between two neighbouring edges."""
        return sum(
            count if edge >= upper else count * (edge - lower) / (upper - lower)
            for (lower, upper), count in self.intervals.items()
            if edge >= upper or edge > lower
        )


def _ends(counts: Sequence[int], least: float, most: float) -> list[tuple[float, int]]:
    """Tell the buckets of the smallest and the greatest value, which may be one and the same."""
    filled = [place for place, count in enumerate(counts) if count]
    return [(least, filled[0]), (most, filled[-1])][: sum(counts)] if filled else []


def _bounded(
    lower: float, upper: float, least: float | None, most: float | None
) -> tuple[float, float]:
    """Narrow a bucket to where its values can be; as Prometheus does if the ends are not known."""
    if least is not None:
        lower = max(lower, least)
    elif lower == -math.inf and upper < math.inf:
        lower = min(0.0, upper)
    if most is not None:
        upper = min(upper, most)
    elif upper == math.inf:
        upper = lower
    return min(lower, upper), upper
