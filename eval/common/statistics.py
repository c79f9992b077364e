"""Rates and means as numbers a reviewer can check: intervals, differences, paired tests. Rates are in [0, 1]."""

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import binomtest
from scipy.stats import t as student


def wilson_interval(successes: int, rollouts: int) -> tuple[float, float]:
    """Compute the 95 % Wilson score interval of a success rate, both ends in [0, 1].

    Source: Wilson, Probable Inference, JASA 22, 1927; computed by SciPy.

    Raises:
        ValueError: If ``rollouts`` is 0 or ``successes`` is not in 0 .. rollouts.
    """
    if rollouts < 1 or not 0 <= successes <= rollouts:
        raise ValueError(f"Need 0 <= successes <= rollouts and at least one rollout, got {successes} of {rollouts}.")
    interval = binomtest(successes, rollouts).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def format_rate(successes: int, rollouts: int) -> str:
    """Return, for example, ``19/20 = 95.0 % [76.4, 99.1]``."""
    low, high = wilson_interval(successes, rollouts)
    return f"{successes}/{rollouts} = {100 * successes / rollouts:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def rate_of(figures: Mapping[str, Any] | None) -> str:
    """Return the rate of a report's ``successes`` and ``rollouts``, as :func:`format_rate`; a dash for nothing."""
    return format_rate(figures["successes"], figures["rollouts"]) if figures else "-"


def newcombe_difference(
    successes_a: int, rollouts_a: int, successes_b: int, rollouts_b: int
) -> tuple[float, float, float]:
    """Return the difference of two independent success rates with its 95 % interval.

    Source: Newcombe, Interval estimation for the difference between independent proportions, Statistics in Medicine
    17, 1998, method 10: the hybrid of both rates' Wilson limits, without continuity correction.

    Returns:
        ``(a - b, low, high)``, each in [-1, 1].

    Raises:
        ValueError: As :func:`wilson_interval`.
    """
    low_a, high_a = wilson_interval(successes_a, rollouts_a)
    low_b, high_b = wilson_interval(successes_b, rollouts_b)
    rate_a, rate_b = successes_a / rollouts_a, successes_b / rollouts_b
    difference = rate_a - rate_b
    return (
        difference,
        difference - math.hypot(rate_a - low_a, high_b - rate_b),
        difference + math.hypot(high_a - rate_a, rate_b - low_b),
    )


def paired_difference(both: int, only_a: int, only_b: int, neither: int) -> tuple[float, float, float]:
    """Return the difference of two success rates over the same tasks with its 95 % interval.

    Source: Newcombe, Improved confidence intervals for the difference between binomial proportions based on paired
    data, Statistics in Medicine 17, 1998, method 10: the hybrid of both rates' Wilson limits, correlation included.

    Args:
        both: Pairs in which both succeeded.
        only_a: Pairs in which only A succeeded.
        only_b: Pairs in which only B succeeded.
        neither: Pairs in which none did.

    Returns:
        ``(a - b, low, high)``, each in [-1, 1].

    Raises:
        ValueError: For a negative count, or without any pair.
    """
    if min(both, only_a, only_b, neither) < 0:
        raise ValueError(f"Counts of pairs can't be negative, got {both}, {only_a}, {only_b} and {neither}.")
    pairs = both + only_a + only_b + neither
    successes_a, successes_b = both + only_a, both + only_b
    low_a, high_a = wilson_interval(successes_a, pairs)
    low_b, high_b = wilson_interval(successes_b, pairs)
    rate_a, rate_b = successes_a / pairs, successes_b / pairs
    spread = successes_a * (pairs - successes_a) * successes_b * (pairs - successes_b)
    excess = both * neither - only_a * only_b
    if excess > 0:
        # Its continuity correction.
        excess = max(excess - pairs / 2, 0)
    correlation = excess / math.sqrt(spread) if spread else 0.0

    def distance(of_a: float, of_b: float) -> float:
        # Rounding can bring the square of a distance of 0 below it.
        return math.sqrt(max(of_a**2 - 2 * correlation * of_a * of_b + of_b**2, 0.0))

    difference = (only_a - only_b) / pairs
    return (
        difference,
        difference - distance(rate_a - low_a, high_b - rate_b),
        difference + distance(high_a - rate_a, rate_b - low_b),
    )


def format_difference(difference: float, low: float, high: float) -> str:
    """Format a difference in percentage points, for example ``+20.0 points [5.2, 33.4]``."""
    # Adding 0 turns a rounded -0.0 into 0.0.
    shown, low, high = (round(100 * value, 1) + 0.0 for value in (difference, low, high))
    return f"{shown:+.1f} points [{low:.1f}, {high:.1f}]"


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Compute the two-sided p-value of McNemar's exact test: do pairs with two outcomes favor one side?

    Source: McNemar, Psychometrika 12, 1947; exact form: the binomial test of ``only_a`` in ``only_a + only_b`` against
    1/2. Without such pairs nothing favors either side, and the value is 1.

    Args:
        only_a: Pairs in which only A succeeded.
        only_b: Pairs in which only B succeeded.

    Raises:
        ValueError: For a negative count.
    """
    if min(only_a, only_b) < 0:
        raise ValueError(f"Counts of pairs can't be negative, got {only_a} and {only_b}.")
    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue)


def mean_over_seeds(rates: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean of the seeds' success rates and their sample standard deviation; a single seed has none.

    Raises:
        ValueError: If there is no seed.
    """
    if not rates:
        raise ValueError("Need the success rate of at least one seed, got none.")
    return statistics.mean(rates), statistics.stdev(rates) if len(rates) > 1 else None


def mean_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Return the mean of independent values with its 95 % interval by Student's t distribution.

    The interval is wide for few values, as it should be: with two, it is 12.7 standard errors to each side.

    Source: Student, The probable error of a mean, Biometrika 6, 1908; quantile by SciPy.

    Returns:
        ``(mean, low, high)``; a single value has no interval, and both limits are None.

    Raises:
        ValueError: If there is no value.
    """
    if not values:
        raise ValueError("Need at least one value, got none.")
    mean = statistics.fmean(values)
    if len(values) == 1:
        return mean, None, None
    half = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def clustered_mean(values: Sequence[float], clusters: Sequence[int]) -> tuple[float, float | None]:
    """Return the mean of values that are alike within a cluster, such as frames of an episode, with its 95 % interval.

    Source: Cameron and Miller, A practitioner's guide to cluster-robust inference, Journal of Human Resources 50, 2015,
    section II, for a regression on a constant; quantile of Student's t for one fewer than the clusters.

    Args:
        values: At least one.
        clusters: The cluster of each.

    Returns:
        The mean and half of the interval; None if there is only one cluster.
    """
    mean = statistics.fmean(values)
    off: dict[int, float] = defaultdict(float)
    for value, cluster in zip(values, clusters, strict=True):
        off[cluster] += value - mean
    if len(off) == 1:
        return mean, None
    variance = len(off) / (len(off) - 1) * sum(total**2 for total in off.values()) / len(values) ** 2
    return mean, float(student.ppf(0.975, len(off) - 1)) * math.sqrt(variance)
