"""Pairs of audio and prompt, the input of CLAP: `PairMaker` makes one from a track, for `Source.items`."""

import random
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from transformers import ClapFeatureExtractor

from stable_longform.data.audio_crops import check_fields, draw_crop
from stable_longform.data.prompts import draw_prompt, prompt_fields
from stable_longform.data.tracks import Track
from stable_longform.utils.seeding import seeded_numpy


@dataclass(frozen=True)
class PairMaker:
    """Makes items from tracks: log-mel features of a random crop, and a random prompt. Paper: §2.4, §3.1.

    With the extractor's `truncation="fusion"`, the features of a crop longer than its `max_length_s` are four views of
    it. `crop_duration_in_s` is the length of a crop; shorter tracks are used whole; None: all tracks are used whole.
    `items_per_track` is the number of items from a track of a stream each time it is read.
    """

    items_per_track: ClassVar[int] = 1
    feature_extractor: ClapFeatureExtractor
    crop_duration_in_s: float | None = 10.0

    def __post_init__(self):
        if self.crop_duration_in_s is not None and not self.crop_duration_in_s > 0:
            raise ValueError(f"crop_duration_in_s must be greater than 0, got {self.crop_duration_in_s}.")

    def __call__(self, track: Track, rng: np.random.Generator) -> dict:
        """Returns `input_features (1 or 4, num_frames, num_mels)`, `is_longer (1,)` and `prompt`.

        `is_longer` means that the crop is longer than one view. The extractor's own value differs: if no clip of a
        call is longer, it marks one at random, in evaluation too.

        Raises:
            BadTrackError: the track is broken, mislabelled, silent, or has no metadata for a prompt.
        """
        fields = prompt_fields(track.metadata)
        check_fields(track, fields)
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
            "prompt": draw_prompt(fields, random.Random(int(rng.integers(2**63)))),
        }

    def _draw_waveform(self, track: Track, rng: np.random.Generator) -> np.ndarray:
        """A mono crop that is not silent, `(num_samples,)`, after a round trip through 16 bits as in LAION's code."""
        rate = self.feature_extractor.sampling_rate
        duration_in_s = min(self.crop_duration_in_s or track.duration_in_s, track.duration_in_s)
        waveform, _ = draw_crop(track, max(int(duration_in_s * rate), 1), rate, rng)
        mono = waveform.mean(dim=0).clamp(-1, 1)
        return (mono * 32767).trunc().div(32767).numpy()


def mark_longer(is_longer: torch.Tensor) -> torch.Tensor:
    """Marks at least two clips of `(B, 1)` as longer than one view (B > 1), for a training step with fusion.

    The fusion layers then get a gradient in every step, even if all clips are short. LAION's code marks one clip, but
    batch norms after a global average need two.
    """
    if is_longer.sum() >= 2:
        return is_longer
    is_marked = torch.zeros_like(is_longer)
    is_marked[:2] = True
    return is_longer | is_marked
