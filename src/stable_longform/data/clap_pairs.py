"""Pairs of audio and prompt: CLAP's input.

Contents: `PairMaker` makes an item from a track, `ClapPairs` is an endless sequence of them from a list of tracks.
From a list every item is a pure function of `(seed, index)`, so a run resumed at any step sees exactly the data that
an undisturbed one would have seen, on any number of processes, and no batch holds a track twice.
"""

import functools
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from transformers import ClapFeatureExtractor

from stable_longform.data.audio_crops import check_prompt, draw_crop
from stable_longform.data.bad_tracks import MAX_BAD_FRACTION, MAX_DRAWS, BadTracks
from stable_longform.data.manifest import Track
from stable_longform.data.prompts import available_fields, build_prompt
from stable_longform.data.streams import StreamItems, TrackStream, open_items
from stable_longform.utils.seeding import seeded_numpy

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairMaker:
    """Makes items from tracks: log-mel features of a random crop, and a random prompt. Paper: §2.4, §3.1.

    With the extractor's `truncation="fusion"` the features of a crop longer than its `max_length_s` are four views of
    it. `crop_duration_in_s` is the length of a crop; a shorter track is taken whole, None takes every track whole.
    """

    feature_extractor: ClapFeatureExtractor
    crop_duration_in_s: float | None = 10.0

    def __post_init__(self):
        if self.crop_duration_in_s is not None and not self.crop_duration_in_s > 0:
            raise ValueError(f"crop_duration_in_s must be greater than 0, got {self.crop_duration_in_s}.")

    def __call__(self, track: Track, rng: np.random.Generator) -> dict:
        """Gives `input_features (1 or 4, num_frames, num_mels)`, `is_longer (1,)` and `prompt`.

        `is_longer` says what it says, "the crop is longer than one view": the extractor's own answer marks one clip of
        each call at random when none is, in evaluation as well.

        Raises:
            BadTrackError: the track is broken, mislabelled, silent, or has no metadata for a prompt.
        """
        check_prompt(track)
        waveform = self._draw_waveform(track, rng)
        extractor = self.feature_extractor
        with seeded_numpy(int(rng.integers(2**32))):  # the extractor draws its views from numpy's global generator
            features = extractor(waveform, sampling_rate=extractor.sampling_rate, return_tensors="pt")
        num_views = features["input_features"].shape[1]
        longest = extractor.nb_max_samples // extractor.hop_length
        is_longer = num_views > 1 and len(waveform) // extractor.hop_length > longest
        return {
            "input_features": features["input_features"][0].float(),
            "is_longer": torch.tensor([is_longer]),
            "prompt": build_prompt(track.metadata, random.Random(int(rng.integers(2**63)))),
        }

    def _draw_waveform(self, track: Track, rng: np.random.Generator) -> np.ndarray:
        """A mono crop that is not silent, `(num_samples,)`, after a round trip through 16 bits as in LAION's code."""
        rate = self.feature_extractor.sampling_rate
        duration_in_s = min(self.crop_duration_in_s or track.duration_in_s, track.duration_in_s)
        waveform, _ = draw_crop(track, max(int(duration_in_s * rate), 1), rate, rng)
        mono = waveform.mean(dim=0).clamp(-1, 1)
        return (mono * 32767).trunc().div(32767).numpy()


