"""Opens any source of music by its name. `docs/data.md` describes the formats.

| source | what it is | read by |
|---|---|---|
| `music/` | a folder of audio files, with metadata beside each (`song.json`, `song.txt`) | `folders.py` |
| `music.csv`, `music/metadata.csv` | one row for each file | `tables.py` |
| `music.jsonl` | a manifest | `manifest.py` |
| `shards/{000..099}.tar` | WebDataset tars on this machine, read in place | `tars.py` |
| `dataset/` | a folder that Hugging Face `datasets` saved, or of parquet files | `hub_datasets.py` |
| `owner/name`, `owner/name:configuration` | a dataset of the Hub, downloaded | `hub_datasets.py` |
| `https://.../{000..099}.tar`, `pipe:...` | WebDataset tars elsewhere, read from start to end | `tars.py` |
| `stream:SOURCE` | the same for a dataset or tars that should not be downloaded or searched | |
| `composed:0..399` | music composed from these seeds and rendered when needed | `composed_music.py` |

All but the last three are listed: a `ListedSource` knows its tracks and can read any part of them at any time. The
others are streams: a `StreamedSource` is read from start to end. `Source` is what both can do.

To add a kind of source, write a function that returns its recordings, or its shards, in a new file, and call it in
`_find_recordings` or `open_source`.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from stable_longform.data.bad_tracks import IGNORED_KINDS, MAX_BAD_FRACTION, BadTrackError, BadTracks
from stable_longform.data.composed_music import COMPOSED_PREFIX, open_composed
from stable_longform.data.folders import search_folder
from stable_longform.data.hub_datasets import (
    DATASET_ID,
    DatasetShards,
    empty_files,
    is_dataset_folder,
    list_dataset,
    load_datasets,
)
from stable_longform.data.listed_source import ListedSource
from stable_longform.data.manifest import read_manifest
from stable_longform.data.numbered_items import MakeItem, NumberedItems
from stable_longform.data.recordings import Found, Recording, examine
from stable_longform.data.splits import with_both_splits
from stable_longform.data.streams import MakeItems, Shards, StreamedSource, StreamItems
from stable_longform.data.tables import read_csv
from stable_longform.data.tars import TarShards, expand_tars, index_tars, is_remote, is_tars
from stable_longform.data.tracks import SPLITS, Track
from stable_longform.utils.ranges import Range

logger = logging.getLogger(__name__)

STREAM_PREFIX = "stream:"
CSV_NAME = "metadata.csv"
NUM_THREADS = 8  # for reading headers
NUM_NAMED = 10  # values in a message


class Source(Protocol):
    """Tracks of music, and items made from them. A source counts its unusable tracks and limits their share itself.

    `ListedSource` knows its tracks; `StreamedSource` reads them from start to end.

    Attributes:
        tracks: those that are known; none for a stream.
        left_out: errors of the files that are not among the tracks; none for a stream.
        bad_tracks: counts the unusable tracks, and raises TooManyBadTracks if their share is too large.
    """

    tracks: Sequence[Track]
    left_out: Sequence[BadTrackError]
    bad_tracks: BadTracks

    def of_split(self, split: str) -> "Source":
        """The part of one split; both sources count unusable tracks together.

        Raises:
            ValueError: there is no track in it.
        """

    def with_prompts(self) -> "Source":
        """The part with metadata for prompts."""

    def found(self) -> Iterator[Found]:
        """All tracks, and the errors of unusable files."""

    def items(
        self,
        make_item: MakeItems,
        seed: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
        is_weighted_by_duration: bool = True,
        batch_size: int | None = None,
    ) -> NumberedItems | StreamItems:
        """An endless sequence of items of random tracks.

        Args:
            make_item: makes an item from a track.
            seed: of the whole sequence.
            process_index: only for streams: number of this process.
            num_processes: only for streams: number of processes.
            is_weighted_by_duration: only for lists: whether tracks are drawn in proportion to weight times duration.
                If not, they are drawn in proportion to weight, for items that use most of a track.
            batch_size: only for lists, of all processes together. If it is given, weights are ignored: each track is
                used once in an epoch, and no batch contains a track twice.

        Raises:
            ValueError: there are no tracks, or fewer than `batch_size`.
        """

    def sample(self, make_item: MakeItem, count: int, seed: int) -> list[dict]:
        """Items of at most `count` different tracks."""

    def share(
        self,
        process_index: int = 0,
        num_processes: int = 1,
        max_tracks: int | None = None,
        is_wanted: Callable[[Track], bool] = lambda track: True,
    ) -> Iterable[Track]:
        """This process's share of the tracks, each of them once. `bad_tracks.usable` reads them.

        Args:
            process_index: number of this process, in [0, num_processes).
            num_processes: number of processes that share the tracks.
            max_tracks: number of tracks for all processes together, the same in every run.
            is_wanted: whether to take a track at all.
        """

    def state_dict(self) -> dict:
        """The position of the latest items, for all processes; every process must call this."""

    def load_state_dict(self, state: dict) -> None:
        """Makes the latest items continue at the position in `state_dict`.

        Raises:
            ValueError: it is from another number of processes, or from a source of another kind.
        """


def open_source(
    name: str | os.PathLike, split: str | None = None, max_bad_fraction: float = MAX_BAD_FRACTION
) -> Source:
    """Opens a source of music, one split or all.

    Unusable recordings are left out, counted and named in the log. With a manifest, and whenever the metadata has the
    duration of a recording, the file is not opened here, so errors show only when it is read.

    Args:
        name: see the table above.
        split: "train", "valid", "test" or "extra"; None: all.
        max_bad_fraction: share of the recordings that may be unusable, in [0, 1], now or when they are read.

    Raises:
        ValueError: there is no such source, it is damaged, it has no track in that split, or `split` is unknown.
        TooManyBadTracks: the share of unusable recordings is larger than `max_bad_fraction`.
    """
    if split is not None and split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}.")
    if max_bad_fraction not in Range(0, 1):
        raise ValueError(f"max_bad_fraction must be in [0, 1], got {max_bad_fraction!r}.")
    name = os.fspath(name)
    if not name.removeprefix(STREAM_PREFIX).strip():
        raise ValueError(f"A source must have a name, got {name!r}.")
    source: Source
    if is_stream(name):
        source = StreamedSource(_find_shards(name), None, max_bad_fraction)
    elif Path(name).suffix == ".jsonl" and Path(name).is_file():
        source = ListedSource(read_manifest(name), max_bad_fraction, name=name)
    else:
        recordings = list(_find_recordings(name, max_bad_fraction))
        if all(isinstance(each, BadTrackError) and each.kind in IGNORED_KINDS for each in recordings):
            raise ValueError(f"{name} holds no audio.")
        tracks, left_out = _examine(recordings)
        source = ListedSource(tracks, max_bad_fraction, left_out, name)
        _log_what_is_missing(source)
    return source if split is None else source.of_split(split)


def is_stream(name: str) -> bool:
    """Whether a source is read from start to end instead of being listed."""
    return name.startswith((STREAM_PREFIX, COMPOSED_PREFIX)) or (is_remote(name) and is_tars(name))


def _find_shards(name: str) -> Shards:
    """The shards of a stream: tars, a dataset, or composed music.

    Raises:
        ValueError: there is no such source.
    """
    name = name.removeprefix(STREAM_PREFIX)
    if name.startswith(COMPOSED_PREFIX):
        return open_composed(name)
    if is_tars(name):
        return TarShards(tuple(expand_tars(name)))
    datasets = load_datasets(name, is_streaming=True)
    return DatasetShards(name, tuple(datasets.items()), split_by_source=set(datasets) != {"train"})


def _examine(recordings: Sequence[Recording | BadTrackError]) -> tuple[list[Track], list[BadTrackError]]:
    """The tracks of the usable recordings, each with a split, and the errors of the others."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        examined = list(pool.map(examine, recordings))
    left_out = [result for result in examined if isinstance(result, BadTrackError)]
    tracks, places = [], []
    for recording, result in zip(recordings, examined, strict=True):
        if not isinstance(result, BadTrackError) and not isinstance(recording, BadTrackError):
            track, is_given = result
            tracks.append(track)
            places.append(None if is_given else recording.place)
    return with_both_splits(tracks, places), left_out


