"""Uploaded music: its limits, its checks, and the peaks of its waveform."""

import functools
import math

import torch

from stable_longform.utils.audio import AudioInfo
from stable_longform.utils.pictures import envelope
from stable_longform.utils.recordings import check_file, checked_blocks

MAX_UPLOAD = "500mb"
MAX_UPLOAD_IN_S = 900.0
MAX_KNOWN_UPLOADS = 100  # whose peaks are remembered
NUM_PEAKS = 600


def check_upload(path: str) -> tuple[AudioInfo, tuple[float, ...]]:
    """Reads the properties and the peaks of an uploaded file; raises a ValueError if it cannot be used."""
    if not path:
        raise ValueError("Upload an audio file first.")
    info = check_file(path, MAX_UPLOAD_IN_S)
    return info, _read_peaks(path, round(info.duration_in_s * info.sampling_rate))


@functools.lru_cache(MAX_KNOWN_UPLOADS)
def _read_peaks(path: str, num_samples: int) -> tuple[float, ...]:
    """At most `NUM_PEAKS` peaks in [0, 1]; checks the samples. An upload never changes, so it is decoded only once."""
    width = math.ceil(num_samples / (8 * NUM_PEAKS))
    blocks = (block.abs().amax(dim=0) for block in checked_blocks(path))
    peaks = envelope(torch.cat([envelope(block, math.ceil(len(block) / width)) for block in blocks]), NUM_PEAKS)
    return tuple(round(float(peak), 3) for peak in peaks / peaks.max())
