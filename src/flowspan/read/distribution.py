"""Combine histograms with any buckets into one distribution.

Quantiles are estimated like Prometheus's ``histogram_quantile``: find the bucket that holds the
value of that rank, and interpolate linearly, assuming that values are spread evenly inside a bucket
(https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile).

OpenTelemetry's histograms may also have their smallest and greatest value. These are exact, so they
are taken out of their buckets and bound the rest. A histogram of one or two values therefore has no
error, and no estimate is outside the range of the actual values.
"""

import bisect
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

Bucket: TypeAlias = tuple[float, float, int]
"""Lower and upper bound, and the count of values above the lower and up to the upper bound."""


@dataclass(slots=True)
class Distribution:
    """Values of which only the counts in intervals are known.

    Attributes:
        count: How many values there are.
        total: Their sum, in their own unit.
        intervals: Counts by lower and upper bound; both are equal for an exact value.
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

        Returns None if there are no intervals.
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
        """Count the values up to `edge`; the count is linear between two neighbouring edges."""
        return sum(
            count if edge >= upper else count * (edge - lower) / (upper - lower)
            for (lower, upper), count in self.intervals.items()
            if edge >= upper or edge > lower
        )


def _ends(counts: Sequence[int], least: float, most: float) -> list[tuple[float, int]]:
    """Return the smallest and the greatest value with their buckets; once if there is one value."""
    filled = [place for place, count in enumerate(counts) if count]
    return [(least, filled[0]), (most, filled[-1])][: sum(counts)] if filled else []


def _bounded(
    lower: float, upper: float, least: float | None, most: float | None
) -> tuple[float, float]:
    """Narrow a bucket to where its values can be; like Prometheus if the ends are unknown."""
    if least is not None:
        lower = max(lower, least)
    elif lower == -math.inf and upper < math.inf:
        lower = min(0.0, upper)
    if most is not None:
        upper = min(upper, most)
    elif upper == math.inf:
        upper = lower
    return min(lower, upper), upper
