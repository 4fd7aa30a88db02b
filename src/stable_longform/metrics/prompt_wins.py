"""How often a recording fits its own prompt better than the prompt of another recording.

Conventions: `scores[i, j]` is how well recording i fits prompt j, NaN if unknown. Equivalent prompts are not compared;
a tie counts as half a win. Chance level is 0.5.

Metrics: `win_shares`, and their `mean_and_error`.

References: none; the measure is that of a two-alternative forced choice. Not in the paper.
"""

from collections.abc import Hashable, Sequence

import numpy as np


def win_shares(scores: np.ndarray, prompts: Sequence[Hashable]) -> np.ndarray:
    """For each recording, the share of other prompts that fit worse than its own, `(num_items,)` in [0, 1].

    It is NaN for an item without a score for its own prompt or for any other.

    Args:
        scores: `(num_items, num_items)`; a row belongs to a recording, a column to a prompt, in the same order.
        prompts: content of each prompt; items with equal content are not compared.

    Raises:
        ValueError: shapes do not match.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.shape != (len(prompts), len(prompts)):
        raise ValueError(f"scores must be ({len(prompts)}, {len(prompts)}), got shape {scores.shape}.")
    shares = np.full(len(prompts), np.nan)
    for item, prompt in enumerate(prompts):
        own, others = scores[item, item], scores[item, [other != prompt for other in prompts]]
        others = others[~np.isnan(others)]
        if len(others) and not np.isnan(own):
            shares[item] = (own > others).mean() + 0.5 * (own == others).mean()
    return shares


def mean_and_error(values: Sequence[float] | np.ndarray) -> tuple[float, float] | None:
    """Mean of the values that are not NaN, and its standard error (NaN for a single value); None without values."""
    found = np.asarray(values, dtype=np.float64)
    found = found[~np.isnan(found)]
    if len(found) == 0:
        return None
    return float(found.mean()), float(found.std(ddof=1) / np.sqrt(len(found))) if len(found) > 1 else float("nan")
