"""Intervals, differences and tests against published values, and what must be refused."""

import math

import pytest

from eval.common.statistics import (
    clustered_mean,
    format_difference,
    format_rate,
    mcnemar_exact,
    mean_interval,
    mean_over_seeds,
    newcombe_difference,
    paired_difference,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "rollouts", "low", "high"),
    # 81/263 and 15/148 are Newcombe's worked examples (Statistics in Medicine 17, 1998, table I, method 3).
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (20, 20, 0.8389, 1.0)],
)
def test_wilson_interval(successes, rollouts, low, high):
    assert wilson_interval(successes, rollouts) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("successes", "rollouts"), [(0, 0), (3, 2), (-1, 5)])
def test_impossible_counts_are_refused(successes, rollouts):
    for call in (
        lambda: wilson_interval(successes, rollouts),
        lambda: newcombe_difference(1, 2, successes, rollouts),
        lambda: newcombe_difference(successes, rollouts, 1, 2),
    ):
        with pytest.raises(ValueError, match=f"got {successes} of {rollouts}"):
            call()


def test_rate_in_words():
    assert format_rate(19, 20) == "19/20 = 95.0 % [76.4, 99.1]"
    assert format_rate(0, 1) == "0/1 = 0.0 % [0.0, 79.3]"


@pytest.mark.parametrize(
    ("counts", "difference", "low", "high"),
    # Newcombe, Statistics in Medicine 17, 1998, pages 873-890, table II, method 10: the eight examples.
    [
        ((56, 70, 48, 80), 0.2000, 0.0524, 0.3339),
        ((9, 10, 3, 10), 0.6000, 0.1705, 0.8090),
        ((6, 7, 2, 7), 0.5714, 0.0582, 0.8062),
        ((5, 56, 0, 29), 0.0893, -0.0381, 0.1926),
        ((0, 10, 0, 20), 0.0, -0.1611, 0.2775),
        ((0, 10, 0, 10), 0.0, -0.2775, 0.2775),
        ((10, 10, 0, 20), 1.0, 0.6791, 1.0),
        ((10, 10, 0, 10), 1.0, 0.6075, 1.0),
    ],
)
def test_newcombe_difference(counts, difference, low, high):
    assert newcombe_difference(*counts) == pytest.approx((difference, low, high), abs=1e-4)
    # The other way round it is the mirror image.
    swapped = newcombe_difference(*counts[2:], *counts[:2])
    assert swapped == pytest.approx((-difference, -high, -low), abs=1e-4)


def test_difference_in_words():
    assert format_difference(*newcombe_difference(56, 70, 48, 80)) == "+20.0 points [5.2, 33.4]"
    assert format_difference(-0.0001, -0.12, 0.0) == "+0.0 points [-12.0, 0.0]"
    assert format_difference(-0.25, -0.5, 0.001) == "-25.0 points [-50.0, 0.1]"


@pytest.mark.parametrize(
    ("only_a", "only_b", "p_value"),
    # By hand: twice the binomial tail at 1/2, at most 1. 5 of 5: 2 / 32; 1 of 6: 2 * (1 + 6) / 64; 3 of 6: 1.
    [(5, 0, 0.0625), (0, 5, 0.0625), (1, 5, 0.21875), (3, 3, 1.0), (0, 0, 1.0), (10, 1, 2 * 12 / 2048)],
)
def test_mcnemar_exact(only_a, only_b, p_value):
    assert math.isclose(mcnemar_exact(only_a, only_b), p_value, rel_tol=1e-9)


def test_mcnemar_refuses_negative_counts():
    with pytest.raises(ValueError, match="got 3 and -1"):
        mcnemar_exact(3, -1)


def test_mean_over_seeds():
    mean, deviation = mean_over_seeds([0.8, 0.9, 1.0])
    assert mean == pytest.approx(0.9)
    assert deviation == pytest.approx(0.1)
    assert mean_over_seeds([0.5]) == (0.5, None)
    with pytest.raises(ValueError, match="at least one seed"):
        mean_over_seeds([])


def test_interval_of_a_mean():
    # Student's t: 4.303 at two degrees of freedom, 12.706 at one; standard error 1 / sqrt(3) of 1, 2, 3.
    assert mean_interval([1, 2, 3]) == pytest.approx((2, 2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), abs=1e-3)
    assert mean_interval([0, 2]) == pytest.approx((1, 1 - 12.706, 1 + 12.706), abs=1e-3)
    assert mean_interval([0.5, 0.5]) == (0.5, 0.5, 0.5)
    assert mean_interval([0.7]) == (0.7, None, None)
    with pytest.raises(ValueError, match="at least one value"):
        mean_interval([])


def test_interval_of_a_clustered_mean():
    # A value to each cluster: Student's interval. The same values twice in a cluster say nothing new.
    alone = clustered_mean([1, 2, 3], [7, 8, 9])
    assert alone == pytest.approx((2, 4.303 / 3**0.5), abs=1e-3)
    assert clustered_mean([1, 1, 2, 2, 3, 3], [7, 7, 8, 8, 9, 9]) == pytest.approx(alone)
    # Opposite values in a cluster cancel out.
    assert clustered_mean([1, 3, 1, 3], [0, 0, 1, 1]) == (2, 0)
    assert clustered_mean([0.5, 0.7], [4, 4]) == (pytest.approx(0.6), None)


@pytest.mark.parametrize(
    ("counts", "difference", "low", "high"),
    # Newcombe, Statistics in Medicine 17, 1998, pages 2635-2650, method 10: two of its examples, then both corners.
    [
        ((36, 12, 2, 0), 0.2000, 0.0569, 0.3404),
        ((20, 12, 2, 16), 0.2000, 0.0562, 0.3292),
        ((0, 10, 0, 0), 1.0, 0.6075, 1.0),
        ((0, 0, 0, 10), 0.0, -0.2775, 0.2775),
    ],
)
def test_paired_difference(counts, difference, low, high):
    assert paired_difference(*counts) == pytest.approx((difference, low, high), abs=1e-4)
    both, only_a, only_b, neither = counts
    assert paired_difference(both, only_b, only_a, neither) == pytest.approx((-difference, -high, -low), abs=1e-4)


def test_pairs_that_mostly_agree_give_a_narrower_interval_than_two_groups():
    _, low, high = paired_difference(40, 8, 2, 50)
    _, unpaired_low, unpaired_high = newcombe_difference(48, 100, 42, 100)
    assert low > unpaired_low
    assert high < unpaired_high


@pytest.mark.parametrize("counts", [(0, 0, 0, 0), (1, -1, 0, 0)])
def test_pairs_that_cannot_be(counts):
    with pytest.raises(ValueError, match=r"at least one rollout|can't be negative"):
        paired_difference(*counts)
