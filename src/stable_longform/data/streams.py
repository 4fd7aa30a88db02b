"""Streams of tracks: sources that are read from start to end.

A `StreamedSource` has shards, each of which is read in order. While items are made from a track, its whole encoded
audio is in memory. `StreamItems` distributes the shards to the consumers (the data loader's workers in all processes):
in every epoch, each track goes to exactly one of them. If there are fewer shards than consumers, every consumer reads
all shards and takes its share of the tracks. The order is random: the shards are shuffled in every epoch, and the
items within blocks of `shuffle_tracks` tracks. The items of a track depend only on the seed, the epoch, the shard and
the position in the shard.

`StreamItems.state_dict` is the position of one worker; torchdata's loader collects it from every worker.
`StreamedSource.state_dict` has the positions of all workers of all processes, so a resumed run continues with the next
item.
"""

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

from stable_longform.data.bad_tracks import IGNORED_KINDS, MAX_BAD_FRACTION, BadTrackError, BadTracks, DataError
from stable_longform.data.numbered_items import MakeItem, end_workers_with_main, leave_signals_to_main
from stable_longform.data.recordings import Found, Recording, examine
from stable_longform.data.tracks import Track
from stable_longform.utils.optional import require

MAX_EMPTY_EPOCHS = 20  # in a row, for a worker whose shards change with the epoch; otherwise one is enough


class MakeItems(Protocol):
    """A `MakeItem` that says how many items are made of a track each time it is read."""

    items_per_track: ClassVar[int]

    def __call__(self, track: Track, rng: np.random.Generator) -> dict:
        """An item, or a BadTrackError."""


class Shards(Protocol):
    """The pieces from which a stream is read."""

    @property
    def num_shards(self) -> int:
        """Number of pieces."""

    def of_split(self, split: str) -> "Shards":
        """The pieces that may hold tracks of a split."""

    def read_shard(self, number: int) -> Iterator[Recording | BadTrackError]:
        """The recordings of a piece in order, and errors for unusable ones; raises one if the piece is damaged."""


