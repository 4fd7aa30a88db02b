"""Which notes sound when, in windows of 5 s: tells music with the same sound from a copy. Not learned.

An embedding has 120 numbers: for each half second of a window the shares of the twelve pitch classes, beginning with
A, in the power between 100 and 2000 Hz. Level, most of the timbre and lossy coding leave it unchanged; other notes,
another order or another key do not. So it finds copies among pieces that sound alike, which `mel44` confuses.

Conventions: mono at 44.1 kHz; windows without overlap, the rest at the end is left out.

References: Fujishima, "Realtime chord recognition of musical sound" (1999).
"""

import functools

import numpy as np
import torch

from stable_longform.metrics.embedders.features import HAS_NO_WEIGHTS, AudioFeatures, check_waveform

SAMPLING_RATE, FFT_SIZE, HOP_LENGTH = 44100, 8192, 4410
WINDOW_IN_S, NUM_PARTS, NUM_CLASSES = 5.0, 10, 12
LOWEST_IN_HZ, HIGHEST_IN_HZ, A_IN_HZ = 100.0, 2000.0, 440.0
FLOOR = 1e-6  # of the power of a frame, below which its shares fade to 0


class ChromaEmbedder:
    """Embeddings `(num_windows, 120)` of mono audio at 44.1 kHz, `name` "chroma"."""

    name, sampling_rate, num_channels = "chroma", SAMPLING_RATE, 1
    metrics = ("fd",)
    protocol = {
        "network": "chroma",
        "weights_sha256": HAS_NO_WEIGHTS,
        "window_in_s": WINDOW_IN_S,
        "sampling_rate": SAMPLING_RATE,
        "channels": "mono",
    }

    def __call__(self, waveform: torch.Tensor) -> AudioFeatures:
        """Features of `(1, num_samples)`, at least 5 s.

        Raises:
            ValueError: the waveform has another shape, is too short or is not finite.
        """
        size = round(WINDOW_IN_S * SAMPLING_RATE)
        check_waveform(waveform, 1, size)
        num_windows = waveform.shape[1] // size
        windows = waveform[0, : num_windows * size].float().view(num_windows, size)
        spectrum = torch.stft(
            windows, FFT_SIZE, HOP_LENGTH, window=torch.hann_window(FFT_SIZE), pad_mode="constant", return_complex=True
        )
        power = _pitch_classes() @ spectrum.abs().square()  # (W, 12, L)
        shares = power / (power.sum(dim=1, keepdim=True) + FLOOR)
        parts = torch.nn.functional.adaptive_avg_pool1d(shares, NUM_PARTS)
        return AudioFeatures(parts.flatten(1).numpy().astype(np.float32))


@functools.cache
def _pitch_classes() -> torch.Tensor:
    """A matrix `(12, FFT_SIZE / 2 + 1)` that sums the power of each pitch class."""
    frequencies = np.fft.rfftfreq(FFT_SIZE, 1 / SAMPLING_RATE)
    is_inside = (frequencies > LOWEST_IN_HZ) & (frequencies < HIGHEST_IN_HZ)
    classes = np.round(NUM_CLASSES * np.log2(frequencies[is_inside] / A_IN_HZ)).astype(int) % NUM_CLASSES
    matrix = np.zeros((NUM_CLASSES, len(frequencies)), dtype=np.float32)
    matrix[classes, np.flatnonzero(is_inside)] = 1
    return torch.from_numpy(matrix)
