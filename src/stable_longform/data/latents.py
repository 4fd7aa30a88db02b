"""Latents that were encoded once, and windows of them for the training of the transformer.

A folder of latents holds

- shards, which are safetensors files of some tracks each: for a track with the key K, they hold the tensors `K.mean`
  and `K.std` of its posterior, `(channels, frames)`, float16. The header's entry `tracks` has the rows of the index;
- `silence.safetensors`: `mean` and `std` of one frame of silence;
- `index.jsonl`, with a row for each track: `file`, `key`, `latent_length` (frames of music; the file holds a few more,
  in which the music fades into silence), `duration_in_s`, `split`, `weight` and the metadata for prompts;
- `latents.json`, which identifies the autoencoder.

Files without keys, with `mean` and `std` of one track each, can be read too.
"""

import json
import math
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from stable_longform.data.bad_tracks import MAX_BAD_FRACTION, MAX_DRAWS, BadTrackError, BadTracks
from stable_longform.data.numbered_items import NumberedItems, draw_index
from stable_longform.data.prompts import available_fields, build_prompt
from stable_longform.utils.files import atomic_path
from stable_longform.utils.ranges import Range
from stable_longform.utils.text_files import parse_json_object, printable, read_json_lines, read_text

MAX_OPEN_FILES = 128  # of a folder, in each process
INDEX_FILE, SILENCE_FILE, INFO_FILE = "index.jsonl", "silence.safetensors", "latents.json"


@dataclass(frozen=True)
class LatentTrack:
    """One encoded recording: its file and key, frames of music, length in seconds, split, weight and metadata."""

    file: Path
    latent_length: int
    duration_in_s: float
    split: str
    weight: float
    metadata: dict
    key: str = ""

    def tensor_name(self, name: str) -> str:
        """The name of the track's `mean` or `std` in the file."""
        return f"{self.key}.{name}" if self.key else name


def find_file(directory: str | os.PathLike, name: str) -> Path:
    """A file of a folder of latents.

    Raises:
        ValueError: it is missing.
    """
    file = Path(directory) / name
    if not file.is_file():
        raise ValueError(f"{directory} is not a folder of latents: it has no {name}.")
    return file


def read_latent_index(directory: str | os.PathLike, split: str | None = None) -> list[LatentTrack]:
    """Reads the tracks of a folder of latents, those of one split or all.

    Raises:
        ValueError: the folder has no index, or no track in that split.
    """
    index = find_file(directory, INDEX_FILE)
    tracks = [_latent_track(row, place, index.parent) for place, row in read_json_lines(index)]
    tracks = [track for track in tracks if split in (None, track.split)]
    if not tracks:
        raise ValueError(f"{directory} has no latents" + (f" in split {split!r}." if split else "."))
    return tracks


def _latent_track(row: dict, place: str, folder: Path) -> LatentTrack:
    """The track of a row of the index; `place` names it in errors."""
    try:
        return LatentTrack(**(row | {"file": folder / row["file"]}))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{place} is not a row of an index of latents: {error}.") from error


def write_shard(directory: Path, rows: Sequence[dict], posteriors: Sequence[dict[str, torch.Tensor]]) -> list[dict]:
    """Writes some tracks to a shard named after the first one's key; the file appears only when complete.

    Args:
        directory: the folder of latents.
        rows: of the index, without `file`.
        posteriors: `mean` and `std` of each.

    Returns:
        The rows with `file`.
    """
    name = f"shard-{rows[0]['key']}.safetensors"
    rows = [row | {"file": name} for row in rows]
    tensors = {
        f"{row['key']}.{part}": tensor.contiguous()
        for row, posterior in zip(rows, posteriors, strict=True)
        for part, tensor in posterior.items()
    }
    with atomic_path(directory / name) as temporary:
        save_file(tensors, temporary, {"tracks": json.dumps(rows)})
    return rows


def read_shards(directory: Path) -> dict[str, dict]:
    """The rows of all shards of a folder by key; shards that cannot be read are ignored."""
    found: dict[str, dict] = {}
    for file in sorted(directory.glob("shard-*.safetensors")):
        try:
            with safe_open(file, framework="pt") as shard:
                rows = json.loads(shard.metadata()["tracks"])
        except (SafetensorError, OSError, TypeError, KeyError, ValueError):
            continue
        found |= {row["key"]: row for row in rows}
    return found