def _log_what_is_missing(source: ListedSource) -> None:
    """Logs how much of a source is left out; the files were named before."""
    if source.left_out:
        total = len(source.tracks) + len(source.left_out)
        logger.warning(
            "%s: %d of %d files left out: %s", source.name, len(source.left_out), total, source.bad_tracks.summary()
        )
    values = Counter(value for track in source.tracks for value in track.left_out)
    if values:
        most = ", ".join(f"{value} ({count})" for value, count in values.most_common(NUM_NAMED))
        logger.warning("%s: %d values of the metadata left out: %s", source.name, values.total(), most)


def _find_recordings(name: str, max_bad_fraction: float) -> Iterable[Recording | BadTrackError]:
    """The recordings, and errors of unusable ones, of a source that is neither a manifest nor a stream; all splits.

    Raises:
        ValueError: there is no such source, or it is damaged.
        TooManyBadTracks: the share of missing or damaged tars is larger than `max_bad_fraction`.
    """
    path = Path(name)
    if path.suffix == ".csv" and path.is_file():
        return read_csv(path)
    if is_tars(name):
        tars = expand_tars(name)
        return index_tars(tars, BadTracks(len(tars), max_bad_fraction, "tars"))
    if path.is_dir() and not is_dataset_folder(path):
        table = path / CSV_NAME
        return read_csv(table) if table.is_file() else search_folder(path)
    if path.is_dir() or (not path.exists() and re.fullmatch(DATASET_ID, name)):
        datasets = load_datasets(name, is_streaming=False)
        is_divided = set(datasets) != {"train"}
        recordings: list[Recording | BadTrackError] = [
            recording
            for key, dataset in datasets.items()
            for recording in list_dataset(name, key, dataset, {"split": key} if is_divided else {})
        ]
        return [*empty_files(path), *recordings]
    raise ValueError(f"{name} is not a source of music: no folder, .jsonl, .csv, .tar or dataset of that name.")
