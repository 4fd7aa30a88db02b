"""Tracks that come one after the other: WebDataset tars and Hugging Face datasets that are read from start to end.

A `TrackStream` has shards, each read in order; a track's whole encoded audio is in memory while crops are made of it.
`StreamItems` deals the shards out to the consumers (the data loader's workers of all processes): in every epoch each
track goes to exactly one of them. With fewer shards than consumers every consumer reads all shards and takes its share
of the tracks. The order is random: the shards anew in every epoch, then the items within blocks of `shuffle_tracks`
tracks. What is made of a track depends on the seed, the epoch, the shard and the place in it alone.

`StreamItems.state_dict` is the place reached. The loader of `StreamItems.make_loader` asks every worker for it;
`StreamItems.register` has it saved with accelerate's checkpoints, so that a resumed run goes on with the next item.
"""

import copy
import itertools
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from accelerate import Accelerator

from stable_longform.data.bad_tracks import MAX_BAD_FRACTION, BadTrackError, BadTracks, DataError
from stable_longform.data.manifest import Track
from stable_longform.data.records import AUDIO_EXTENSIONS, Record, examine, parse_sidecars
from stable_longform.data.storage import InMemory
from stable_longform.utils.optional import require

Found = Track | BadTrackError
MAX_EMPTY_EPOCHS = 20  # in a row, of a worker whose shards change with the epoch; else one is enough


@dataclass(frozen=True)
class TarStream:
    """WebDataset tars, one shard each: files of one name up to the first dot belong together.

    `tars` are paths or what `webdataset` opens (`https:`, `pipe:`, ...); `split` is that of the tracks, None: all.
    """

    tars: tuple[str, ...]
    split: str | None = None

    @property
    def num_shards(self) -> int:
        """Number of tars."""
        return len(self.tars)

    def read_shard(self, number: int) -> Iterator[Found]:
        """The tracks of a tar, and what it holds that is none.

        Raises:
            BadTrackError: the tar cannot be read (on).
        """
        tar = self.tars[number]
        samples = require("webdataset", "train").WebDataset(
            [tar], shardshuffle=False, nodesplitter=None, workersplitter=None, empty_check=False
        )
        try:
            for sample in samples:
                sidecars = {f".{key}": sample[key] for key in ("json", "txt") if key in sample}
                for key, data in sample.items():
                    extension = PurePosixPath(f"x.{key}").suffix.lower()
                    if not key.startswith("__") and extension in AUDIO_EXTENSIONS:
                        name = Path(tar, f"{sample['__key__']}.{key}")
                        record = Record(name, lambda sidecars=sidecars: parse_sidecars(sidecars), InMemory(data))
                        yield from _of_split(record, self.split)
        except (tarfile.TarError, OSError, ValueError, EOFError) as error:
            raise BadTrackError(Path(tar), "broken", " ".join(str(error).split())) from error


@dataclass(frozen=True)
class DatasetStream:
    """Splits of a Hugging Face `IterableDataset`, with its shards.

    `datasets` are pairs of a split's name and its dataset. A single one called "train" is divided by the tracks'
    names; `split` is that of the tracks, None: all.
    """

    source: str
    datasets: tuple
    split: str | None = None

    @property
    def num_shards(self) -> int:
        """Number of files, over all splits."""
        return sum(dataset.num_shards for _, dataset in self.datasets)

    def read_shard(self, number: int) -> Iterator[Found]:
        """The tracks of a shard, and what it holds that is none.

        Raises:
            BadTrackError: the shard cannot be read (on).
        """
        datasets = require("datasets", "train")
        shards = [(name, dataset, i) for name, dataset in self.datasets for i in range(dataset.num_shards)]
        name, dataset, index = shards[number]
        column = audio_column(dataset, self.source)
        if dataset.features is not None:
            dataset = dataset.cast_column(column, datasets.Audio(decode=False))
        given = {} if [name for name, _ in self.datasets] == ["train"] else {"split": name}
        place = Path(self.source, name, f"shard {index}")
        try:
            for row, values in enumerate(dataset.shard(dataset.num_shards, index)):
                audio = values.pop(column)
                record = Record(place / str(row), lambda values=values: given | values, InMemory(_audio_bytes(audio)))
                yield from _of_split(record, self.split)
        except (OSError, ValueError) as error:
            raise BadTrackError(place, "broken", " ".join(str(error).split())) from error


TrackStream = TarStream | DatasetStream


