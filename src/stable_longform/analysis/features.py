"""Features for the analysis of structure: harmony (chroma) and timbre (cepstrum), a few frames per second.

Audio is processed block by block, so memory grows by only a few megabytes for an hour of music. The spectra of the
channels are averaged, not their samples, so that channels with opposite phase don't cancel.

References: Serrà, Müller, Grosche and Arcos, "Unsupervised music structure annotation by time series structure
features and segment similarity" (IEEE Transactions on Multimedia, 2014) for chroma at about ten frames a second.
"""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from transformers.audio_utils import chroma_filter_bank, mel_filter_bank

SAMPLING_RATE = 22050  # Hz
FFT_SIZE, HOP_LENGTH = 8192, 2205  # a resolution of 2.7 Hz, ten spectra a second
MIN_POOL = 2  # spectra in a frame
FRAME_RATE = SAMPLING_RATE / HOP_LENGTH / MIN_POOL  # frames a second
MAX_FRAMES = 4096  # longer music has longer frames, so that matrices stay below 100 MB
NUM_CHROMA, NUM_MELS, NUM_CEPSTRAL = 12, 64, 13
MEL_RANGE_IN_HZ = (30.0, 10000.0)
RANGE_IN_DB = 80.0  # below the loudest spectrum; softer ones count as silence
MAX_PEAK = 1e9  # the power of larger samples may overflow
SILENCE_PEAK = 1e-4  # of a whole recording, 80 dB below full scale


@dataclass(frozen=True)
class StructureFeatures:
    """Harmony and timbre of a recording.

    Args:
        chroma: `(12, num_frames)`, amplitude of each pitch class, C first; each frame has norm 1, or 0 in silence.
        timbre: `(13, num_frames)`, mel cepstrum, each row with mean 0 and standard deviation 1 over the recording;
            scaled so that a frame has the same average norm as chroma.
        frame_rate: frames a second: `FRAME_RATE`, less for more than 13 minutes of music.
        duration_in_s: of the recording.
    """

    chroma: np.ndarray
    timbre: np.ndarray
    frame_rate: float
    duration_in_s: float

    @property
    def num_frames(self) -> int:
        """The number of frames."""
        return self.chroma.shape[1]

    @property
    def is_silent(self) -> np.ndarray:
        """`(num_frames,)`, whether a frame is silent."""
        return np.logical_not(self.chroma.any(axis=0))


def extract_features(blocks: Iterable[torch.Tensor]) -> StructureFeatures:
    """Computes the features of a recording.

    Args:
        blocks: consecutive `(channels, num_samples)` at `SAMPLING_RATE`, as from `read_blocks`.

    Raises:
        ValueError: samples are not finite, or too large; or the recording is silent.
    """
    chroma_parts: list[torch.Tensor] = []
    mel_parts: list[torch.Tensor] = []
    num_samples, peak = 0, 0.0
    rest = None  # the samples of each channel that the next spectra start with
    for block in blocks:
        if not block.isfinite().all():
            raise ValueError("samples that are not finite")
        num_samples += block.shape[1]
        peak = max(peak, float(block.abs().max()))
        rest = torch.nn.functional.pad(block, (FFT_SIZE // 2, 0)) if rest is None else torch.cat([rest, block], dim=1)
        num_spectra = (rest.shape[1] - FFT_SIZE) // HOP_LENGTH + 1
        if num_spectra > 0:
            _add_spectra(rest[:, : (num_spectra - 1) * HOP_LENGTH + FFT_SIZE], chroma_parts, mel_parts)
            rest = rest[:, num_spectra * HOP_LENGTH :]
    if rest is not None:
        rest = torch.nn.functional.pad(rest, (0, FFT_SIZE // 2))
        rest = torch.nn.functional.pad(rest, (0, max(FFT_SIZE - rest.shape[1], 0)))
        _add_spectra(rest, chroma_parts, mel_parts)
    if num_samples == 0:
        raise ValueError("empty: no samples")
    if peak > MAX_PEAK:
        raise ValueError(f"samples up to {peak:.0e}, above {MAX_PEAK:.0e}: no audio with a full scale of 1")
    if peak < SILENCE_PEAK:
        raise ValueError(f"silent: the peak is {peak:.0e}, below {SILENCE_PEAK:.0e}")
    chromas, mels = torch.cat(chroma_parts, dim=1), torch.cat(mel_parts, dim=1)
    pool = max(MIN_POOL, math.ceil(mels.shape[1] / MAX_FRAMES))
    mel, chroma = _pool(mels, pool), _pool(chromas, pool)
    loudest = float(mel.sum(axis=0).max())
    is_silent = mel.sum(axis=0) < loudest * 10 ** (-RANGE_IN_DB / 10)
    norms = np.linalg.norm(chroma, axis=0)
    chroma = np.where(is_silent | (norms == 0), 0.0, chroma / np.where(norms == 0, 1.0, norms))
    frame_rate = SAMPLING_RATE / HOP_LENGTH / pool
    return StructureFeatures(
        chroma.astype(np.float32), _cepstrum(mel, loudest), frame_rate, num_samples / SAMPLING_RATE
    )


def _add_spectra(samples: torch.Tensor, chroma: list[torch.Tensor], mels: list[torch.Tensor]) -> None:
    """Appends chroma `(12, n)` and mel power `(64, n)` of `(channels, num_samples)`, n spectra without padding."""
    window = torch.hann_window(FFT_SIZE)
    spectra = torch.stft(samples, FFT_SIZE, HOP_LENGTH, window=window, center=False, return_complex=True)
    power = spectra.abs().square().mean(dim=0)
    chroma.append(_filters("chroma") @ power.sqrt())
    mels.append(_filters("mel") @ power)


@functools.cache
def _filters(kind: str) -> torch.Tensor:
    """The filter bank of this kind, `(num_bands, 1 + FFT_SIZE / 2)`; pitch classes assume A = 440 Hz."""
    num_bins = FFT_SIZE // 2 + 1
    if kind == "chroma":
        filters = chroma_filter_bank(FFT_SIZE, NUM_CHROMA, SAMPLING_RATE)
    else:
        filters = mel_filter_bank(num_bins, NUM_MELS, *MEL_RANGE_IN_HZ, SAMPLING_RATE, "slaney", "slaney").T
    return torch.from_numpy(np.ascontiguousarray(filters, dtype=np.float32))


def _pool(values: torch.Tensor, size: int) -> np.ndarray:
    """Means over `size` columns; the last mean may be over fewer."""
    starts = np.arange(0, values.shape[1], size)
    sums = np.add.reduceat(values.double().numpy(), starts, axis=1)
    return sums / np.diff(np.append(starts, values.shape[1]))


def _cepstrum(mel: np.ndarray, loudest: float) -> np.ndarray:
    """Mel cepstrum `(13, num_frames)` of mel power, standardized over time; the first row is the level."""
    floor = loudest / NUM_MELS * 10 ** (-RANGE_IN_DB / 10)
    levels = 10 * np.log10(np.maximum(mel, floor))
    positions = np.pi / NUM_MELS * (np.arange(NUM_MELS) + 0.5)
    cepstrum = np.cos(np.arange(NUM_CEPSTRAL)[:, None] * positions) @ levels  # DCT-II
    deviation = cepstrum.std(axis=1, keepdims=True)
    standardized = (cepstrum - cepstrum.mean(axis=1, keepdims=True)) / np.where(deviation < 1e-6, 1.0, deviation)
    return (standardized / math.sqrt(NUM_CEPSTRAL)).astype(np.float32)
