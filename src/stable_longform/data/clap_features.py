"""CLAP's log-mel features, computed in blocks of frames.

transformers' extractor transforms frame by frame in a Python loop, which takes most of the time of a pair. Blocks of
frames that stay in the cache take a third of that time, with the same result.
"""

import numpy as np
from transformers import ClapFeatureExtractor

BLOCK_LENGTH = 64  # frames; the fastest of 16, 64 and 1001
MIN_POWER = 1e-10  # -100 dB


class BlockwiseClapFeatureExtractor(ClapFeatureExtractor):
    """A faster `ClapFeatureExtractor`; it is saved and opened as transformers' class."""

    def to_dict(self) -> dict:
        """The configuration, under the name of transformers' class."""
        return super().to_dict() | {"feature_extractor_type": ClapFeatureExtractor.__name__}

    def _np_extract_fbank_features(self, waveform: np.ndarray, mel_filters: np.ndarray) -> np.ndarray:
        """Decibels `(num_frames, num_mels)` of a mono waveform `(num_samples,)`, in double precision until the end."""
        size = self.fft_window_size
        padded = np.pad(np.asarray(waveform, dtype=np.float64), size // 2, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(padded, size)[:: self.hop_length]
        window = np.hanning(size + 1)[:-1]
        decibels = np.empty((len(frames), mel_filters.shape[1]), dtype=np.float32)
        for start in range(0, len(frames), BLOCK_LENGTH):
            block = slice(start, start + BLOCK_LENGTH)
            spectrum = np.fft.rfft(frames[block] * window)
            power = (spectrum.real**2 + spectrum.imag**2) @ mel_filters
            decibels[block] = 10 * np.log10(np.maximum(power, MIN_POWER))
        return decibels
