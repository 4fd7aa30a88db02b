"""The manifest: one JSON object per line, one line per track.

Keys: `path` (relative to the manifest's folder, or absolute), `duration_in_s`, `split` ("train", "valid", "test" or
"extra"), and whatever metadata is known: `title`, `artist`, `album`, `licence`, `genre`, `moods`, `instruments` (lists
of text), `bpm`, `description`. `weight` (default 1) scales how often a track is drawn in training. A track inside an
uncompressed tar has that tar's path and its own place there: `member` (its name), `offset` and `num_bytes` (its first
byte and its size).
"""

import json
import os
from pathlib import Path

from stable_longform.data.storage import TarMember
from stable_longform.data.tracks import SPLITS, Track, make_track


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
            track = _parse_line(line, f"{path}:{number}", path.parent)
            if split in (None, track.split):
                tracks.append(track)
    if not tracks:
        raise ValueError(f"{path} has no track" + (f" in split {split!r}." if split else "."))
    return tracks


def manifest_row(track: Track, folder: Path) -> dict:
    """A track's row in a manifest that lies in `folder`, below which paths are relative.

    Raises:
        ValueError: the track is a row of a dataset or in memory, which a manifest cannot say.
    """
    if not isinstance(track.storage, TarMember | None):
        raise ValueError(f"{track.path} is not a file: a manifest lists files, and files inside tars.")
    row = {"path": track.path, "duration_in_s": track.duration_in_s, "split": track.split, "weight": track.weight}
    if track.storage is not None:
        storage = track.storage
        row |= {"path": storage.tar, "member": track.path.relative_to(storage.tar).as_posix()}
        row |= {"offset": storage.offset, "num_bytes": storage.num_bytes}
    path, folder = row["path"].absolute(), folder.absolute()
    row["path"] = (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()
    return row | track.metadata


def _parse_line(line: str, where: str, folder: Path) -> Track:
    """Builds a `Track` from a line of a manifest; `where` names it in errors."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    missing = [key for key in ("path", "duration_in_s", "split") if key not in row]
    if "member" in row:
        missing += [key for key in ("offset", "num_bytes") if key not in row]
    if missing:
        raise ValueError(f"{where}: missing {', '.join(missing)}.")
    path, storage = folder / row["path"], None
    if "member" in row:
        path, storage = path / row["member"], TarMember(path, row["offset"], row["num_bytes"])
    return make_track(row, path, where, storage)
