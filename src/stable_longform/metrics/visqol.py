"""ViSQOL: the quality of a decoded recording as listeners would rate it, from 1 (bad) to about 4.7 (no difference).

It compares spectrograms in 32 bands from 50 Hz to 15 kHz, patch by patch, and maps their similarity to a mean opinion
score with a regression that was fitted on listening tests of codecs.

Conventions: mixed to mono at 48 kHz, as in the published tool; segments of 10 s, the length that its authors
recommend, without an incomplete last one; a shorter recording is one segment. Segments in which the reference is
silent are left out. The decoded waveform comes first, the reference second.

References: Hines et al., "ViSQOLAudio" (2015); Chinen et al., "ViSQOL v3" (2020), with the package visqol-python, a
port whose scores agree with the authors' program to 2e-4 in its own tests. Not in the paper.
"""

import torch

from stable_longform.utils.audio import resample
from stable_longform.utils.optional import require

SAMPLING_RATE = 48000
SEGMENT_IN_S = 10
MIN_SEGMENT_IN_S = 1.0
SILENCE_IN_DB = -70.0  # dBFS of a segment's power, below which it is silent


def visqol(decoded: torch.Tensor, reference: torch.Tensor, sampling_rate: int) -> float:
    """Mean over segments of the opinion score that ViSQOL predicts, in [1, 5], of two `(channels, num_samples)`.

    Raises:
        ValueError: visqol-python is missing, shapes differ, values are not finite, there is less than 1 s, or the
            reference is silent.
    """
    if decoded.shape != reference.shape or decoded.ndim != 2:
        raise ValueError(
            f"Both must have the same shape (channels, num_samples), got {tuple(decoded.shape)} and "
            f"{tuple(reference.shape)}."
        )
    if not (decoded.isfinite().all() and reference.isfinite().all()):
        raise ValueError("Both waveforms must be finite.")
    mono = [resample(waveform.float().mean(dim=0, keepdim=True), sampling_rate, SAMPLING_RATE)[0].double().numpy()
            for waveform in (decoded, reference)]  # fmt: skip
    num_samples = len(mono[1])
    if num_samples < MIN_SEGMENT_IN_S * SAMPLING_RATE:
        raise ValueError(f"ViSQOL needs at least {MIN_SEGMENT_IN_S:g} s, got {num_samples / SAMPLING_RATE:.2f} s.")
    length = min(SEGMENT_IN_S * SAMPLING_RATE, num_samples)
    segments = [slice(start, start + length) for start in range(0, num_samples - length + 1, length)]
    segments = [part for part in segments if (mono[1][part] ** 2).mean() > 10 ** (SILENCE_IN_DB / 10)]
    if not segments:
        raise ValueError("The reference is silent: ViSQOL is undefined.")
    api = require("visqol", "visqol").VisqolApi()
    api.create(mode="audio")
    scores = [api.measure_from_arrays(mono[1][part], mono[0][part], SAMPLING_RATE).moslqo for part in segments]
    return sum(scores) / len(scores)
