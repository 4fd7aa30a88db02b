"""From what a source says about a recording to a `Track`, or to the reason why there is none.

The same rules for folders, CSV files, tars and datasets:

- metadata keys of other tools have our names, `FIELD_ALIASES`, unless our name is there too;
- a length that is not given, as `duration_in_s` in seconds, is that of the file's header;
- a split that is not given is drawn from the recording's name: one track in twenty is "valid", the others are "train".
"""

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stable_longform.data.bad_tracks import BadTrackError
from stable_longform.data.storage import Storage, open_audio
from stable_longform.data.tracks import SPLITS, Track, make_track
from stable_longform.utils.audio import read_info

AUDIO_EXTENSIONS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff")
FIELD_ALIASES = {
    "caption": "description",
    "text": "description",
    "tempo": "bpm",
    "genres": "genre",
    "mood": "moods",
    "instrument": "instruments",
}
SPLIT_ALIASES = {"training": "train", "validation": "valid", "val": "valid", "dev": "valid"}
LIST_FIELDS = ("genre", "moods", "instruments")  # whose values in a CSV cell are separated by semicolons
MIN_DURATION_IN_S = 0.5
VALID_SHARE = 0.05


Found = Track | BadTrackError


@dataclass(frozen=True)
class Recording:
    """A recording as its source has it: a unique path or name, how to read its metadata, and where the audio is."""

    path: Path
    read_row: Callable[[], Mapping]
    storage: Storage | None = None


def examine(recording: Recording) -> tuple[Track, bool] | BadTrackError:
    """Makes a `Track`, and says whether its split was given; or tells why the recording cannot be used."""
    try:
        row = rename_fields(recording.read_row())
    except (ValueError, OSError) as error:
        return BadTrackError(recording.path, "mislabelled", str(error))
    if row.get("duration_in_s") is None:
        try:
            with open_audio(recording.path, recording.storage) as file:
                info = read_info(file)
        except (ValueError, OSError) as error:
            return BadTrackError(recording.path, "broken", str(error))
        if info.channels > 2:
            return BadTrackError(recording.path, "broken", f"it has {info.channels} channels, 1 or 2 can be used")
        row["duration_in_s"] = info.duration_in_s
    is_given = bool(row.get("split"))
    row["split"] = to_split(row["split"]) if is_given else draw_split(recording.path.name)
    try:
        track = make_track(row, recording.path, "its metadata", recording.storage)
    except ValueError as error:
        kind = "too short" if row["duration_in_s"] == 0 else "mislabelled"
        return BadTrackError(recording.path, kind, str(error))
    if track.duration_in_s < MIN_DURATION_IN_S:
        return BadTrackError(
            recording.path, "too short", f"{track.duration_in_s:.3f} s are less than {MIN_DURATION_IN_S} s"
        )
    return track, is_given


def rename_fields(row: Mapping) -> dict:
    """A row under our names; empty values are dropped."""
    row = {key: value for key, value in row.items() if value is not None and value != "" and value != []}
    return {FIELD_ALIASES[key] if FIELD_ALIASES.get(key, key) not in row else key: value for key, value in row.items()}


def to_split(name: str) -> str:
    """Our name of a split that another tool may call otherwise; what is no such name stays as it is."""
    name = str(name).lower()
    return SPLIT_ALIASES.get(name, name)


def draw_split(name: str) -> str:
    """The split of a recording for which none is given: a function of its name alone."""
    return "valid" if split_hash(name) < VALID_SHARE else "train"


def split_hash(name: str) -> float:
    """A number in [0, 1) that only the name determines."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48


def folder_split(path: PurePosixPath) -> dict:
    """`{"split": ...}` when the first folder of a relative path is named like a split, else nothing."""
    split = to_split(path.parts[0]) if len(path.parts) > 1 else ""
    return {"split": split} if split in SPLITS else {}


def parse_sidecars(sidecars: Mapping[str, bytes]) -> dict:
    """Metadata from the contents of sidecar files by extension: a JSON object, and a text that is the description.

    Raises:
        ValueError: the JSON is none, or no object, or a text is not UTF-8.
    """
    row = {"description": sidecars[".txt"].decode("utf-8-sig").strip()} if ".txt" in sidecars else {}
    if ".json" in sidecars:
        try:
            fields = json.loads(sidecars[".json"])
        except ValueError as error:
            raise ValueError(f"its JSON cannot be read: {error}") from error
        if not isinstance(fields, dict):
            raise ValueError(f"its JSON must be an object, got {type(fields).__name__}")
        row |= fields
    return row


def read_sidecars(audio: Path) -> dict:
    """Metadata of the files beside an audio file that have its stem and the extension .json or .txt."""
    files = {extension: audio.with_suffix(extension) for extension in (".json", ".txt")}
    return parse_sidecars({extension: file.read_bytes() for extension, file in files.items() if file.is_file()})


def read_csv(path: Path) -> Iterator[Recording]:
    """Recordings of a CSV file with the column `path` or `file_name`, relative to its folder, and metadata columns.

    Raises:
        ValueError: there is no such column, or the file is not UTF-8.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        column = next((name for name in ("path", "file_name") if name in (reader.fieldnames or ())), None)
        if column is None:
            raise ValueError(f"{path} must have a column path or file_name, got {reader.fieldnames}.")
        for row in reader:
            yield Recording(path.parent / row.pop(column), lambda row=row: _parse_cells(row))


def _parse_cells(row: dict) -> dict:
    """A CSV row with lists where a cell holds one."""
    if None in row or None in row.values():
        raise ValueError("its line has another number of cells than the header")
    row = {key: value.strip() for key, value in row.items()}
    for key in row.keys() & {*LIST_FIELDS, *FIELD_ALIASES} - {"caption", "text", "tempo"}:
        row[key] = [part.strip() for part in row[key].split(";") if part.strip()]
    return row
