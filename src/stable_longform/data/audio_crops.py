"""Random crops of waveforms for training: the autoencoder's input, and the transformer's when nothing is encoded yet.

Contents: `CropMaker` makes an item from a track, `AudioCrops` is an endless sequence of them from a list of tracks,
`collate_crops` stacks them. From a list every item is a pure function of `(seed, index)`, so a run resumed at any step
sees exactly the data that an undisturbed one would have seen, on any number of processes.
`stable_longform.data.streams` makes the same items from tracks that come one after the other.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from stable_longform.data.bad_tracks import MAX_BAD_FRACTION, MAX_DRAWS, BadTrackError, BadTracks, read_track
from stable_longform.data.manifest import Track, draw_index
from stable_longform.data.prompts import available_fields, build_prompt
from stable_longform.data.streams import StreamItems, TrackStream, open_items

SILENCE_PEAK = 10 ** (-60 / 20)  # crops quieter than -60 dBFS are drawn again, as in the code of the paper
RESAMPLING_MARGIN_IN_S = 0.01
CROPS_PER_TRACK = 8  # of a track of a stream each time it is read


@dataclass(frozen=True)
class CropMaker:
    """Makes items from tracks: stereo crops `(2, num_samples)` at `sampling_rate` Hz, with timing and a prompt.

    Files of another rate are resampled; a shorter track is completed with silence. `phase_flip_probability` is how
    often a crop's sign is flipped (paper code: 0.5). `max_seconds` is the largest `seconds_start` and
    `seconds_total`; what is later or longer gets this value. With `needs_prompt` a track whose metadata gives no
    prompt counts as mislabelled.
    """

    num_samples: int
    sampling_rate: int = 44100
    phase_flip_probability: float = 0.5
    max_seconds: float = 512.0
    needs_prompt: bool = False

    def __call__(self, track: Track, rng: np.random.Generator) -> dict:
        """Draws a crop that is not silent; all randomness comes from `rng`.

        Returns:
            `waveform (2, num_samples)` in [-1, 1]; `start_in_s`, where the crop starts in the track; `seconds_start`
            and `seconds_total`, start and length of the whole track rounded down and up to whole seconds, as in the
            paper's code; `metadata`; `prompt`, made from it (Paper: §3.1), empty where it gives none.

        Raises:
            BadTrackError: the track is broken or mislabelled, or `MAX_DRAWS` crops were silent.
        """
        if self.needs_prompt:
            check_prompt(track)
        waveform, start_in_s = draw_crop(track, self.num_samples, self.sampling_rate, rng)
        if rng.random() < self.phase_flip_probability:
            waveform = -waveform
        metadata = track.metadata
        prompt_rng = random.Random(int(rng.integers(2**63)))
        return {
            "waveform": waveform.clamp(-1, 1),
            "start_in_s": start_in_s,
            "seconds_start": min(float(int(start_in_s)), self.max_seconds),
            "seconds_total": min(float(np.ceil(track.duration_in_s)), self.max_seconds),
            "metadata": metadata,
            "prompt": build_prompt(metadata, prompt_rng) if available_fields(metadata) else "",
        }


class AudioCrops(torch.utils.data.Dataset):
    """Items of a `CropMaker` from random places of random tracks; only the crop is read from disk.

    Tracks that cannot be used are left out and counted; another one is drawn instead.

    Args:
        tracks: drawn in proportion to weight times duration.
        make_item: length, rate and the like of the crops.
        seed: of the whole sequence.
        is_weighted_by_duration: False draws tracks in proportion to their weight alone, for crops that take most of a
            track.
        max_bad_fraction: share of the tracks that may be unusable, in [0, 1].

    Raises:
        ValueError: no tracks, or `max_bad_fraction` outside [0, 1].
        TooManyBadTracks: (by an item) more tracks than `max_bad_fraction` turned out to be unusable, or `MAX_DRAWS` in
            a row.
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        make_item: CropMaker,
        seed: int = 0,
        is_weighted_by_duration: bool = True,
        max_bad_fraction: float = MAX_BAD_FRACTION,
    ):
        if not tracks:
            raise ValueError("tracks must hold at least one track, got none.")
        self.tracks, self.make_item, self.seed = tracks, make_item, seed
        self.bad_tracks = BadTracks(len(tracks), max_bad_fraction)
        self.cumulative_weights = np.cumsum(
            [track.weight * (track.duration_in_s if is_weighted_by_duration else 1.0) for track in tracks]
        )

    def __len__(self) -> int:
        return 2**31  # an endless sequence; the sampler chooses the range

    def __getitem__(self, index: int) -> dict:
        """Gives the item of `CropMaker.__call__` and `track`, the number of its track."""
        rng = np.random.default_rng([self.seed, index])
        numbers = (draw_index(self.cumulative_weights, rng) for _ in range(MAX_DRAWS))
        return self.bad_tracks.first_usable(
            numbers, lambda number: self.make_item(self.tracks[number], rng) | {"track": number}
        )


def make_crops(
    tracks: Sequence[Track] | TrackStream,
    make_item: CropMaker,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    is_weighted_by_duration: bool = True,
    max_bad_fraction: float = MAX_BAD_FRACTION,
) -> AudioCrops | StreamItems:
    """Crops of what `open_tracks` opened: `AudioCrops` of a list, one process's `StreamItems` of a stream.

    Args:
        tracks: a list, or a stream, of which each track gives `CROPS_PER_TRACK` crops each time it is read.
        make_item: length, rate and the like of the crops.
        seed: of the whole sequence.
        accelerator: whose processes share a stream and whose checkpoints keep its place; None: this process alone.
            Lists need neither.
        is_weighted_by_duration: see `AudioCrops`; streams have no weights.
        max_bad_fraction: share of the tracks that may be unusable, in [0, 1].
    """
    if isinstance(tracks, TrackStream):
        return open_items(tracks, make_item, seed, accelerator, CROPS_PER_TRACK, max_bad_fraction)
    return AudioCrops(tracks, make_item, seed, is_weighted_by_duration, max_bad_fraction)


def check_prompt(track: Track) -> None:
    """Raises a BadTrackError if the track's metadata gives no prompt."""
    if not available_fields(track.metadata):
        raise BadTrackError(track.path, "mislabelled", "it has no metadata for a prompt")


def draw_crop(
    track: Track, num_samples: int, sampling_rate: int, rng: np.random.Generator
) -> tuple[torch.Tensor, float]:
    """A random crop as `random_crop` gives it, drawn again while it is silent.

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
    """Reads `(2, num_samples)` of a track from a random second on; a short track is completed with silence.

    Returns:
        The crop, and the second in which it starts.

    Raises:
        BadTrackError: the track is broken or mislabelled.
    """
    duration_in_s = num_samples / sampling_rate
    start_in_s = rng.random() * max(track.duration_in_s - duration_in_s, 0.0)
    waveform = read_track(track, start_in_s, duration_in_s + RESAMPLING_MARGIN_IN_S, sampling_rate)[:, :num_samples]
    return F.pad(waveform, (0, num_samples - waveform.shape[1])), start_in_s


def collate_crops(items: Sequence[dict]) -> dict:
    """Stacks items: waveform `(B, 2, N)`, numbers `(B,)` in float32, metadata and prompts as lists."""
    batch = {"waveform": torch.stack([item["waveform"] for item in items])}
    for name in ("start_in_s", "seconds_start", "seconds_total"):
        batch[name] = torch.tensor([item[name] for item in items], dtype=torch.float32)
    return batch | {name: [item[name] for item in items] for name in ("metadata", "prompt")}
