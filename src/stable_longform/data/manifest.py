"""The manifest: one JSON object per line, one line per track.

Keys: `path` (relative to the manifest's folder, or absolute), `duration_in_s`, `split` ("train", "valid", "test" or
"extra"), and whatever metadata is known: `title`, `artist`, `album`, `licence`, `genre`, `moods`, `instruments` (lists
of text), `bpm`, `description`. `weight` (default 1) scales how often a track is drawn in training.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SPLITS = ("train", "valid", "test", "extra")


@dataclass(frozen=True)
class Track:
    """One recording: its file, length in seconds, split, sampling weight and descriptive metadata."""

    path: Path
    duration_in_s: float
    split: str
    weight: float = 1.0
    metadata: dict = field(default_factory=dict)


def read_manifest(path: str | os.PathLike, split: str | None = None) -> list[Track]:
    """Reads the tracks of a manifest, those of one split or all, in the file's order.

    Raises:
        ValueError: a line without `path`, `duration_in_s` or `split`, an unknown split, a duration or weight that is
            not positive, or no track left.
    """
    path = Path(path)
    if split is not None and split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}.")
    tracks = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            track = _parse_track(json.loads(line), f"{path}:{number}", path.parent)
            if split in (None, track.split):
                tracks.append(track)
    if not tracks:
        raise ValueError(f"{path} has no track" + (f" in split {split!r}." if split else "."))
    return tracks


def draw_index(weights: Sequence[float], rng: np.random.Generator) -> int:
    """Draws a position in proportion to its weight (> 0)."""
    cumulative = np.cumsum(weights)
    return min(int(np.searchsorted(cumulative, rng.random() * cumulative[-1])), len(weights) - 1)


def _parse_track(row: dict, where: str, folder: Path) -> Track:
    """Builds a `Track` from a manifest row; `where` names the line in errors."""
    missing = [key for key in ("path", "duration_in_s", "split") if key not in row]
    if missing:
        raise ValueError(f"{where}: missing {', '.join(missing)}.")
    metadata = {key: value for key, value in row.items() if key not in ("path", "duration_in_s", "split", "weight")}
    track = Track(folder / row["path"], float(row["duration_in_s"]), row["split"], row.get("weight", 1.0), metadata)
    if track.split not in SPLITS:
        raise ValueError(f"{where}: split must be one of {', '.join(SPLITS)}, got {track.split!r}.")
    if not (track.duration_in_s > 0 and track.weight > 0):
        raise ValueError(
            f"{where}: duration_in_s and weight must be greater than 0, got {track.duration_in_s} and {track.weight}."
        )
    return track
