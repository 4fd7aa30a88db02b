"""Whether music ends at the requested time: the level after it.

Conventions: waveforms are `(channels, num_samples)`; levels are those of blocks of 0.1 s, averaged over channels, in
dBFS, at least −120.
"""

import torch

GRACE_IN_S = 2.0  # for reverberation and the decay of the last tone
BLOCK_IN_S = 0.1
SILENCE_IN_DB = -60.0  # levels below it count as silence
FLOOR_IN_DB = -120.0


def level_behind(waveform: torch.Tensor, sampling_rate: int, end_in_s: float) -> float | None:
    """Level of the loudest block that begins 2 s or more after the requested end; None if there is no such block.

    Args:
        waveform: `(channels, num_samples)`.
        sampling_rate: Hz.
        end_in_s: the requested end of the music.
    """
    length = round(BLOCK_IN_S * sampling_rate)
    rest = waveform[:, round((end_in_s + GRACE_IN_S) * sampling_rate) :]
    num_blocks = rest.shape[1] // length
    if num_blocks == 0:
        return None
    power = rest[:, : num_blocks * length].double().square().reshape(len(rest), num_blocks, length).mean(dim=(0, 2))
    return max(float(10 * power.max().clamp(min=1e-30).log10()), FLOOR_IN_DB)
