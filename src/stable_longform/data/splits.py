"""Splits of recordings into training and validation, if their source does not define them.

The split is a function of the recording's place in its source: one track in twenty is "valid", the others are "train".
A track keeps its split when others are added or removed, and when the source is moved.
"""

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from stable_longform.data.tracks import SPLITS, Track

SPLIT_ALIASES = {"training": "train", "validation": "valid", "val": "valid", "dev": "valid"}
VALID_SHARE = 0.05


def to_split(name: object) -> str:
    """Our name for a split of another tool; other values are returned unchanged."""
    name = str(name).strip().lower()
    return SPLIT_ALIASES.get(name, name)


def folder_split(path: PurePosixPath) -> dict:
    """`{"split": ...}` if the first folder of a relative path is named like a split, otherwise an empty dict."""
    split = to_split(path.parts[0]) if len(path.parts) > 1 else ""
    return {"split": split} if split in SPLITS else {}


def draw_split(place: str) -> str:
    """The split of a recording: a function of its place in its source, for example a path."""
    return "valid" if split_hash(place) < VALID_SHARE else "train"


def split_hash(place: str) -> float:
    """A number in [0, 1) that depends only on the place, not on the encoding of its accents."""
    data = unicodedata.normalize("NFC", place).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(data).digest()[:6], "big") / 2**48


def with_both_splits(tracks: Sequence[Track], places: Sequence[str | None]) -> list[Track]:
    """Ensures that at least one track is "valid" and one "train", by changing one of them if necessary.

    Args:
        tracks: of a source.
        places: from which the splits were drawn; None: the source defined the split, which is not changed.
    """
    tracks = list(tracks)
    drawn = sorted((split_hash(place), number) for number, place in enumerate(places) if place is not None)
    for split, other, candidates in (("valid", "train", drawn), ("train", "valid", drawn[::-1])):
        others = sum(track.split == other for track in tracks)
        if others > 1 and not any(track.split == split for track in tracks):
            number = next((number for _, number in candidates if tracks[number].split == other), None)
            if number is not None:
                tracks[number] = replace(tracks[number], split=split)
    return tracks
