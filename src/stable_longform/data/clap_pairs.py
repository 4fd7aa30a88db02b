"""Pairs of audio and prompt: CLAP's input.

Every item is a pure function of `(seed, index)`, so a run resumed at any step sees exactly the data that an
undisturbed one would have seen, on any number of processes. No batch holds a track twice.
"""

import logging
import random
from collections.abc import Sequence

import numpy as np
import torch
from transformers import ClapFeatureExtractor

from stable_longform.data.audio_crops import MAX_DRAWS, SILENCE_PEAK, random_crop
from stable_longform.data.manifest import Track
from stable_longform.data.prompts import available_fields, build_prompt
from stable_longform.utils.seeding import seeded_numpy

logger = logging.getLogger(__name__)


class ClapPairs(torch.utils.data.Dataset):
    """Log-mel features of a random crop of a track, and a random prompt made from its metadata. Paper: §2.4, §3.1.

    The tracks come in a new random order in every epoch. An epoch is a whole number of batches: the few tracks that
    would not fill another one are left to other epochs.

    Args:
        tracks: those whose metadata gives no prompt are left out.
        feature_extractor: makes the features; with `truncation="fusion"` those of a crop longer than
            `max_length_s` are four views of it.
        batch_size: pairs among which every track differs: indices k·batch_size to (k + 1)·batch_size - 1, for any k.
            In training that is the batch of all processes together.
        seed: of the whole sequence.
        crop_duration_in_s: length of a crop; a shorter track is taken whole. None takes every track whole.

    Raises:
        ValueError: fewer tracks with a prompt than `batch_size`, `crop_duration_in_s` is not positive, or `MAX_DRAWS`
            silent crops of a track.
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        feature_extractor: ClapFeatureExtractor,
        batch_size: int,
        seed: int = 0,
        crop_duration_in_s: float | None = 10.0,
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
        if crop_duration_in_s is not None and not crop_duration_in_s > 0:
            raise ValueError(f"crop_duration_in_s must be greater than 0, got {crop_duration_in_s}.")
        self.feature_extractor, self.seed = feature_extractor, seed
        self.crop_duration_in_s = crop_duration_in_s
        self.epoch_length = len(self.tracks) // batch_size * batch_size

    def __len__(self) -> int:
        return 2**31  # an endless sequence; the sampler chooses the range

    def __getitem__(self, index: int) -> dict:
        """Gives `input_features (1 or 4, num_frames, num_mels)`, `is_longer (1,)`, `prompt` and `track`, its number.

        `is_longer` says what it says, "the crop is longer than one view": the extractor's own answer marks one clip of
        each call at random when none is, in evaluation as well.
        """
        epoch, position = divmod(index, self.epoch_length)
        number = int(np.random.default_rng([self.seed, epoch]).permutation(len(self.tracks))[position])
        track, rng = self.tracks[number], np.random.default_rng([self.seed, index, 1])
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
            "track": number,
        }

    def _draw_waveform(self, track: Track, rng: np.random.Generator) -> np.ndarray:
        """A mono crop that is not silent, `(num_samples,)`, after a round trip through 16 bits as in LAION's code."""
        rate = self.feature_extractor.sampling_rate
        duration_in_s = min(self.crop_duration_in_s or track.duration_in_s, track.duration_in_s)
        for _ in range(MAX_DRAWS):
            waveform, _ = random_crop(track, max(int(duration_in_s * rate), 1), rate, rng)
            if waveform.abs().max() >= SILENCE_PEAK:
                mono = waveform.mean(dim=0).clamp(-1, 1)
                return (mono * 32767).trunc().div(32767).numpy()
        raise ValueError(f"{MAX_DRAWS} crops in a row of {track.path} were silent.")


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