class StreamItems(torch.utils.data.IterableDataset):
    """Items made of the tracks of a stream, endlessly; this process's part.

    Tracks that cannot be used are left out and counted. Weights are not used.

    Args:
        stream: the tracks.
        make_item: `make_item(track, rng)` gives the item and draws all that is random from `rng`: a `CropMaker` or a
            `PairMaker`. A `BadTrackError` leaves the track out.
        seed: of order and items.
        process_index: of this process, in [0, num_processes).
        num_processes: how many read the stream together.
        items_per_track: made of a track each time it is read; more of them read less, but are less varied.
        shuffle_tracks: tracks in memory at a time, for each worker.
        max_bad_fraction: share of the tracks, and of the shards, that may be unusable, in [0, 1].
        num_epochs: None: no end.

    Raises:
        ValueError: a count below 1, or `max_bad_fraction` outside [0, 1].
        TooManyBadTracks: (while iterating) more tracks or shards than `max_bad_fraction` cannot be used.
        DataError: (while iterating) there is no track for this worker.
    """

    def __init__(
        self,
        stream: TrackStream,
        make_item: Callable[[Track, np.random.Generator], dict],
        seed: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
        items_per_track: int = 1,
        shuffle_tracks: int = 16,
        max_bad_fraction: float = MAX_BAD_FRACTION,
        num_epochs: int | None = None,
    ):
        if items_per_track < 1 or shuffle_tracks < 1:
            raise ValueError(
                f"items_per_track and shuffle_tracks must be at least 1, got {items_per_track} and {shuffle_tracks}."
            )
        self.stream, self.make_item, self.seed = stream, make_item, seed
        self.process_index, self.num_processes = process_index, num_processes
        self.items_per_track, self.shuffle_tracks, self.num_epochs = items_per_track, shuffle_tracks, num_epochs
        self.bad_tracks = BadTracks(None, max_bad_fraction)
        self.bad_shards = BadTracks(stream.num_shards, max_bad_fraction, "shards")
        self._num_empty_epochs = 0
        self._loader, self._loader_state = None, None
        self._state = {"epoch": 0, "shard": 0, "track": 0, "item": 0}

    def state_dict(self) -> dict:
        """The place behind the last item: epoch, shard and track with which its block begins, item of the block."""
        return {**self._state, "num_consumers": self._consumers()[1]}

    def load_state_dict(self, state: dict) -> None:
        """Goes on from the place that `state_dict` told.

        Raises:
            ValueError: another number of processes or workers reads the stream now.
        """
        num_consumers = self._consumers()[1]
        if state["num_consumers"] != num_consumers:
            raise ValueError(
                f"A stream that was read by {state['num_consumers']} workers, over all processes, cannot be resumed "
                f"by {num_consumers}: use the same number of processes and num_workers."
            )
        self._state = {key: state[key] for key in self._state}

    def make_loader(self, batch_size: int, num_workers: int, collate_fn: Callable | None = None):
        """A loader of this process's batches, from the place on that a checkpoint brought, if one was loaded.

        Returns:
            torchdata's StatefulDataLoader; one for each `StreamItems`.

        Raises:
            ValueError: the checkpoint is of another number of processes or workers.
        """
        self._loader = require("torchdata.stateful_dataloader", "train").StatefulDataLoader(
            self,
            batch_size=batch_size,
            num_workers=num_workers,
            collate_fn=collate_fn,
            pin_memory=torch.cuda.is_available(),
        )
        if self._loader_state is not None:
            saved, own = self._loader_state, {"num_processes": self.num_processes, "num_workers": num_workers}
            for name, number in own.items():
                if saved[name] != number:
                    raise ValueError(
                        f"A stream can only be resumed with the same {name}: {saved[name]}, not {number}."
                    )
            self._loader.load_state_dict(saved["loader"])
        return self._loader

    def register(self, accelerator: Accelerator) -> None:
        """Has the place of the loader saved in `stream-<process>.json` of every checkpoint, and read from it."""
        name = f"stream-{accelerator.process_index}.json"

        def save(models: list, weights: list, folder: str) -> None:
            if self._loader is not None:
                own = {"num_processes": self.num_processes, "num_workers": self._loader.num_workers}
                (Path(folder) / name).write_text(json.dumps(own | {"loader": self._loader.state_dict()}))

        def load(models: list, folder: str) -> None:
            file = Path(folder) / name
            if not file.is_file():
                raise ValueError(f"{folder} has no {name}: it is no checkpoint of a stream on so many processes.")
            self._loader_state = json.loads(file.read_text())

        accelerator.register_save_state_pre_hook(save)
        accelerator.register_load_state_pre_hook(load)

    def __getstate__(self) -> dict:
        """What goes to a worker: all but the loader that started it."""
        return self.__dict__ | {"_loader": None, "_loader_state": None}

    def __iter__(self) -> Iterator[dict]:
        """Yields the items of this worker."""
        while self.num_epochs is None or self._state["epoch"] < self.num_epochs:
            yield from self._epoch()
            self._state = {"epoch": self._state["epoch"] + 1, "shard": 0, "track": 0, "item": 0}

    def _epoch(self) -> Iterator[dict]:
        """The items of the current epoch, from the current place on."""
        epoch, first_item = self._state["epoch"], self._state["item"]
        self._num_empty_epochs += 1
        tracks = self._places(epoch, self._state["shard"], self._state["track"])
        while block := list(itertools.islice(tracks, self.shuffle_tracks)):
            self._num_empty_epochs = 0
            start = {"epoch": epoch, "shard": block[0][0], "track": block[0][1]}
            rng = np.random.default_rng([self.seed, epoch, *block[0][1:3], self._consumers()[0]])
            order = rng.permutation(len(block) * self.items_per_track)
            for item in range(first_item, len(order)):
                position, draw = divmod(int(order[item]), self.items_per_track)
                _, number, shard, found = block[position]
                self._state = {**start, "item": item + 1}
                made = self._make(found, [self.seed, epoch, shard, number, draw])
                if made is not None:
                    yield made
            first_item = 0
        are_enough = self.stream.num_shards >= self._consumers()[1] > 1
        if self._num_empty_epochs >= (MAX_EMPTY_EPOCHS if are_enough else 1):
            raise DataError("The stream has no track for one of its workers: use fewer workers or processes.")

    def _places(self, epoch: int, first: int, first_track: int) -> Iterator[tuple[int, int, int, Found]]:
        """This worker's tracks of an epoch from a place on.

        Each with the position of its shard in this worker's list, its own in the shard, and the shard's number.
        """
        consumer, num_consumers = self._consumers()
        order = np.random.default_rng([self.seed, epoch]).permutation(self.stream.num_shards)
        are_enough = self.stream.num_shards >= num_consumers
        shards = order[consumer::num_consumers] if are_enough else order
        for position in range(first, len(shards)):
            found = enumerate(self._read_shard(int(shards[position])))
            for number, track in found:
                is_mine = are_enough or (number * len(shards) + position) % num_consumers == consumer
                if is_mine and (position > first or number >= first_track):
                    yield position, number, int(shards[position]), track

    def _read_shard(self, number: int) -> Iterator[Found]:
        """A shard's tracks; one that cannot be read (on) is counted."""
        try:
            yield from self.stream.read_shard(number)
        except BadTrackError as error:
            self.bad_shards.note(error)

    def _make(self, found: Found, seeds: list[int]) -> dict | None:
        """The item of a track, or None when it cannot be used."""
        self.bad_tracks.num_tried += 1
        if isinstance(found, BadTrackError):
            self.bad_tracks.note(found)
            return None
        try:
            return self.make_item(found, np.random.default_rng(seeds))
        except BadTrackError as error:
            self.bad_tracks.note(error)
            return None

    def _consumers(self) -> tuple[int, int]:
        """Number of this worker among those of all processes, and how many they are."""
        worker = torch.utils.data.get_worker_info()
        index, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return self.process_index * count + index, self.num_processes * count


