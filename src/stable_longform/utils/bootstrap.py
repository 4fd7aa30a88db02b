"""Bootstrap intervals of statistics over files or listeners.

The windows of one file are similar, and so are the ratings of one listener. So files and listeners are resampled, not
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
    """Bootstrap interval of a statistic over one or several sets of items, such as files or listeners.

    The quantiles of the resampled statistics are shifted so that their mean is the value: resampling increases the
    bias of a distance, which should not show in the interval.

    Args:
        statistic: called with an array of item positions for each set, drawn with replacement. If it returns NaN, the
            draw is ignored.
        value: the statistic of the items themselves.
        num_items: of each set.
        num_resamples: number of draws; with fewer than 2 there is no interval.
        seed: of the draws.
        confidence: share of the draws inside the interval, in (0, 1).

    Returns:
        `(low, high)`, or None if a set has a single item.
    """
    if num_resamples < 2 or min(num_items) < 2:
        return None
    rng = np.random.default_rng(seed)
    draws = np.array([statistic(*(rng.integers(n, size=n) for n in num_items)) for _ in range(num_resamples)])
    low, high = np.nanquantile(draws - np.nanmean(draws), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(value + low), float(value + high)
