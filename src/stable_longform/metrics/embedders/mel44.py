"""Spectrum and stereo image of 3 s windows up to 22 kHz, which networks at 16 kHz mono cannot hear. Not learned.

An embedding has 136 numbers: the mean over the frames of a window, then the standard deviation, of the levels of 64
mel bands of the mid signal, and the ratio of side to mid in 8 groups of these bands, all in bels (log₁₀ of power).
Low-passed, lossily coded or mono audio is far from the original in this space. Rhythm, harmony and structure have
almost no effect on it.

Conventions: stereo at 44.1 kHz; windows without overlap, an incomplete last one is dropped; levels below −10 B (−100
dBFS) count as −10 B, ratios beyond ±4 B as ±4 B.
"""

import numpy as np
import torch

from stable_longform.metrics.embedders.features import HAS_NO_WEIGHTS, AudioFeatures, check_waveform, mel_filters

SAMPLING_RATE, FFT_SIZE, HOP_LENGTH, NUM_BANDS, NUM_GROUPS = 44100, 2048, 1024, 64, 8
WINDOW_FRAMES = 129  # 2.995 s
FLOOR = 1e-10  # of the power of a full-scale sine: −100 dB
MAX_RATIO_IN_BEL = 4.0


class Mel44Embedder:
    """Embeddings `(num_windows, 136)` of stereo audio at 44.1 kHz, `name` "mel44"."""

    name, sampling_rate, num_channels = "mel44", SAMPLING_RATE, 2
    metrics = ("fd",)
    protocol = {
        "network": "mel44",
        "weights_sha256": HAS_NO_WEIGHTS,
        "window_in_s": WINDOW_FRAMES * HOP_LENGTH / SAMPLING_RATE,
        "sampling_rate": SAMPLING_RATE,
        "channels": "mid, and ratio of side to mid",
    }

    def __call__(self, waveform: torch.Tensor) -> AudioFeatures:
        """Features of `(2, num_samples)`, at least 129 frames of 1024 samples.

        Raises:
            ValueError: the waveform has another shape, is too short or is not finite.
        """
        check_waveform(waveform, 2, (WINDOW_FRAMES - 1) * HOP_LENGTH)
        signals = torch.stack([waveform.sum(dim=0), waveform[0] - waveform[1]]) / 2  # mid, side
        window = torch.hann_window(FFT_SIZE)
        spectrum = torch.stft(
            signals.float(), FFT_SIZE, HOP_LENGTH, window=window, pad_mode="constant", return_complex=True
        )
        power = spectrum.abs().square() / (window.sum() / 2).square()
        bands = mel_filters(SAMPLING_RATE, FFT_SIZE, NUM_BANDS, norm=None) @ power  # (2, 64, L)
        num_windows = bands.shape[2] // WINDOW_FRAMES
        bands = bands[..., : num_windows * WINDOW_FRAMES].unflatten(2, (num_windows, WINDOW_FRAMES))
        levels = bands[0].clamp(min=FLOOR).log10()  # (64, W, L)
        groups = bands.mean(dim=3).unflatten(1, (NUM_GROUPS, -1)).sum(dim=2).clamp(min=FLOOR)  # (2, 8, W)
        ratios = (groups[1] / groups[0]).log10().clamp(-MAX_RATIO_IN_BEL, MAX_RATIO_IN_BEL)
        embeddings = torch.cat([levels.mean(dim=2), levels.std(dim=2), ratios]).T
        return AudioFeatures(embeddings.numpy().astype(np.float32))