class ClapPairs(torch.utils.data.Dataset):
    """Items of a `PairMaker`: every track once in an epoch, in a new random order.

    An epoch is a whole number of batches: the few tracks that would not fill another one are left to other epochs.
    Tracks that cannot be used are left out and counted; others that are not in the same batch take their places.

    Args:
        tracks: those whose metadata gives no prompt are left out.
        feature_extractor: makes the features.
        batch_size: pairs among which every track differs: indices k·batch_size to (k + 1)·batch_size - 1, for any k.
            In training that is the batch of all processes together.
        seed: of the whole sequence.
        crop_duration_in_s: length of a crop; a shorter track is taken whole. None takes every track whole.
        max_bad_fraction: share of the tracks that may be unusable, in [0, 1].

    Raises:
        ValueError: fewer tracks with a prompt than `batch_size`, `crop_duration_in_s` is not positive, or
            `max_bad_fraction` is outside [0, 1].
        TooManyBadTracks: (by an item) more tracks than `max_bad_fraction` turned out to be unusable, or none is left
            to take the place of one.
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        feature_extractor: ClapFeatureExtractor,
        batch_size: int,
        seed: int = 0,
        crop_duration_in_s: float | None = 10.0,
        max_bad_fraction: float = MAX_BAD_FRACTION,
    ):
        self.tracks = [track for track in tracks if available_fields(track.metadata)]
        if len(self.tracks) < len(tracks):
            logger.warning(
                "%d of %d tracks have no metadata for a prompt.", len(tracks) - len(self.tracks), len(tracks)
            )
        if not 1 <= batch_size <= len(self.tracks):
            raise ValueError(
                f"batch_size of all processes together must be in [1, {len(self.tracks)}], the number of tracks with "
                f"metadata for a prompt, got {batch_size}."
            )
        self.make_item, self.seed = PairMaker(feature_extractor, crop_duration_in_s), seed
        self.batch_size, self.epoch_length = batch_size, len(self.tracks) // batch_size * batch_size
        self.bad_tracks = BadTracks(len(self.tracks), max_bad_fraction)

    def __len__(self) -> int:
        return 2**31  # an endless sequence; the sampler chooses the range

    def __getitem__(self, index: int) -> dict:
        """Gives the item of `PairMaker.__call__` and `track`, the number of its track in `tracks`."""
        rng = np.random.default_rng([self.seed, index, 1])
        return self.bad_tracks.first_usable(
            self._candidates(index), lambda number: self.make_item(self.tracks[number], rng) | {"track": number}
        )

    def _candidates(self, index: int) -> Iterator[int]:
        """The item's track, then those that take its place in turn: of no other place's in the batch, nor its own."""
        epoch, position = divmod(index, self.epoch_length)
        order = _permutation(self.seed, epoch, len(self.tracks))
        yield int(order[position])
        place = position % self.batch_size
        batch = slice(position - place, position - place + self.batch_size)
        yield from map(int, np.delete(order, batch)[place :: self.batch_size][: MAX_DRAWS - 1])


def make_pairs(
    tracks: Sequence[Track] | TrackStream,
    make_item: PairMaker,
    batch_size: int,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    max_bad_fraction: float = MAX_BAD_FRACTION,
) -> ClapPairs | StreamItems:
    """Pairs of what `open_tracks` opened: `ClapPairs` of a list, one process's `StreamItems` of a stream.

    Of a stream every track gives one pair in an epoch; a batch that goes from one epoch into the next may hold one
    twice.

    Args:
        tracks: a list or a stream.
        make_item: the extractor and the length of the crops.
        batch_size: see `ClapPairs`; a stream does not need it.
        seed: of the whole sequence.
        accelerator: whose processes share a stream and whose checkpoints keep its place; None: this process alone.
        max_bad_fraction: share of the tracks that may be unusable, in [0, 1].
    """
    if isinstance(tracks, TrackStream):
        return open_items(tracks, make_item, seed, accelerator, 1, max_bad_fraction)
    extractor, crop_duration_in_s = make_item.feature_extractor, make_item.crop_duration_in_s
    return ClapPairs(tracks, extractor, batch_size, seed, crop_duration_in_s, max_bad_fraction)


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, length: int) -> np.ndarray:
    """The order of an epoch; kept, because every item of the epoch needs it."""
    return np.random.default_rng([seed, epoch]).permutation(length)


def mark_longer(is_longer: torch.Tensor) -> torch.Tensor:
    """Gives `(B, 1)` with at least two clips marked as longer than one view (B > 1), for a training step with fusion.

    The fusion layers then get a gradient in every step, also when all clips are short. LAION's code marks one; their
    batch norms, after a global average, need two.
    """
    if is_longer.sum() >= 2:
        return is_longer
    is_marked = torch.zeros_like(is_longer)
    is_marked[:2] = True
    return is_longer | is_marked