class StreamedSource:
    """A source that is read from start to end. `data.sources.Source` describes what it shares with lists.

    Args:
        shards: of the recordings.
        split: of the tracks; None: all.
        max_bad_fraction: share of the tracks, and of the shards, that may be unusable, in [0, 1].

    Raises:
        ValueError: `max_bad_fraction` is outside [0, 1].
    """

    tracks: Sequence[Track] = ()  # none are known before they are read
    left_out: Sequence[BadTrackError] = ()

    def __init__(
        self,
        shards: Shards,
        split: str | None = None,
        max_bad_fraction: float = MAX_BAD_FRACTION,
    ):
        self.shards, self.split = shards, split
        self.bad_tracks = BadTracks(None, max_bad_fraction)
        self.bad_shards = BadTracks(shards.num_shards, max_bad_fraction, "shards")
        self._items: StreamItems | None = None

    def of_split(self, split: str) -> "StreamedSource":
        """See `Source.of_split`."""
        part = copy.copy(self)
        part.shards, part.split = self.shards.of_split(split), split
        return part

    def with_prompts(self) -> "StreamedSource":
        """The source itself. Tracks without metadata for a prompt are only noticed, and counted as bad, when read."""
        return self

    def found(self) -> Iterator[Found]:
        """All tracks, and the errors of unusable ones, in the order of the shards."""
        for number in range(self.shards.num_shards):
            try:
                yield from self._read(number)
            except BadTrackError as error:
                yield error

    def items(
        self,
        make_item: MakeItems,
        seed: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
        is_weighted_by_duration: bool = True,
        batch_size: int | None = None,
    ) -> "StreamItems":
        """See `Source.items`. This process's part of the sequence; this source saves the position in it.

        Streams have no weights, and a batch that spans two epochs may contain a track twice.
        """
        self._items = StreamItems(self, make_item, seed, process_index, num_processes, make_item.items_per_track)
        return self._items

    def sample(self, make_item: MakeItem, count: int, seed: int) -> list[dict]:
        """Items of the first `count` tracks or fewer, in random order."""
        return StreamItems(self, make_item, seed, num_epochs=1).take(count)

    def share(
        self,
        process_index: int = 0,
        num_processes: int = 1,
        max_tracks: int | None = None,
        is_wanted: Callable[[Track], bool] = lambda track: True,
    ) -> Iterator[Track]:
        """See `Source.share`; `max_tracks` takes the first."""
        place = {"process_index": process_index, "num_processes": num_processes}
        tracks = StreamItems(self, lambda track, rng: track, **place, shuffle_tracks=1, num_epochs=1)
        limit = None if max_tracks is None else -(-max_tracks // num_processes)
        return filter(is_wanted, itertools.islice(tracks, limit))

    def state_dict(self) -> dict:
        """See `Source.state_dict`."""
        if self._items is None:
            return {}
        place = self._items.loader_state()
        places = [place] * self._items.num_processes
        if self._items.num_processes > 1:
            torch.distributed.all_gather_object(places, place)
        return {"places": places}

    def load_state_dict(self, state: dict) -> None:
        """See `Source.load_state_dict`."""
        if "places" not in state:
            raise ValueError("The checkpoint stores no position in a stream: it belongs to another source.")
        if self._items is None:
            raise ValueError("There are no items yet whose place could be loaded: call `items` first.")
        places = state["places"]
        if len(places) != self._items.num_processes:
            raise ValueError(
                f"A stream can only be resumed with the same num_processes: {len(places)}, "
                f"not {self._items.num_processes}."
            )
        self._items.resume_from(places[self._items.process_index])

    def read_shard(self, number: int) -> Iterator[Found]:
        """A shard's tracks, and the errors of unusable ones; a damaged shard is counted.

        Raises:
            TooManyBadTracks: too many shards are damaged.
        """
        try:
            for found in self._read(number):
                if isinstance(found, BadTrackError) and found.kind in IGNORED_KINDS:
                    self.bad_tracks.note(found)
                else:
                    yield found
        except BadTrackError as error:
            self.bad_shards.note(error)

    def _read(self, number: int) -> Iterator[Found]:
        """A shard's tracks of the split, and the errors of unusable ones."""
        for recording in self.shards.read_shard(number):
            result = examine(recording)
            if isinstance(result, BadTrackError):
                yield result
            elif self.split in (None, result[0].split):
                yield result[0]


class StreamItems(torch.utils.data.IterableDataset):
    """This process's part of an endless sequence of items from the tracks of a stream.

    Unusable tracks are skipped and counted.

    Args:
        source: of the tracks.
        make_item: makes an item from a track.
        seed: of the order and the items.
        process_index: number of this process, in [0, num_processes).
        num_processes: number of processes that read the stream together.
        items_per_track: items made from a track each time it is read; more items need less reading, but vary less.
        shuffle_tracks: number of tracks in memory at the same time, for each worker.
        num_epochs: None: no end.

    Raises:
        ValueError: a count is below 1.
        TooManyBadTracks: (while iterating) more tracks or shards are unusable than the source allows.
        DataError: (while iterating) there is no track for this worker.
    """

    def __init__(
        self,
        source: StreamedSource,
        make_item: Callable[[Track, np.random.Generator], Any],
        seed: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
        items_per_track: int = 1,
        shuffle_tracks: int = 16,
        num_epochs: int | None = None,
    ):
        if items_per_track < 1 or shuffle_tracks < 1:
            raise ValueError(
                f"items_per_track and shuffle_tracks must be at least 1, got {items_per_track} and {shuffle_tracks}."
            )
        self.source, self.make_item, self.seed = source, make_item, seed
        self.process_index, self.num_processes = process_index, num_processes
        self.items_per_track, self.shuffle_tracks, self.num_epochs = items_per_track, shuffle_tracks, num_epochs
        self._num_empty_epochs = 0
        self._loader: Any = None  # a StatefulDataLoader
        self._loader_state: dict | None = None
        self._state = {"epoch": 0, "shard": 0, "track": 0, "item": 0}

    def take(self, count: int, first: int = 0) -> list[dict]:
        """The first `count` items, for inspection; the position does not change. `first` has no effect here."""
        return list(itertools.islice(copy.copy(self), count))

    def state_dict(self) -> dict:
        """The position after the last item: epoch, shard and track at which its block begins, item of the block."""
        return {**self._state, "num_consumers": self._consumers()[1]}

    def load_state_dict(self, state: dict) -> None:
        """Continues at the position in `state_dict`.

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

    def make_loader(
        self,
        batches: Sized,
        batch_size: int,
        num_workers: int,
        collate_fn: Callable[[list[dict]], dict] | None = None,
    ) -> Iterator:
        """This process's `len(batches)` batches, from the position in a loaded checkpoint, if there is one.

        Raises:
            ValueError: the checkpoint is of another number of workers.
        """
        end_workers_with_main()
        self._loader = require("torchdata.stateful_dataloader", "train").StatefulDataLoader(
            self,
            batch_size=batch_size,
            num_workers=num_workers,
            collate_fn=collate_fn,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=leave_signals_to_main,
        )
        if self._loader_state is not None:
            saved = self._loader_state
            if saved["num_workers"] != num_workers:
                raise ValueError(
                    f"A stream can only be resumed with the same num_workers: {saved['num_workers']}, "
                    f"not {num_workers}."
                )
            self._loader.load_state_dict(saved["loader"])
        return itertools.islice(self._loader, len(batches))

    def loader_state(self) -> dict | None:
        """The position of this process's loader; None if there is no loader yet."""
        if self._loader is None:
            return None
        return {"num_workers": self._loader.num_workers, "loader": self._loader.state_dict()}

    def resume_from(self, loader_state: dict | None) -> None:
        """Makes the next loader continue at the position of `loader_state`."""
        self._loader_state = loader_state

    def __getstate__(self) -> dict:
        """The state for a worker: everything except the loader that started it."""
        return self.__dict__ | {"_loader": None, "_loader_state": None}

    def __iter__(self) -> Iterator[Any]:
        """Yields the items of this worker."""
        while self.num_epochs is None or self._state["epoch"] < self.num_epochs:
            yield from self._epoch()
            self._state = {"epoch": self._state["epoch"] + 1, "shard": 0, "track": 0, "item": 0}

    def _epoch(self) -> Iterator[dict]:
        """The items of the current epoch, from the current position on."""
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
                try:
                    yield self._make(found, [self.seed, epoch, shard, number, draw])
                except BadTrackError as error:
                    self.source.bad_tracks.note(error)
            first_item = 0
        are_enough = self.source.shards.num_shards >= self._consumers()[1] > 1
        if self._num_empty_epochs >= (MAX_EMPTY_EPOCHS if are_enough else 1):
            split = "" if self.source.split is None else f" in split {self.source.split!r}"
            raise DataError(f"The stream has no track{split} for one of its workers: use fewer workers or processes.")

    def _places(self, epoch: int, first: int, first_track: int) -> Iterator[tuple[int, int, int, Found]]:
        """This worker's tracks of an epoch from a position on.

        Each with the position of its shard in this worker's list, its own in the shard, and the shard's number.
        """
        consumer, num_consumers = self._consumers()
        order = np.random.default_rng([self.seed, epoch]).permutation(self.source.shards.num_shards)
        are_enough = len(order) >= num_consumers
        shards = order[consumer::num_consumers] if are_enough else order
        for position in range(first, len(shards)):
            for number, track in enumerate(self.source.read_shard(int(shards[position]))):
                is_mine = are_enough or (number * len(shards) + position) % num_consumers == consumer
                if is_mine and (position > first or number >= first_track):
                    yield position, number, int(shards[position]), track

    def _make(self, found: Found, seeds: list[int]) -> dict:
        """The item of a track.

        Raises:
            BadTrackError: it cannot be used.
        """
        self.source.bad_tracks.num_tried += 1
        if isinstance(found, BadTrackError):
            raise found
        return self.make_item(found, np.random.default_rng(seeds))

    def _consumers(self) -> tuple[int, int]:
        """The number of this worker among those of all processes, and the number of all workers."""
        worker = torch.utils.data.get_worker_info()
        index, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return self.process_index * count + index, self.num_processes * count