class LatentWindows(NumberedItems):
    """Windows of latents with their timing and a prompt; each item is a pure function of `(seed, number)`.

    Items have `latents (channels, window_length)`, `latent_mask`, `seconds_start`, `seconds_total` and `prompt`.
    `latent_mask (window_length,)` is True for frames of music, False for the silence after it. `seconds_start` is
    where the window starts in the track, rounded down, `seconds_total` the whole track's length, rounded up to whole
    seconds, as in the paper's code.

    A longer track is cut at a random frame. A shorter one is padded with latents of silence, which the model learns to
    generate. Paper: §2.2 (timing), §3.1 (prompts). As in the paper's code, the posterior is sampled.

    Args:
        directory: the folder of latents.
        split: "train", "valid", "test" or "extra".
        window_length: frames of an item.
        max_seconds: largest `seconds_start` and `seconds_total`; larger values are clipped to it.
        seed: of the whole sequence.
        max_bad_fraction: share of the tracks that may turn out to be unreadable, in [0, 1]. They are replaced by
            others.
        excerpt_probability: share of the items, in [0, 1], for which a random part of the track is treated as a whole
            piece: it starts at 0, `seconds_total` is its length, and silence follows. Not in the paper. Without it, a
            model sees only as many endings as there are tracks, and short durations only as often as short tracks. The
            length is the longest possible one times `min(1.6 u³, 1)` with u uniform in (0, 1]: one in seven has the
            longest possible length, half are shorter than a fifth of it.

    Raises:
        ValueError: the split has no track, a track has no metadata for a prompt, or `max_bad_fraction` or
            `excerpt_probability` is outside [0, 1].
        TooManyBadTracks: (from an item) the share of unreadable tracks exceeds `max_bad_fraction`, or `MAX_DRAWS`
            consecutive tracks are unreadable.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        split: str,
        window_length: int,
        max_seconds: float = 512,
        seed: int = 0,
        max_bad_fraction: float = MAX_BAD_FRACTION,
        excerpt_probability: float = 0.0,
    ):
        if not 0 <= excerpt_probability <= 1:
            raise ValueError(f"excerpt_probability must be in [0, 1], got {excerpt_probability}.")
        self.excerpt_probability = excerpt_probability
        self.tracks = read_latent_index(directory, split)
        super().__init__(seed, BadTracks(len(self.tracks), max_bad_fraction))
        self.frames_per_s = _read_rate(find_file(directory, INFO_FILE))
        self.silence = _read_silence(find_file(directory, SILENCE_FILE))
        self.window_length, self.max_seconds = window_length, max_seconds
        for track in self.tracks:
            if not available_fields(track.metadata):
                raise ValueError(f"{track.file}: the metadata has no field to make a prompt from.")
        self.cumulative_weights = np.cumsum([track.weight for track in self.tracks])
        self._files: dict[Path, Any] = {}

    def __getstate__(self) -> dict:
        """For workers that are not forks: open files are not passed on."""
        return self.__dict__ | {"_files": {}}

    def candidates(self, number: int, rng: np.random.Generator) -> Iterator[LatentTrack]:
        """Tracks, drawn in proportion to their weights."""
        return (self.tracks[draw_index(self.cumulative_weights, rng)] for _ in range(MAX_DRAWS))

    def make(self, track: LatentTrack, rng: np.random.Generator) -> dict:
        """Makes an item from a random window of a track, or from a part of it."""
        if self.excerpt_probability and rng.random() < self.excerpt_probability:
            share = min(1.6 * (1 - rng.random()) ** 3, 1.0)
            length = math.ceil(min(track.latent_length, self.window_length) * share)
            start = int(rng.integers(0, track.latent_length - length + 1))
            return self._item(track, rng, start, start + length, 0.0, length / self.frames_per_s)
        start = int(rng.integers(0, max(track.latent_length - self.window_length, 0) + 1))
        return self._item(track, rng, start, None, start / self.frames_per_s, track.duration_in_s)

    def _item(
        self,
        track: LatentTrack,
        rng: np.random.Generator,
        start: int,
        stop: int | None,
        start_in_s: float,
        duration_in_s: float,
    ) -> dict:
        """Makes an item from a track's latents from `start` to `stop`, or to the end of the window."""
        mean, std = self._read(track, start, stop)
        noise = torch.from_numpy(rng.standard_normal(mean.shape, dtype=np.float32))
        return {
            "latents": mean + std * noise,
            "latent_mask": torch.arange(self.window_length) < (stop or track.latent_length) - start,
            "seconds_start": min(float(int(start_in_s)), float(self.max_seconds)),
            "seconds_total": min(float(np.ceil(duration_in_s)), float(self.max_seconds)),
            "prompt": build_prompt(track.metadata, random.Random(int(rng.integers(2**63)))),
        }

    def _read(self, track: LatentTrack, start: int, stop: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of a window, padded with silence; only the window is read from disk."""
        window = slice(start, start + self.window_length if stop is None else stop)
        try:
            file = self._open(track.file)
            parts = [file.get_slice(track.tensor_name(name))[:, window].float() for name in ("mean", "std")]
        except (SafetensorError, OSError) as error:
            raise BadTrackError(track.file / track.key, "broken", " ".join(str(error).split())) from error
        missing = self.window_length - parts[0].shape[1]
        silence = [self.silence[name].float().expand(-1, missing) for name in ("mean", "std")]
        mean, std = (torch.cat(pair, dim=1) for pair in zip(parts, silence, strict=True))
        return mean, std

    def _open(self, file: Path):
        """An open file of latents; opening it takes longer than reading a window."""
        if file not in self._files:
            if len(self._files) == MAX_OPEN_FILES:
                self._files.clear()
            self._files[file] = safe_open(file, framework="pt")
        return self._files[file]


def _read_rate(file: Path) -> float:
    """Frames per second, from `latents.json`."""
    rate = parse_json_object(read_text(file), printable(file)).get("latent_rate")
    if rate not in Range(0, above=True):
        raise ValueError(f"{file}: latent_rate must be a number greater than 0 and finite, got {rate!r}.")
    return cast(float, rate)


def _read_silence(file: Path) -> dict[str, torch.Tensor]:
    """`mean` and `std` of a frame of silence."""
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} cannot be read as safetensors: {error}.") from error


def collate_windows(items: Sequence[dict]) -> dict:
    """Stacks items: tensors along a new first dimension, numbers to `(B,)` in float32, prompts to a list."""
    batch: dict[str, torch.Tensor | list[str]] = {}
    for name, value in items[0].items():
        values = [item[name] for item in items]
        if isinstance(value, torch.Tensor):
            batch[name] = torch.stack(values)
        else:
            batch[name] = values if isinstance(value, str) else torch.tensor(values, dtype=torch.float32)
    return batch
