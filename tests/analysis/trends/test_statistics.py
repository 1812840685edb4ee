"""The rank tests, on published examples and on random numbers."""

import itertools
import random
from statistics import median

import pytest

from flowspan.analysis.trends import statistics

# The Nile's flow at Aswan, 1871 to 1970, in 10^8 cubic metres (G. W. Cobb, "The Problem of the
# Nile", Biometrika 65, 1978): it fell suddenly after 1898, when a dam was begun.
NILE = [
    *(1120, 1160, 963, 1210, 1160, 1160, 813, 1230, 1370, 1140, 995, 935, 1110, 994, 1020, 960),
    *(1180, 799, 958, 1140, 1100, 1210, 1150, 1250, 1260, 1220, 1030, 1100, 774, 840, 874, 694),
    *(940, 833, 701, 916, 692, 1020, 1050, 969, 831, 726, 456, 824, 702, 1120, 1100, 832, 764),
    *(821, 768, 845, 864, 862, 698, 845, 744, 796, 1040, 759, 781, 865, 845, 944, 984, 897, 822),
    *(1010, 771, 676, 649, 846, 812, 742, 801, 1040, 860, 874, 848, 890, 744, 749, 838, 1050, 918),
    *(986, 797, 923, 975, 815, 1020, 906, 901, 1170, 912, 746, 919, 718, 714, 740),
]


def test_the_slope_is_that_of_sens_own_example() -> None:
    """P. K. Sen, Journal of the American Statistical Association 63 (1968): the slope is 4."""
    times, values = [1, 2, 3, 4, 10, 12, 18], [9, 15, 19, 20, 45, 55, 78]
    found = statistics.trend(times, values)
    assert found is not None
    assert found.slope == pytest.approx(4)
    # His interval at 93 % is 26/7 to 35/8; at 95 % it cannot be narrower.
    assert found.low <= 26 / 7 + 1e-9
    assert found.high >= 35 / 8 - 1e-9
    # Every pair rises, which has one chance in 7! in either direction.
    assert found.tau == pytest.approx(1)
    assert found.p == pytest.approx(2 / 5040)
    assert found.end - found.start == pytest.approx(4 * 17)


def test_the_slope_is_the_median_of_all_pairs_and_tau_counts_them() -> None:
    """Computed by hand: of ten pairs, eight rise and two fall."""
    times, values = [0, 1, 2, 3, 4], [1.0, 3.0, 2.0, 5.0, 4.0]
    pairs = [*itertools.combinations(zip(times, values, strict=True), 2)]
    slopes = [(b - a) / (t - s) for (s, a), (t, b) in pairs]
    found = statistics.trend(times, values)
    assert found is not None
    assert found.slope == pytest.approx(median(slopes))
    assert found.tau == pytest.approx((8 - 2) / 10)


def test_an_outlier_moves_nothing() -> None:
    """A run that took a hundred times as long does not make a trend."""
    values = [1.0, 1.01, 0.99, 1.02, 0.98, 1.0, 1.01, 0.99, 1.0, 100.0]
    found = statistics.trend(range(10), values)
    assert found is not None
    assert abs(found.slope) < 0.01
    assert found.p > 0.05


def test_nothing_to_tell_apart_is_no_answer() -> None:
    """One value, one time or equal values give no answer."""
    assert statistics.trend([1], [1]) is None
    assert statistics.trend([5, 5, 5], [1, 2, 3]) is None
    assert statistics.step([1]) is None
    assert statistics.correlation([1, 1, 1], [1, 2, 3]) is None
    level = statistics.trend([1, 2, 3], [7, 7, 7])
    assert level is not None
    assert (level.slope, level.tau, level.p) == (0, 0, 1)
    same = statistics.step([7.0] * 30)
    assert same is not None
    assert same.p == 1
    assert statistics.differ([[1, 1], [1, 1]]) == 1


def test_pettitts_test_by_hand() -> None:
    """U after four of eight values is 2 (3 + 1 + 2 + 4) - 4 x 9 = -16."""
    found = statistics.step([3, 1, 2, 4, 8, 6, 7, 5])
    assert found is not None
    assert (found.index, found.before, found.after) == (4, 2.5, 6.5)
    assert found.p == pytest.approx(0.1390, abs=1e-4)  # 2 exp(-6 x 256 / (512 + 64))


def test_the_nile_fell_behind_1898() -> None:
    """Every method in the literature finds this year."""
    found = statistics.step(NILE)
    assert found is not None
    assert 1871 + found.index == 1899
    assert found.p < 1e-6
    assert (found.before, found.after) == (median(NILE[:28]), median(NILE[28:]))
    assert len(NILE) == 100


def test_holms_correction_by_hand() -> None:
    """Of three, the smallest is tripled, the next doubled, and their order is kept."""
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.5, 0.9]) == [1, 1]
    assert statistics.holm([]) == []


def test_more_often_is_one_sided() -> None:
    """Fisher's tea: 3 of 4 against 1 of 4 has p = 17/70; a lower rate is never significant."""
    assert statistics.more_often(3, 4, 1, 4) == pytest.approx(17 / 70)
    assert statistics.more_often(0, 10, 5, 10) == pytest.approx(1)


def test_many_values_are_reduced() -> None:
    """Twenty thousand runs would make two hundred million pairs; the slope stays the same."""
    source = random.Random(3)  # noqa: S311 - the same each time
    values = [10 + 0.001 * time + source.gauss(0, 1) for time in range(20_000)]
    found = statistics.trend(range(20_000), values)
    assert found is not None
    assert found.slope == pytest.approx(0.001, rel=0.05)
    left = statistics.without(range(20_000), values)
    assert median(left) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("length", [16, 40])
def test_noise_raises_no_more_alarms_than_the_level_says(length: int) -> None:
    """At 5 %, about 50 of 1,000 random series have a trend, and no more have a step."""
    source = random.Random(length)  # noqa: S311 - the same each time
    trends = steps = 0
    for _ in range(1000):
        values = [source.lognormvariate(0, 0.3) for _ in range(length)]
        trend, step = statistics.trend(range(length), values), statistics.step(values)
        assert trend is not None
        assert step is not None
        trends += trend.p < 0.05
        steps += step.p < 0.05
    assert 28 <= trends <= 75  # three and a half standard deviations
    assert steps <= 75
