"""The output of embedders, and helpers that several of them use."""

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers.audio_utils import mel_filter_bank

CACHE_VARIABLE = "STABLE_LONGFORM_CACHE"
HAS_NO_WEIGHTS = "none"  # in place of a hash, in the protocol of an embedder that is not learned


@dataclass(frozen=True)
class AudioFeatures:
    """Features of one recording.

    Args:
        embeddings: `(num_windows, dim)`, float32; None if the network has no embeddings.
        logits: `(num_windows, num_classes)`, float32; None if the network does not classify.
    """

    embeddings: np.ndarray | None = None
    logits: np.ndarray | None = None

    def need_embeddings(self) -> np.ndarray:
        """The embeddings; raises a ValueError if there are none."""
        if self.embeddings is None:
            raise ValueError("The network has no embeddings.")
        return self.embeddings

    def need_logits(self) -> np.ndarray:
        """The logits; raises a ValueError if there are none."""
        if self.logits is None:
            raise ValueError("The network does not classify: it has no logits.")
        return self.logits


def cache_dir() -> Path:
    """The folder for converted weights: `$STABLE_LONGFORM_CACHE`, or `~/.cache/stable_longform`."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "stable_longform")


@functools.cache
def mel_filters(
    sampling_rate: int, fft_size: int, num_mels: int, norm: str | None = "slaney", mel_scale: str = "slaney"
) -> torch.Tensor:
    """Triangular mel filters from 0 Hz to half the rate, `(num_mels, fft_size / 2 + 1)`, librosa's defaults."""
    filters = mel_filter_bank(
        fft_size // 2 + 1, num_mels, 0.0, sampling_rate / 2, sampling_rate, norm=norm, mel_scale=mel_scale
    )
    return torch.from_numpy(filters.T.astype(np.float32))


def check_waveform(waveform: torch.Tensor, num_channels: int, min_samples: int) -> None:
    """Raises a ValueError unless the waveform is `(num_channels, at least min_samples)` and finite."""
    if waveform.ndim != 2 or waveform.shape[0] != num_channels or waveform.shape[1] < min_samples:
        raise ValueError(
            f"waveform must be ({num_channels} channels, at least {min_samples} samples), "
            f"got shape {tuple(waveform.shape)}."
        )
    if not waveform.isfinite().all():
        raise ValueError("waveform must be finite.")
