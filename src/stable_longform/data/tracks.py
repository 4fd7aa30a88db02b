"""A track: one recording of a source of music, and how its audio is read."""

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch

from stable_longform.data.bad_tracks import BadTrackError, one_line
from stable_longform.data.metadata import clean
from stable_longform.data.storage import Storage, open_audio
from stable_longform.utils.audio import AudioInfo, read_audio, read_info, to_stereo
from stable_longform.utils.ranges import Range
from stable_longform.utils.timecodes import SECONDS

SPLITS = ("train", "valid", "test", "extra")
RESERVED = ("path", "duration_in_s", "split", "weight", "member", "offset", "num_bytes")  # keys that are not metadata
WEIGHTS = Range(1e-9, 1e9)  # of which sums are still exact enough to draw from
DURATION_TOLERANCE_IN_S = 0.1  # by which a file's duration may differ from its metadata


@dataclass(frozen=True)
class Track:
    """One recording: its file, length in seconds, split, sampling weight and descriptive metadata.

    Without `storage`, `path` is an audio file. With it, the audio is in the storage, and `path` is a name that is
    unique in the source. `left_out` are values of the metadata that are neither text nor numbers, see
    `stable_longform.data.metadata.clean`.
    """

    path: Path
    duration_in_s: float
    split: str
    weight: float = 1.0
    metadata: dict = field(default_factory=dict)
    storage: Storage | None = None
    left_out: tuple[str, ...] = field(default=(), compare=False)

    def open(self) -> contextlib.AbstractContextManager[Path | BinaryIO]:
        """The input of `read_audio`: the path, or a binary file that is closed at the end of a `with` block."""
        return open_audio(self.path, self.storage)


def make_track(row: Mapping, path: Path, where: str, storage: Storage | None = None) -> Track:
    """Builds a `Track` from a row with the keys `duration_in_s` and `split` and its metadata.

    `path` and `storage` belong to the track; `where` names the row in errors.

    Raises:
        ValueError: the split is unknown, or the duration or weight is not a number in `SECONDS` or `WEIGHTS`.
    """
    duration_in_s = positive_number(row, "duration_in_s", where)
    if duration_in_s not in SECONDS:
        raise ValueError(f"{where}: duration_in_s must be {SECONDS}, got {duration_in_s:g}.")
    weight = positive_number(row, "weight", where) if "weight" in row else 1.0
    if weight not in WEIGHTS:
        raise ValueError(f"{where}: weight must be {WEIGHTS}, got {weight:g}.")
    if row["split"] not in SPLITS:
        raise ValueError(f"{where}: split must be one of {', '.join(SPLITS)}, got {row['split']!r}.")
    metadata, left_out = clean({key: value for key, value in row.items() if key not in RESERVED})
    return Track(path, duration_in_s, row["split"], weight, metadata, storage, left_out)


def positive_number(row: Mapping, name: str, where: str) -> float:
    """Reads a number from a row, where it may be text; `where` names the row in errors.

    Raises:
        ValueError: it is not a finite number greater than 0.
    """
    try:
        number = math.nan if isinstance(row[name], bool) else float(row[name])
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"{where}: {name} must be a number greater than 0 and finite, got {row[name]!r:.40}.")
    return number


def check_audio(path: Path, storage: Storage | None = None) -> AudioInfo:
    """Reads the length and the format of a recording's audio.

    Raises:
        BadTrackError: it cannot be decoded, is cut off, or has more than two channels.
    """
    try:
        with open_audio(path, storage) as file:
            info = read_info(file)
    except (ValueError, OSError) as error:
        raise BadTrackError(path, "broken", one_line(error)) from error
    if info.loss is not None:
        raise BadTrackError(path, "broken", f"cut off: {info.loss}")
    if info.channels > 2:
        raise BadTrackError(path, "broken", f"it has {info.channels} channels, 1 or 2 can be used")
    return info


def read_track(track: Track, start_in_s: float, duration_in_s: float | None, sampling_rate: int) -> torch.Tensor:
    """Reads `(2, num_samples)` of a track at `sampling_rate` Hz, from `start_in_s` on; only that part is read.

    Args:
        track: of one or two channels; mono is duplicated.
        start_in_s: in [0, the track's duration).
        duration_in_s: > 0; None reads to the end. The result is shorter if the track ends earlier. A track ends at
            most `DURATION_TOLERANCE_IN_S` after its own `duration_in_s`, even if its file is longer.
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
        raise BadTrackError(track.path, "broken", "it contains non-finite samples")
    found_in_s = waveform.shape[1] / sampling_rate
    if found_in_s < expected_in_s - DURATION_TOLERANCE_IN_S:
        raise _too_long(track, start_in_s + found_in_s)
    return waveform


def _duration(track: Track) -> float | None:
    """The duration of a track's file in seconds, or None if it cannot be opened."""
    try:
        with track.open() as file:
            return read_info(file).duration_in_s
    except (ValueError, OSError):
        return None


def _too_long(track: Track, found_in_s: float) -> BadTrackError:
    """The exception for a duration that is longer than the file."""
    return BadTrackError(
        track.path, "mislabelled", f"it is listed with {track.duration_in_s:.3f} s, its audio has {found_in_s:.3f} s"
    )
