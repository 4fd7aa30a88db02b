"""Random crops of waveforms for training: the input of the autoencoder, or of the transformer without encoded latents.

Contents: `CropMaker` makes an item from a track, for `Source.items`; `collate_crops` stacks items.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from stable_longform.data.bad_tracks import MAX_DRAWS, BadTrackError
from stable_longform.data.prompts import draw_prompt, prompt_fields
from stable_longform.data.tracks import Track, read_track

SILENCE_PEAK = 10 ** (-60 / 20)  # crops quieter than -60 dBFS are drawn again, as in the code of the paper


@dataclass(frozen=True)
class CropMaker:
    """Makes items from tracks: stereo crops `(2, num_samples)` at `sampling_rate` Hz, with timing and a prompt.

    Files with another rate are resampled; shorter tracks are padded with silence. `phase_flip_probability` is the
    share of crops whose sign is flipped (paper code: 0.5). `max_seconds` is the largest `seconds_start` and
    `seconds_total`; larger values are clipped to it. With `needs_prompt`, a track without metadata for a prompt counts
    as mislabelled. `items_per_track` is the number of items from a track of a stream each time it is read.
    """

    items_per_track: ClassVar[int] = 8

    num_samples: int
    sampling_rate: int = 44100
    phase_flip_probability: float = 0.5
    max_seconds: float = 512.0
    needs_prompt: bool = False

    def __call__(self, track: Track, rng: np.random.Generator) -> dict:
        """Draws a crop that is not silent; all randomness comes from `rng`.

        Returns:
            `waveform (2, num_samples)` in [-1, 1]; `start_in_s`, the start of the crop in the track; `seconds_start`
            and `seconds_total`, the start rounded down and the length of the track rounded up to whole seconds, as in
            the paper's code; `metadata`; and a `prompt` made from it (Paper: §3.1), empty if there is none.

        Raises:
            BadTrackError: the track is broken or mislabelled, or `MAX_DRAWS` crops were silent.
        """
        fields = prompt_fields(track.metadata)
        if self.needs_prompt:
            check_fields(track, fields)
        waveform, start_in_s = draw_crop(track, self.num_samples, self.sampling_rate, rng)
        if rng.random() < self.phase_flip_probability:
            waveform = -waveform
        prompt_rng = random.Random(int(rng.integers(2**63)))
        return {
            "waveform": waveform.clamp(-1, 1),
            "start_in_s": start_in_s,
            "seconds_start": min(float(int(start_in_s)), self.max_seconds),
            "seconds_total": min(float(np.ceil(track.duration_in_s)), self.max_seconds),
            "metadata": track.metadata,
            "prompt": draw_prompt(fields, prompt_rng) if fields else "",
        }


def check_fields(track: Track, fields: Mapping) -> None:
    """Raises a BadTrackError if a track has no field for a prompt."""
    if not fields:
        raise BadTrackError(track.path, "mislabelled", "it has no metadata for a prompt")


def draw_crop(
    track: Track, num_samples: int, sampling_rate: int, rng: np.random.Generator
) -> tuple[torch.Tensor, float]:
    """Draws a random crop with `random_crop`, again and again while it is silent.

    Raises:
        BadTrackError: the track is broken or mislabelled, or `MAX_DRAWS` crops were silent.
    """
    for _ in range(MAX_DRAWS):
        waveform, start_in_s = random_crop(track, num_samples, sampling_rate, rng)
        if waveform.abs().max() >= SILENCE_PEAK:
            return waveform, start_in_s
    raise BadTrackError(track.path, "silent", f"{MAX_DRAWS} crops in a row were silent")


def random_crop(
    track: Track, num_samples: int, sampling_rate: int, rng: np.random.Generator
) -> tuple[torch.Tensor, float]:
    """Reads `(2, num_samples)` of a track from a random time on; a short track is padded with silence.

    Returns:
        The crop, and its start in seconds.

    Raises:
        BadTrackError: the track is broken or mislabelled.
    """
    duration_in_s = num_samples / sampling_rate
    start_in_s = rng.random() * max(track.duration_in_s - duration_in_s, 0.0)
    waveform = read_track(track, start_in_s, duration_in_s, sampling_rate)[:, :num_samples]
    return F.pad(waveform, (0, num_samples - waveform.shape[1])), start_in_s


def collate_crops(items: Sequence[dict]) -> dict:
    """Stacks items: waveform `(B, 2, N)`, numbers `(B,)` in float32, metadata and prompts as lists."""
    batch = {"waveform": torch.stack([item["waveform"] for item in items])}
    for name in ("start_in_s", "seconds_start", "seconds_total"):
        batch[name] = torch.tensor([item[name] for item in items], dtype=torch.float32)
    return batch | {name: [item[name] for item in items] for name in ("metadata", "prompt")}
