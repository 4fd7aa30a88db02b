"""The user's audio for the pipelines: read, checked, and converted to the model's rate and channels."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging

from stable_longform.pipelines import inputs
from stable_longform.utils.audio import read_audio, resample, to_stereo
from stable_longform.utils.recordings import MAX_DURATION_IN_S, check_file, check_samples, check_size

logger = logging.get_logger(__name__)

MAX_RATE = 768000  # Hz
Audio = torch.Tensor | np.ndarray | str | os.PathLike


def read_audios(
    audio: Audio | Sequence[Audio] | None,
    sampling_rate: int | None,
    model_rate: int,
    model_channels: int,
    max_duration_in_s: float = MAX_DURATION_IN_S,
) -> list[torch.Tensor]:
    """Waveforms `(model_channels, num_samples)` at the model's rate, float32 on the CPU.

    Args:
        audio: one or several: a path, or a tensor or array `(num_samples,)`, `(1 or 2, num_samples)` or a batch `(n,
            1 or 2, num_samples)`, floating point, full scale 1. Mono is copied to both channels of a stereo model;
            for a mono model, the channels are averaged.
        sampling_rate: of tensors and arrays, in Hz; None: the model's. Files have their own.
        model_rate: Hz.
        model_channels: 1 or 2.
        max_duration_in_s: longer audio is rejected.

    Raises:
        ValueError: audio cannot be read, is empty, silent, not finite, too loud or too long, or has more than two
            channels.
    """
    if sampling_rate is not None:
        sampling_rate = inputs.check_count("sampling_rate", sampling_rate, MAX_RATE)
    every: list[Any] = list(audio) if isinstance(audio, (list, tuple)) else [audio]
    if len(every) == 1 and isinstance(every[0], (torch.Tensor, np.ndarray)) and every[0].ndim == 3:
        every = list(every[0])
    if not every:
        raise ValueError("audio must hold at least one recording, got none.")
    return [_read(one, sampling_rate or model_rate, model_rate, model_channels, max_duration_in_s) for one in every]


def _read(audio: Audio, rate: int, model_rate: int, model_channels: int, max_duration_in_s: float) -> torch.Tensor:
    """One recording, see `read_audios`."""
    if isinstance(audio, (str, os.PathLike)):
        name, rate = f"audio {str(audio)!r}", check_file(audio, max_duration_in_s).sampling_rate
        waveform, _ = read_audio(audio)
    else:
        name, waveform = "audio", _as_tensor(audio)
        channels, duration_in_s = waveform.shape[0], waveform.shape[1] / rate
        check_size(name, channels, duration_in_s, max_duration_in_s)
    check_samples(name, waveform)
    if not waveform.any():
        raise ValueError(f"{name} is silent: all its samples are 0.")
    if rate != model_rate:
        logger.warning("%s has %d Hz and is resampled to the model's %d Hz.", name, rate, model_rate)
        waveform = resample(waveform, rate, model_rate)
    if waveform.shape[1] == 0:
        raise ValueError(f"{name} is shorter than a sample at the model's {model_rate} Hz.")
    return to_stereo(waveform) if model_channels == 2 else waveform.mean(dim=0, keepdim=True)


def _as_tensor(audio: torch.Tensor | np.ndarray) -> torch.Tensor:
    """A float32 tensor `(channels, num_samples)` on the CPU."""
    if not isinstance(audio, (torch.Tensor, np.ndarray)):
        raise ValueError(f"audio must be a tensor, an array or a path, got {type(audio).__name__}.")
    if not (audio.dtype.kind == "f" if isinstance(audio, np.ndarray) else audio.is_floating_point()):
        raise ValueError(f"audio must be floating point with full scale 1, got dtype {audio.dtype}.")
    if isinstance(audio, np.ndarray):
        audio = torch.from_numpy(np.require(audio, np.float32, ["C", "W"]))
    inputs.check_dense("audio", audio)
    if audio.ndim not in (1, 2):
        raise ValueError(f"audio must be (channels, num_samples), got shape {tuple(audio.shape)}.")
    return (audio if audio.ndim == 2 else audio[None]).detach().float().cpu()
