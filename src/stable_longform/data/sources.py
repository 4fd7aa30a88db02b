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
others are streams: `stable_longform.data.streams.StreamedSource`. Both return items of their tracks in the same way,
count unusable tracks, and stop if there are too many.

To add a kind of source, write a function that returns its recordings, or its shards, in a new file, and call it in
`_find_recordings` or `open_source`.
"""

import copy
import logging
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stable_longform.data.bad_tracks import KINDS, MAX_BAD_FRACTION, BadTrackError, BadTracks
from stable_longform.data.composed_music import COMPOSED_PREFIX, open_composed
from stable_longform.data.folders import search_folder
from stable_longform.data.hub_datasets import DATASET_ID, DatasetShards, is_dataset_folder, list_dataset, load_datasets
from stable_longform.data.manifest import read_manifest
from stable_longform.data.numbered_items import EpochItems, MakeItem, NumberedItems, WeightedItems
from stable_longform.data.prompts import prompt_fields
from stable_longform.data.recordings import Found, Recording, examine
from stable_longform.data.splits import with_both_splits
from stable_longform.data.streams import StreamedSource
from stable_longform.data.tables import read_csv
from stable_longform.data.tars import TarShards, expand_tars, index_tars, is_remote, is_tars
from stable_longform.data.tracks import SPLITS, Track
from stable_longform.utils.ranges import Range

logger = logging.getLogger(__name__)

STREAM_PREFIX = "stream:"
CSV_NAME = "metadata.csv"
NUM_THREADS = 8  # for reading headers
NUM_NAMED = 10  # values in a message


class ListedSource:
    """A source whose tracks are known.

    Args:
        tracks: at least one is needed for items.
        max_bad_fraction: share of the tracks, including those in `left_out`, that may be unusable.
        left_out: errors of the files that are not among the tracks.
        name: of the source, for messages.

    Raises:
        ValueError: `max_bad_fraction` is outside [0, 1].
        TooManyBadTracks: the share of unusable tracks is larger.
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        max_bad_fraction: float = MAX_BAD_FRACTION,
        left_out: Sequence[BadTrackError] = (),
        name: str = "The source",
    ):
        self.tracks, self.left_out, self.name = tracks, left_out, name
        num_bad = sum(error.kind in KINDS for error in left_out)
        self.bad_tracks = BadTracks(len(tracks) + num_bad, max_bad_fraction)
        for error in left_out:
            self.bad_tracks.note(error)

    def of_split(self, split: str) -> "ListedSource":
        """The part of one split; both sources count unusable tracks together.

        Raises:
            ValueError: there is no track in it.
        """
        tracks = [track for track in self.tracks if track.split == split]
        if not tracks:
            raise ValueError(f"{self.name} has no track in split {split!r}.")
        return self._part(tracks)

    def with_prompts(self) -> "ListedSource":
        """The part with metadata for prompts; the number of tracks left out is logged."""
        tracks = [track for track in self.tracks if prompt_fields(track.metadata)]
        if len(tracks) < len(self.tracks):
            missing = len(self.tracks) - len(tracks)
            logger.warning("%d of %d tracks have no metadata for a prompt.", missing, len(self.tracks))
        return self._part(tracks)

    def found(self) -> Iterator[Found]:
        """The errors of unusable files, and all tracks."""
        yield from self.left_out
        yield from self.tracks

    def items(
        self,
        make_item: MakeItem,
        seed: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
        is_weighted_by_duration: bool = True,
        batch_size: int | None = None,
    ) -> NumberedItems:
        """An endless sequence of items of random tracks. It is the same in all processes, which share it by number.

        Args:
            make_item: makes an item from a track.
            seed: of the whole sequence.
            process_index: only for streams: number of this process.
            num_processes: only for streams: number of processes.
            is_weighted_by_duration: whether tracks are drawn in proportion to weight times duration. If not, they are
                drawn in proportion to weight, for items that use most of a track.
            batch_size: of all processes together. If it is given, weights are ignored: each track is used once in an
                epoch, and no batch contains a track twice.

        Raises:
            ValueError: there are no tracks, or fewer than `batch_size`.
        """
        if not self.tracks:
            raise ValueError(f"{self.name} has no usable track.")
        if batch_size is not None:
            return EpochItems(self.tracks, make_item, seed, self.bad_tracks, batch_size)
        lengths = [track.duration_in_s if is_weighted_by_duration else 1.0 for track in self.tracks]
        weights = [track.weight * length for track, length in zip(self.tracks, lengths, strict=True)]
        return WeightedItems(self.tracks, make_item, seed, self.bad_tracks, weights)

    def sample(self, make_item: MakeItem, count: int, seed: int) -> list[dict]:
        """Items of at most `count` different tracks drawn at random."""
        count = min(count, len(self.tracks))
        return self.items(make_item, seed, batch_size=count).take(count)

    def share(
        self,
        process_index: int = 0,
        num_processes: int = 1,
        max_tracks: int | None = None,
        is_wanted: Callable[[Track], bool] = lambda track: True,
    ) -> Sequence[Track]:
        """This process's share of the tracks, each of them once. `bad_tracks.usable` reads them.

        Args:
            process_index: number of this process, in [0, num_processes).
            num_processes: number of processes that share the tracks.
            max_tracks: number of tracks for all processes together; drawn at random, the same in every run.
            is_wanted: whether to take a track at all.
        """
        tracks = self.tracks
        if max_tracks is not None and max_tracks < len(tracks):
            tracks = random.Random(0).sample(tracks, max_tracks)
        return list(filter(is_wanted, tracks))[process_index::num_processes]

    def state_dict(self) -> dict:
        """An empty state: an item depends only on its number. Streams, in contrast, have a position to save."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Checks that a checkpoint is not from a stream.

        Raises:
            ValueError: it is from a stream.
        """
        if state:
            raise ValueError("The checkpoint stores a position in a stream: it belongs to another source.")

    def _part(self, tracks: Sequence[Track]) -> "ListedSource":
        """This source with some of its tracks."""
        part = copy.copy(self)
        part.tracks = tracks
        return part


