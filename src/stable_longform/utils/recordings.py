"""Checks of the user's recordings."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from stable_longform.utils.audio import AudioInfo, read_blocks, read_info

MAX_DURATION_IN_S = 3600.0
MAX_PEAK = 100.0  # loud mixes in float reach 10; 8-bit integers taken for float reach 128


def check_file(path: str | os.PathLike, max_duration_in_s: float = MAX_DURATION_IN_S) -> AudioInfo:
    """Reads and checks a file's header; the samples are not read.

    Raises:
        ValueError: the file does not exist, is not audio, is cut off, empty or too long, or has over two channels.
    """
    name = f"audio {str(path)!r}"
    if not Path(path).is_file():
        raise ValueError(f"{name} is not a file.")
    info = read_info(path)
    if info.loss is not None:
        raise ValueError(f"{name} is cut off: {info.loss}.")
    check_size(name, info.channels, info.duration_in_s, max_duration_in_s)
    return info


def check_content(path: str | os.PathLike) -> None:
    """Reads a file block by block and checks its samples; errors as in `checked_blocks`."""
    for _ in checked_blocks(path):
        pass


def checked_blocks(path: str | os.PathLike) -> Iterator[torch.Tensor]:
    """Reads a file block by block, as `read_blocks` does, and checks its samples.

    Raises:
        ValueError: it cannot be decoded, or `check_samples` rejects samples; after the last block: it is silent.
    """
    is_silent = True
    for block in read_blocks(path):
        check_samples(f"audio {str(path)!r}", block)
        is_silent = is_silent and not block.any()
        yield block
    if is_silent:
        raise ValueError(f"audio {str(path)!r} is silent: all its samples are 0.")


def check_samples(name: str, samples: torch.Tensor) -> None:
    """Raises a ValueError if samples are not finite, or so large that full scale is not 1 for them."""
    if not samples.isfinite().all():
        raise ValueError(f"{name} contains non-finite samples.")
    peak = float(samples.abs().max()) if samples.numel() else 0.0
    if peak > MAX_PEAK:
        raise ValueError(f"{name} has a peak of {peak:g}: samples must be in [-1, 1] at full scale.")


def check_size(name: str, channels: int, duration_in_s: float, max_duration_in_s: float) -> None:
    """Raises a ValueError if audio is empty, too long, or has too many channels."""
    if channels not in (1, 2):
        raise ValueError(f"{name} must have 1 or 2 channels, got {channels}.")
    if duration_in_s == 0:
        raise ValueError(f"{name} is empty.")
    if duration_in_s > max_duration_in_s:
        raise ValueError(f"{name} must last at most {max_duration_in_s:.3f} s, got {duration_in_s:.3f} s.")
