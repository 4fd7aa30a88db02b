"""Clicks where audio was joined: how sharply the waveform bends there, compared to its surroundings.

A jump of the waveform or of its slope is one large second difference. Attacks in music cause large ones too, so only
the comparison shows whether a border can be distinguished from the rest.
"""

import torch

NEAR = 8  # samples on either side of a border that belong to it


def click_ratio(waveform: torch.Tensor, border: int, num_samples_around: int) -> float:
    """The largest second difference at a border over the largest one around it; up to 1, the border is inconspicuous.

    Args:
        waveform: `(channels, num_samples)`.
        border: the first sample after the joint, in (0, `num_samples`).
        num_samples_around: number of samples on either side for comparison, more than `NEAR`.

    Raises:
        ValueError: the border is outside the waveform, or there is nothing around it for comparison.
    """
    if waveform.ndim != 2 or not 0 < border < waveform.shape[1]:
        raise ValueError(f"border must be inside the waveform {tuple(waveform.shape)}, got {border}.")
    low = max(border - num_samples_around, 0)
    bends = waveform[:, low : border + num_samples_around].double().diff(n=2).abs().amax(dim=0)
    position = border - low - 1  # of the second difference centred at the border
    is_near = (torch.arange(len(bends)) - position).abs() <= NEAR
    if is_near.all() or not is_near.any():
        raise ValueError(f"num_samples_around must be more than {NEAR} samples, got {num_samples_around}.")
    return float(bends[is_near].max() / bends[~is_near].max().clamp(min=1e-12))