Source = ListedSource | StreamedSource


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
    source = _open_stream(name, max_bad_fraction) if is_stream(name) else _open_list(name, max_bad_fraction)
    return source if split is None else source.of_split(split)


def is_stream(name: str) -> bool:
    """Whether a source is read from start to end instead of being listed."""
    return name.startswith((STREAM_PREFIX, COMPOSED_PREFIX)) or (is_remote(name) and is_tars(name))


def _open_stream(name: str, max_bad_fraction: float) -> StreamedSource:
    """Opens tars, a dataset or composed music to be read from start to end.

    Raises:
        ValueError: there is no such source.
    """
    name = name.removeprefix(STREAM_PREFIX)
    if name.startswith(COMPOSED_PREFIX):
        return StreamedSource(open_composed(name), None, max_bad_fraction)
    if is_tars(name):
        return StreamedSource(TarShards(tuple(expand_tars(name))), None, max_bad_fraction)
    datasets = load_datasets(name, is_streaming=True)
    shards = DatasetShards(name, tuple(datasets.items()), split_by_source=set(datasets) != {"train"})
    return StreamedSource(shards, None, max_bad_fraction)


def _open_list(name: str, max_bad_fraction: float) -> ListedSource:
    """Lists a source.

    Raises:
        ValueError: there is no such source, it is damaged, or it holds no audio.
        TooManyBadTracks: the share of unusable recordings or tars is larger than `max_bad_fraction`.
    """
    path = Path(name)
    if path.suffix == ".jsonl" and path.is_file():
        return ListedSource(read_manifest(path), max_bad_fraction, name=name)
    found = list(_find_recordings(name, max_bad_fraction))
    if not found:
        raise ValueError(f"{name} holds no audio.")
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        examined = list(pool.map(examine, found))
    left_out = [result for result in examined if isinstance(result, BadTrackError)]
    tracks, places = [], []
    for recording, result in zip(found, examined, strict=True):
        if not isinstance(result, BadTrackError) and not isinstance(recording, BadTrackError):
            track, is_given = result
            tracks.append(track)
            places.append(None if is_given else recording.place)
    source = ListedSource(with_both_splits(tracks, places), max_bad_fraction, left_out, name)
    _log_what_is_missing(source)
    return source


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
        return index_tars(expand_tars(name), max_bad_fraction)
    if path.is_dir() and not is_dataset_folder(path):
        table = path / CSV_NAME
        return read_csv(table) if table.is_file() else search_folder(path)
    if path.is_dir() or (not path.exists() and re.fullmatch(DATASET_ID, name)):
        datasets = load_datasets(name, is_streaming=False)
        is_divided = set(datasets) != {"train"}
        return [
            recording
            for key, dataset in datasets.items()
            for recording in list_dataset(name, key, dataset, {"split": key} if is_divided else {})
        ]
    raise ValueError(f"{name} is not a source of music: no folder, .jsonl, .csv, .tar or dataset of that name.")
