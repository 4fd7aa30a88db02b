"""A track: one recording of a source of music, and how its audio is read."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch

from stable_longform.data.bad_tracks import BadTrackError, one_line
from stable_longform.data.storage import Storage, open_audio
from stable_longform.utils.audio import read_audio, read_info, to_stereo

SPLITS = ("train", "valid", "test", "extra")
RESERVED = ("path", "duration_in_s", "split", "weight", "member", "offset", "num_bytes")  # what is not metadata
DURATION_TOLERANCE_IN_S = 0.1  # by which a file's end and what its metadata says may differ


@dataclass(frozen=True)
class Track:
    """One recording: its file, length in seconds, split, sampling weight and descriptive metadata.

    Without `storage`, `path` is an audio file. With it, the audio is there and `path` is a name that no other track of
    the source has.
    """

    path: Path
    duration_in_s: float
    split: str
    weight: float = 1.0
    metadata: dict = field(default_factory=dict)
    storage: Storage | None = None

    def open(self) -> contextlib.AbstractContextManager[Path | BinaryIO]:
        """What `read_audio` reads: the path, or a binary file that is closed at the end of a `with` block."""
        return open_audio(self.path, self.storage)


def make_track(row: Mapping, path: Path, where: str, storage: Storage | None = None) -> Track:
    """Builds a `Track` from a row with the keys `duration_in_s` and `split` and its metadata.

    `path` and `storage` are the track's, `where` names the row in errors.

    Raises:
        ValueError: an unknown split, or a duration or weight that is not a number greater than 0.
    """
    try:
        duration_in_s, weight = float(row["duration_in_s"]), float(row.get("weight", 1.0))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: duration_in_s and weight must be numbers: {error}") from error
    metadata = {key: value for key, value in row.items() if key not in RESERVED}
    track = Track(path, duration_in_s, row["split"], weight, metadata, storage)
    if track.split not in SPLITS:
        raise ValueError(f"{where}: split must be one of {', '.join(SPLITS)}, got {track.split!r}.")
    if not (track.duration_in_s > 0 and track.weight > 0):
        raise ValueError(
            f"{where}: duration_in_s and weight must be greater than 0, got {track.duration_in_s} and {track.weight}."
        )
    return track


def read_track(track: Track, start_in_s: float, duration_in_s: float | None, sampling_rate: int) -> torch.Tensor:
    """Reads `(2, num_samples)` of a track at `sampling_rate` Hz, from `start_in_s` on; only that part is read.

    Args:
        track: of one or two channels; mono is duplicated.
        start_in_s: in [0, the track's duration).
        duration_in_s: > 0; None reads to the end. Less is returned when the track ends earlier, which it does at most
            `DURATION_TOLERANCE_IN_S` after its own `duration_in_s`, although its file may go on.
        sampling_rate: Hz.

    Raises:
        BadTrackError: the track is broken, or shorter than its `duration_in_s`.
    """
    remaining_in_s = track.duration_in_s - start_in_s
    longest_in_s = remaining_in_s + DURATION_TOLERANCE_IN_S
    duration_in_s = longest_in_s if duration_in_s is None else min(duration_in_s, longest_in_s)
    expected_in_s = min(duration_in_s, remaining_in_s)
    try:
        with track.open() as file:
            waveform = to_stereo(read_audio(file, start_in_s, duration_in_s, sampling_rate)[0])
    except (ValueError, OSError) as error:
        found_in_s = _duration(track)
        if found_in_s is not None and found_in_s <= start_in_s:
            raise _too_long(track, found_in_s) from error
        raise BadTrackError(track.path, "broken", one_line(error)) from error
    if not waveform.isfinite().all():
        raise BadTrackError(track.path, "broken", "it holds samples that are not finite")
    found_in_s = waveform.shape[1] / sampling_rate
    if found_in_s < expected_in_s - DURATION_TOLERANCE_IN_S:
        raise _too_long(track, start_in_s + found_in_s)
    return waveform


def _duration(track: Track) -> float | None:
    """Seconds of a track as its file says, or None when it cannot be opened."""
    try:
        with track.open() as file:
            return read_info(file).duration_in_s
    except (ValueError, OSError):
        return None


def _too_long(track: Track, found_in_s: float) -> BadTrackError:
    """The exception for a duration that the file does not have."""
    return BadTrackError(
        track.path, "mislabelled", f"its metadata says {track.duration_in_s:.3f} s, its audio has {found_in_s:.3f} s"
    )
