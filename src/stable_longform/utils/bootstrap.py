"""Intervals of numbers that are computed from files or listeners, by drawing the files or listeners again.

The windows of one file are alike, and so are the ratings of one listener. So files and listeners are drawn, not
windows and ratings.

References: Efron and Tibshirani, "An introduction to the bootstrap" (1993), chapter 13.
"""

from collections.abc import Callable, Sequence

import numpy as np

CONFIDENCE = 0.95


def bootstrap_interval(
    statistic: Callable[..., float],
    value: float,
    num_items: Sequence[int],
    num_resamples: int,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> tuple[float, float] | None:
    """Interval of a statistic of one or several sets of items, such as files or listeners.

    The quantiles are those of the draws, shifted so that the draws' mean is the value: drawing items again adds to the
    bias of a distance, which the interval shall not show.

    Args:
        statistic: called with an array of positions of items for each set, drawn with repetition. NaN leaves a draw
            out.
        value: the statistic of the items themselves.
        num_items: of each set.
        num_resamples: draws; fewer than 2 give no interval.
        seed: of the draws.
        confidence: share of draws inside, in (0, 1).

    Returns:
        `(low, high)`, or None if a set has a single item.
    """
    if num_resamples < 2 or min(num_items) < 2:
        return None
    rng = np.random.default_rng(seed)
    draws = np.array([statistic(*(rng.integers(n, size=n) for n in num_items)) for _ in range(num_resamples)])
    low, high = np.nanquantile(draws - np.nanmean(draws), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(value + low), float(value + high)
