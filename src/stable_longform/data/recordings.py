"""Makes a `Track` from a source's information about a recording, or explains why the recording is unusable.

The same rules apply to folders, tables, tars and datasets:

- fields of the metadata get our names (`stable_longform.data.metadata`);
- if `duration_in_s` is not given, it is read from the file;
- if the split is not given, it is drawn (`stable_longform.data.splits`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stable_longform.data.bad_tracks import BadTrackError, one_line
from stable_longform.data.metadata import is_nothing, rename_fields
from stable_longform.data.splits import draw_split, to_split
from stable_longform.data.storage import Storage
from stable_longform.data.tracks import RESERVED, Track, check_audio, make_track, positive_number

MIN_DURATION_IN_S = 0.5

Found = Track | BadTrackError


@dataclass(frozen=True)
class Recording:
    """A recording as described by its source.

    Args:
        path: a unique path or name.
        place: its path relative to its source.
        read_row: returns its metadata.
        storage: where the audio is, if not in a file at `path`.
    """

    path: Path
    place: str
    read_row: Callable[[], Mapping]
    storage: Storage | None = None


def examine(found: Recording | BadTrackError) -> tuple[Track, bool] | BadTrackError:
    """Makes a `Track`, with whether its split was given; or returns the reason why the recording is unusable."""
    if isinstance(found, BadTrackError):
        return found
    try:
        return _make_track(found)
    except BadTrackError as error:
        return error
    except (ValueError, OSError) as error:
        return BadTrackError(found.path, "mislabelled", one_line(error))


def _make_track(recording: Recording) -> tuple[Track, bool]:
    """Makes a `Track`, with whether its split was given.

    Raises:
        BadTrackError: the audio is unusable.
        ValueError: the metadata is invalid.
        OSError: the metadata cannot be read.
    """
    row = rename_fields(recording.read_row())
    row = {key: value for key, value in row.items() if not (key in RESERVED and is_nothing(value))}
    if "duration_in_s" in row:
        duration_in_s = positive_number(row, "duration_in_s", "its metadata")
    else:
        duration_in_s = check_audio(recording.path, recording.storage).duration_in_s
    if duration_in_s < MIN_DURATION_IN_S:
        raise BadTrackError(recording.path, "too short", f"{duration_in_s:.3f} s are less than {MIN_DURATION_IN_S} s")
    is_given = "split" in row
    row["split"] = to_split(row["split"]) if is_given else draw_split(recording.place)
    row["duration_in_s"] = duration_in_s
    return make_track(row, recording.path, "its metadata", recording.storage), is_given
