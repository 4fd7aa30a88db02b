"""Endless sequences of items to train on, each a pure function of `(seed, number)`.

A run resumed at any step therefore sees exactly the data that an undisturbed one would have seen, on any number of
processes and workers, and nothing needs to be saved. Contents: `NumberedItems`, of which `WeightedItems` draws tracks
at random and `EpochItems` takes each track once in an epoch.
"""

import functools
import signal
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from stable_longform.data.bad_tracks import MAX_DRAWS, BadTracks
from stable_longform.data.tracks import Track

# Given a track and a generator for all that is random, makes an item or raises a BadTrackError.
MakeItem = Callable[[Track, np.random.Generator], dict]


class NumberedItems(torch.utils.data.Dataset):
    """Items by number. A subclass says which candidates an item may be made of, in turn, and makes it of one.

    Candidates that cannot be used are left out and counted; the next one takes their place.

    Args:
        seed: of the whole sequence.
        bad_tracks: counts those that cannot be used.
    """

    def __init__(self, seed: int, bad_tracks: BadTracks):
        self.seed, self.bad_tracks = seed, bad_tracks

    def candidates(self, number: int, rng: np.random.Generator) -> Iterator:
        """What item `number` may be made of, the first choice first."""
        raise NotImplementedError

    def make(self, candidate, rng: np.random.Generator) -> dict:
        """Makes the item of one candidate.

        Raises:
            BadTrackError: it cannot be used.
        """
        raise NotImplementedError

    def __len__(self) -> int:
        return 2**31  # an endless sequence; the sampler chooses the range

    def __getitem__(self, number: int) -> dict:
        """Gives item `number`.

        Raises:
            TooManyBadTracks: more tracks than the limit turned out to be unusable, or every candidate is.
        """
        rng = np.random.default_rng([self.seed, number])
        return self.bad_tracks.first_usable(self.candidates(number, rng), lambda candidate: self.make(candidate, rng))

    def take(self, count: int, first: int = 0) -> list[dict]:
        """Items `first` to `first + count - 1`."""
        return [self[first + i] for i in range(count)]

    def make_loader(
        self,
        batches: torch.utils.data.Sampler,
        batch_size: int,
        num_workers: int,
        collate_fn: Callable[[list[dict]], dict] | None = None,
    ) -> torch.utils.data.DataLoader:
        """A loader of batches; `batches` gives the `batch_size` numbers of each."""
        return torch.utils.data.DataLoader(
            self,
            batch_sampler=batches,
            num_workers=num_workers,
            collate_fn=collate_fn,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=leave_signals_to_main,
        )


class WeightedItems(NumberedItems):
    """Items of tracks drawn at random, in proportion to their weights. They tell the number of their `track`.

    Args:
        tracks: at least one.
        make_item: makes an item of a track.
        seed: of the whole sequence.
        bad_tracks: counts the tracks that cannot be used.
        weights: one for each track, > 0.
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        make_item: MakeItem,
        seed: int,
        bad_tracks: BadTracks,
        weights: Sequence[float],
    ):
        super().__init__(seed, bad_tracks)
        self.tracks, self.make_item = tracks, make_item
        self.cumulative_weights = np.cumsum(weights)

    def candidates(self, number: int, rng: np.random.Generator) -> Iterator[int]:
        """Numbers of tracks, each drawn anew."""
        return (draw_index(self.cumulative_weights, rng) for _ in range(MAX_DRAWS))

    def make(self, candidate: int, rng: np.random.Generator) -> dict:
        """The item of the track with that number."""
        return self.make_item(self.tracks[candidate], rng) | {"track": candidate}


class EpochItems(NumberedItems):
    """Items of which each epoch takes every track at most once, in a new random order.

    An epoch is a whole number of batches: the few tracks that would not fill another one are left to other epochs.
    Tracks that are not in the same batch take the places of those that cannot be used. Items tell the number of their
    `track`.

    Args:
        tracks: at least `batch_size`.
        make_item: makes an item of a track.
        seed: of the whole sequence.
        bad_tracks: counts the tracks that cannot be used.
        batch_size: items among which every track differs: numbers k·batch_size to (k + 1)·batch_size - 1, for any k.
            In training that is the batch of all processes together.

    Raises:
        ValueError: fewer tracks than `batch_size`.
    """

    def __init__(
        self, tracks: Sequence[Track], make_item: MakeItem, seed: int, bad_tracks: BadTracks, batch_size: int
    ):
        super().__init__(seed, bad_tracks)
        if not 1 <= batch_size <= len(tracks):
            raise ValueError(
                f"batch_size of all processes together must be in [1, {len(tracks)}], the number of tracks that can "
                f"be used, got {batch_size}."
            )
        self.tracks, self.make_item = tracks, make_item
        self.batch_size, self.epoch_length = batch_size, len(tracks) // batch_size * batch_size

    def candidates(self, number: int, rng: np.random.Generator) -> Iterator[int]:
        """The item's track, then those that take its place in turn: of no other place's in the batch, nor its own."""
        epoch, position = divmod(number, self.epoch_length)
        order = _permutation(self.seed, epoch, len(self.tracks))
        yield int(order[position])
        place = position % self.batch_size
        batch = slice(position - place, position - place + self.batch_size)
        yield from map(int, np.delete(order, batch)[place :: self.batch_size][: MAX_DRAWS - 1])

    def make(self, candidate: int, rng: np.random.Generator) -> dict:
        """The item of the track with that number."""
        return self.make_item(self.tracks[candidate], rng) | {"track": candidate}


def leave_signals_to_main(worker: int) -> None:
    """Lets a loader's worker go on when its whole process group is told to stop: the main process ends it in time."""
    for name in ("SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def draw_index(cumulative_weights: np.ndarray, rng: np.random.Generator) -> int:
    """Draws a position in proportion to its weight (> 0), given the weights' `np.cumsum`."""
    position = np.searchsorted(cumulative_weights, rng.random() * cumulative_weights[-1])
    return min(int(position), len(cumulative_weights) - 1)


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, length: int) -> np.ndarray:
    """The order of an epoch; kept, because every item of the epoch needs it."""
    return np.random.default_rng([seed, epoch, 1]).permutation(length)