def open_items(
    stream: TrackStream,
    make_item: Callable[[Track, np.random.Generator], dict],
    seed: int,
    accelerator: Accelerator | None,
    items_per_track: int,
    max_bad_fraction: float,
) -> StreamItems:
    """`StreamItems` of one of accelerate's processes, registered with its checkpoints; of this one alone for None."""
    place = (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)
    items = StreamItems(stream, make_item, seed, *place, items_per_track, max_bad_fraction=max_bad_fraction)
    if accelerator is not None:
        items.register(accelerator)
    return items


def first_items(dataset: torch.utils.data.Dataset, count: int, first: int = 0) -> list[dict]:
    """Items `first` to `first + count - 1` of a dataset with numbered items; of a stream, its first ones."""
    if isinstance(dataset, torch.utils.data.IterableDataset):
        return list(itertools.islice(copy.copy(dataset), count))  # a copy, whose place is another one
    return [dataset[first + i] for i in range(count)]


def audio_column(dataset, source: str) -> str:
    """The column of a Hugging Face dataset that holds audio: of the type `Audio`, or called "audio".

    Raises:
        ValueError: there is none, or more than one.
    """
    datasets = require("datasets", "train")
    features = dataset.features or {"audio": None}
    columns = [name for name, feature in features.items() if isinstance(feature, datasets.Audio)]
    columns = columns or [name for name in features if name == "audio"]
    if len(columns) != 1:
        raise ValueError(f"{source} must have one column of audio, got {columns or list(features)}.")
    return columns[0]


def _of_split(record: Record, split: str | None) -> Iterator[Found]:
    """What a record holds, unless it is of another split."""
    result = examine(record)
    if isinstance(result, BadTrackError):
        yield result
    elif split in (None, result[0].split):
        yield result[0]


def _audio_bytes(audio: dict) -> bytes:
    """The encoded audio of a row, fetched when the row holds its address only."""
    if audio["bytes"] is not None:
        return audio["bytes"]
    with require("fsspec", "train").open(audio["path"], "rb") as file:
        return file.read()
