"""Clicks where audio was joined: how sharp the waveform bends there, against its bends nearby.

A jump of the waveform or of its slope is one large second difference. Music has large ones too, at attacks, so that
only the comparison says whether a border can be told from the rest.
"""

import torch

NEAR = 8  # samples on either side of a border that belong to it


def click_ratio(waveform: torch.Tensor, border: int, num_samples_around: int) -> float:
    """The largest second difference at a border over the largest one around it; at most 1: it does not stand out.

    Args:
        waveform: `(channels, num_samples)`.
        border: the first sample of what was joined, in (0, `num_samples`).
        num_samples_around: on either side, against which it is measured, more than `NEAR`.

    Raises:
        ValueError: a border outside the waveform, or nothing around it to compare with.
    """
    if waveform.ndim != 2 or not 0 < border < waveform.shape[1]:
        raise ValueError(f"border must be inside the waveform {tuple(waveform.shape)}, got {border}.")
    low = max(border - num_samples_around, 0)
    bends = waveform[:, low : border + num_samples_around].double().diff(n=2).abs().amax(dim=0)
    position = border - low - 1  # of the second difference whose middle is the border
    is_near = (torch.arange(len(bends)) - position).abs() <= NEAR
    if is_near.all() or not is_near.any():
        raise ValueError(f"num_samples_around must be more than {NEAR} samples, got {num_samples_around}.")
    return float(bends[is_near].max() / bends[~is_near].max().clamp(min=1e-12))
