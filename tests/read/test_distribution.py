"""Estimating quantiles from histograms."""

import math
import random
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from metric_files import SECONDS, Process

from flowspan.analysis import run_metrics
from flowspan.read import metric_files
from flowspan.read.distribution import Bucket, Distribution

SHARES = (0.01, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)


def distribution(
    *buckets: Bucket, least: float | None = None, most: float | None = None
) -> Distribution:
    """Return the distribution of one histogram."""
    made = Distribution()
    made.add_histogram(buckets, total=0, least=least, most=most)
    return made


def recorded(folder: Path) -> Distribution:
    """Return the distribution of the only flow's durations."""
    (flow,) = run_metrics.summarize(metric_files.load(folder)).flows
    return flow.duration


def exact(values: Sequence[float], share: float) -> float:
    """Return the smallest value that `share` of all values do not exceed."""
    return float(np.quantile(values, share, method="inverted_cdf"))


def width(bounds: Sequence[float], value: float) -> float:
    """Return the width of the bucket that a value falls into."""
    edges = np.array([0.0, *bounds])
    upper = int(np.searchsorted(edges, value))
    return float(edges[upper] - edges[upper - 1])


@pytest.mark.parametrize("count", [1, 2, 3, 10, 1_000, 20_000])
def test_an_estimate_is_in_the_bucket_of_the_true_quantile(tmp_path: Path, count: int) -> None:
    """Also if several processes recorded the values."""
    random.seed(count)
    values = [random.lognormvariate(1, 2) for _ in range(count)]
    for number in range(3):
        with closing(Process(tmp_path / "metrics.jsonl", instance=str(number))) as process:
            for value in values[number::3]:
                process.flow("etl", value)
    found = recorded(tmp_path)
    assert found.count == count
    assert found.total == pytest.approx(sum(values))
    for share in SHARES:
        true = exact(values, share)
        assert found.quantile(share) == pytest.approx(true, abs=width(SECONDS, true))
    assert found.quantile(1) == max(values)


def test_linear_values_are_estimated_closely(tmp_path: Path) -> None:
    """Inside a bucket the estimate follows the values; it is not just a bound."""
    values = [number / 10 for number in range(1, 1_000)]
    with closing(Process(tmp_path / "metrics.jsonl")) as process:
        for value in values:
            process.flow("etl", value)
    found = recorded(tmp_path)
    for share in SHARES:
        assert found.quantile(share) == pytest.approx(exact(values, share), rel=0.02, abs=0.02)


def test_one_and_two_runs_in_a_process_are_exact(tmp_path: Path) -> None:
    """Minimum and maximum are enough: most flow runs are the only one of their process."""
    values = [31.0, 32.0, 35.0, 44.0, 59.0]
    for number, own in enumerate((values[:1], values[1:3], values[3:])):
        with closing(Process(tmp_path / "metrics.jsonl", instance=str(number))) as process:
            for value in own:
                process.flow("etl", value)
    found = recorded(tmp_path)
    shares = (0.2, 0.4, 0.5, 0.6, 0.8, 0.95)
    assert [found.quantile(share) for share in shares] == [31, 32, 35, 35, 44, 59]


def test_exponential_histograms_are_finer(tmp_path: Path) -> None:
    """The SDK can write them; they combine with explicit ones, here within 2 %."""
    random.seed(1)
    values = [random.lognormvariate(1, 1) for _ in range(5_000)]
    with closing(Process(tmp_path / "metrics.jsonl", exponential=True)) as process:
        process.flow("etl", 0.0)
        for value in values[1:]:
            process.flow("etl", value)
    with closing(Process(tmp_path / "metrics.jsonl", instance="2")) as process:
        process.flow("etl", values[0])
    assert '"exponentialHistogram"' in (tmp_path / "metrics.jsonl").read_text()
    found = recorded(tmp_path)
    assert found.count == 5_001
    for share in SHARES:
        assert found.quantile(share) == pytest.approx(exact([0.0, *values], share), rel=0.02)
    assert (found.quantile(0), found.quantile(1)) == (0.0, max(values))


def test_processes_with_other_bounds_add_up(tmp_path: Path) -> None:
    """A view, or another release, may have set other bounds."""
    random.seed(2)
    values = [100 * random.random() for _ in range(2_000)]  # noqa: S311 - not for secrets
    bounds = (range(0, 101, 10), range(5, 100, 15))
    for number, own in enumerate(bounds):
        file = tmp_path / "metrics.jsonl"
        with closing(Process(file, instance=str(number), bounds=[*map(float, own)])) as process:
            for value in values[number::2]:
                process.flow("etl", value)
    found = recorded(tmp_path)
    for share in SHARES:
        assert found.quantile(share) == pytest.approx(exact(values, share), abs=10)


def test_overlapping_buckets_share_their_range() -> None:
    """From 5 to 10 both spread their values, so the median is in the middle."""
    found = distribution((0, 10, 10))
    found.add(distribution((5, 15, 10)))
    assert (found.count, found.quantile(0.5)) == (20, 7.5)


def test_without_ends_it_estimates_as_prometheus_does() -> None:
    """The lowest bucket starts at 0, and the highest is its lower bound."""
    found = distribution((-math.inf, 0.0, 6), (0.0, 0.5, 5), (0.5, 1.0, 3), (1.0, math.inf, 5))
    assert found.quantile(0.2) == 0
    assert found.quantile(0.5) == pytest.approx(0.35)
    assert found.quantile(0.9) == 1
    assert distribution((-math.inf, 4.0, 4)).quantile(0.25) == 1


def test_ends_bound_what_is_in_the_outer_buckets() -> None:
    """Of 2, three between, and 6 in one bucket from 0 to 100, the middle one is 4."""
    found = distribution((0.0, 100.0, 5), least=2.0, most=6.0)
    assert [found.quantile(share) for share in (0.2, 0.5, 0.8, 1)] == [2, 4, 6, 6]


def test_counts_beyond_the_precision_of_floats_are_estimated() -> None:
    """Here the rank, as a float, is greater than the count."""
    assert distribution((0.0, 4.0, 2**62 + 1_000)).quantile(1.0) == 4


def test_nothing_known_is_no_estimate() -> None:
    """Neither without values nor with values anywhere."""
    assert Distribution().quantile(0.5) is None
    assert distribution((-math.inf, math.inf, 3)).quantile(0.5) is None
    assert distribution((-math.inf, math.inf, 3)).count == 3


@given(
    values=st.lists(st.lists(st.floats(0, 1e6), min_size=1), min_size=1, max_size=4),
    shares=st.lists(st.floats(0, 1), min_size=2, max_size=8),
)
def test_estimates_never_fall_and_never_leave_the_values(
    values: list[list[float]], shares: list[float]
) -> None:
    """For any values, distributed in any way over processes."""
    found = Distribution()
    for own in values:
        places = np.searchsorted(SECONDS, own)
        edges = (-math.inf, *SECONDS, math.inf)
        buckets = [
            (edges[place], edges[place + 1], int((places == place).sum()))
            for place in range(len(SECONDS) + 1)
        ]
        found.add_histogram(buckets, total=sum(own), least=min(own), most=max(own))
    everything = [value for own in values for value in own]
    estimates = [found.quantile(share) or 0.0 for share in sorted(shares)]
    assert (np.diff(estimates) >= -1e-9 * max(everything)).all()
    assert min(everything) <= min(estimates)
    assert max(estimates) <= max(everything)
    assert found.quantile(1) == max(everything)
