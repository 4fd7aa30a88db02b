"""The manifest: one JSON object per line, one line per track.

Keys: `path` (relative to the manifest's folder, or absolute), `duration_in_s`, `split` ("train", "valid", "test" or
"extra"), and any known metadata: `title`, `artist`, `album`, `licence`, `genre`, `moods`, `instruments` (lists of
text), `bpm`, `key`, `description`. `weight` (default 1) scales how often a track is drawn in training. A track inside
an uncompressed tar has the path of the tar and its position in it: `member` (its name), `offset` and `num_bytes` (its
first byte and its size).
"""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from stable_longform.data.storage import TarMember
from stable_longform.data.tracks import SPLITS, WEIGHTS, Track, make_track
from stable_longform.utils.files import write_text
from stable_longform.utils.text_files import read_json_lines

SURROGATE = re.compile("[\ud800-\udfff]")  # in names that are not UTF-8


def read_manifest(path: str | os.PathLike, split: str | None = None) -> list[Track]:
    """Reads the tracks of a manifest, those of one split or all, in the file's order.

    Raises:
        ValueError: the file cannot be read, or has no track (in that split); or a line is not an object with `path`,
            `duration_in_s` and `split`, names the same track as another line, or has an unknown split, or a duration
            or weight that is out of range.
    """
    path = Path(path)
    if split is not None and split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}.")
    tracks: list[Track] = []
    places: dict[str, str] = {}
    for place, row in read_json_lines(path):
        track = _make_track(row, place, path.parent)
        name = os.path.normpath(track.path)
        if name in places:
            raise ValueError(f"{place} names the track of {places[name]} again: {row['path']}.")
        places[name] = place
        if split in (None, track.split):
            tracks.append(track)
    if not tracks:
        raise ValueError(f"{path} has no track" + (f" in split {split!r}." if split else "."))
    return tracks


def write_manifest(path: str | os.PathLike, tracks: Iterable[Track]) -> None:
    """Writes a manifest of tracks; paths below its folder are relative.

    Raises:
        ValueError: a track is a row of a dataset or in memory, which a manifest cannot represent.
    """
    rows = [manifest_row(track, Path(path).parent) for track in tracks]
    write_text(path, "".join(f"{_dump(row)}\n" for row in rows))


def mix_manifests(shares: Mapping[Path, float]) -> list[Track]:
    """Combines manifests so that each gets its share of the training.

    Args:
        shares: of each manifest, > 0; only their proportions count. The weights of a manifest's tracks are scaled so
            that the weighted duration of its training tracks is this share of the total.

    Raises:
        ValueError: a share is not greater than 0 or too small beside the others, a manifest cannot be read or has no
            training track, or a track is in two of them.
    """
    for path, share in shares.items():
        if not 0 < share < math.inf:
            raise ValueError(f"The share of {path} must be greater than 0 and finite, got {share:g}.")
    tracks = {path: read_manifest(path) for path in shares}
    counts = Counter(track.path.absolute() for manifest_tracks in tracks.values() for track in manifest_tracks)
    (most_common, count), *_ = counts.most_common(1)
    if count > 1:
        raise ValueError(f"{most_common} is in {count} of the manifests.")
    weighted = {path: sum(t.weight * t.duration_in_s for t in read_manifest(path, "train")) for path in shares}
    total, scale = sum(shares.values()), sum(weighted.values())
    mixed = []
    for path, share in shares.items():
        factor = share / total * scale / weighted[path]
        for track in tracks[path]:
            weight = track.weight * factor
            if weight not in WEIGHTS:
                raise ValueError(
                    f"With the share {share:g} of {path}, a track has the weight {weight:g}; it must be {WEIGHTS}."
                )
            mixed.append(replace(track, weight=weight))
    return mixed


def manifest_row(track: Track, folder: Path) -> dict:
    """A track's row in a manifest in `folder`; paths below the folder are relative.

    Raises:
        ValueError: the track is a row of a dataset or in memory, which a manifest cannot represent.
    """
    if not isinstance(track.storage, TarMember | None):
        raise ValueError(f"{track.path} is not a file: a manifest lists files, and files inside tars.")
    storage = track.storage
    path, folder = (track.path if storage is None else storage.tar).absolute(), folder.absolute()
    row: dict[str, object] = {"path": (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()}
    row |= {"duration_in_s": track.duration_in_s, "split": track.split, "weight": track.weight}
    if storage is not None:
        row |= {"member": track.path.relative_to(storage.tar).as_posix()}
        row |= {"offset": storage.offset, "num_bytes": storage.num_bytes}
    return row | track.metadata


def _dump(row: dict) -> str:
    """A row as JSON; bytes of names that are not UTF-8 are escaped as surrogates, which can be read back."""
    text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    return SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _is_file_name(value: object) -> bool:
    """Whether a value can be the name of a file."""
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    try:
        return bool(os.fsencode(value))
    except UnicodeEncodeError:
        return False


def _make_track(row: dict, place: str, folder: Path) -> Track:
    """Builds a `Track` from a row of a manifest; `place` names it in errors."""
    missing = [key for key in ("path", "duration_in_s", "split") if key not in row]
    if "member" in row:
        missing += [key for key in ("offset", "num_bytes") if key not in row]
    if missing:
        raise ValueError(f"{place}: missing {', '.join(missing)}.")
    for key in ("path", "member"):
        if key in row and not _is_file_name(row[key]):
            raise ValueError(f"{place}: {key} must be the name of a file, got {row[key]!r:.40}.")
    path, storage = folder / row["path"], None
    if "member" in row:
        for key, least in (("offset", 0), ("num_bytes", 1)):
            if type(row[key]) is not int or not least <= row[key] < 2**63:
                raise ValueError(f"{place}: {key} must be a whole number of bytes from {least}, got {row[key]!r:.40}.")
        path, storage = path / row["member"], TarMember(path, row["offset"], row["num_bytes"])
    return make_track(row, path, place, storage)
