"""Endless sequences of items to train on, each a pure function of `(seed, number)`.

Therefore a run that is resumed at any step, with any number of processes and workers, sees exactly the same data as an
uninterrupted one, and nothing has to be saved. Contents: `NumberedItems` and its subclasses `WeightedItems`, which
draws tracks at random, and `EpochItems`, which uses each track once in an epoch.
"""

import functools
import multiprocessing.util
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from stable_longform.data.bad_tracks import MAX_DRAWS, BadTracks
from stable_longform.data.tracks import Track

# Called with a track and a generator for all random numbers; returns an item or raises a BadTrackError.
MakeItem = Callable[[Track, np.random.Generator], dict]


class Items(Protocol):
    """Items by number: a list, or `NumberedItems`."""

    def __getitem__(self, number: int, /) -> dict: ...


class NumberedItems(torch.utils.data.Dataset):
    """Items by number. A subclass provides the candidates for an item, and makes the item from one of them.

    Unusable candidates are skipped and counted; the next candidate is used instead.

    Args:
        seed: of the whole sequence.
        bad_tracks: counts the unusable ones.
    """

    def __init__(self, seed: int, bad_tracks: BadTracks):
        self.seed, self.bad_tracks = seed, bad_tracks

    def candidates(self, number: int, rng: np.random.Generator) -> Iterator:
        """The candidates for item `number`, the first choice first."""
        raise NotImplementedError

    def make(self, candidate, rng: np.random.Generator) -> dict:
        """Makes an item from a candidate.

        Raises:
            BadTrackError: the candidate is unusable.
        """
        raise NotImplementedError

    def __len__(self) -> int:
        return 2**31  # an endless sequence; the sampler chooses the range

    def __getitem__(self, number: int) -> dict:
        """Item `number`.

        Raises:
            TooManyBadTracks: more tracks than the limit are unusable, or all candidates are.
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
        """A loader of batches; `batches` yields the `batch_size` numbers of each batch."""
        end_workers_with_main()
        return torch.utils.data.DataLoader(
            self,
            batch_sampler=batches,
            num_workers=num_workers,
            collate_fn=collate_fn,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=leave_signals_to_main,
        )


class WeightedItems(NumberedItems):
    """Items of tracks drawn at random, in proportion to their weights. They contain the number of their `track`.

    Args:
        tracks: at least one.
        make_item: makes an item from a track.
        seed: of the whole sequence.
        bad_tracks: counts the unusable tracks.
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
        """Numbers of tracks, drawn independently."""
        return (draw_index(self.cumulative_weights, rng) for _ in range(MAX_DRAWS))

    def make(self, candidate: int, rng: np.random.Generator) -> dict:
        """The item of the track with that number."""
        return self.make_item(self.tracks[candidate], rng) | {"track": candidate}


class EpochItems(NumberedItems):
    """Items with every track at most once in each epoch, in a new random order.

    An epoch is a whole number of batches: the few tracks that don't fill another batch are skipped in this epoch.
    Unusable tracks are replaced by tracks that are not in the same batch. Items contain the number of their `track`.

    Args:
        tracks: at least `batch_size`.
        make_item: makes an item from a track.
        seed: of the whole sequence.
        bad_tracks: counts the unusable tracks.
        batch_size: the items k·batch_size to (k + 1)·batch_size - 1, for any k, have different tracks. In training,
            this is the batch of all processes together.

    Raises:
        ValueError: there are fewer tracks than `batch_size`.
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
        """The item's track, then its replacements in turn, which are not used elsewhere in the batch."""
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
    """Makes a loader's worker ignore signals to the whole process group; the main process ends the worker later."""
    for name in ("SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def end_workers_with_main() -> None:
    """Makes the end of this process end the workers of its loaders, also if it crashes.

    `multiprocessing` would end them by SIGTERM, which they ignore, and wait for them forever.
    """
    multiprocessing.util.Finalize(None, _kill_workers, exitpriority=0)


def _kill_workers() -> None:
    """Kills the workers that are still there; torch's handler would report it."""
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def draw_index(cumulative_weights: np.ndarray, rng: np.random.Generator) -> int:
    """Draws a position in proportion to its weight (> 0), given the weights' `np.cumsum`."""
    position = np.searchsorted(cumulative_weights, rng.random() * cumulative_weights[-1])
    return min(int(position), len(cumulative_weights) - 1)


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, length: int) -> np.ndarray:
    """The order of an epoch; cached, because every item of the epoch needs it."""
    return np.random.default_rng([seed, epoch, 1]).permutation(length)
