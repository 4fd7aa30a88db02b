"""Latents encoded once, and the windows of them that train the transformer.

A folder of latents holds one safetensors file for each track (`mean` and `std` of the posterior, `(channels, frames)`,
float16), `silence.safetensors` (the same for one frame of silence) and `index.jsonl` with a row for each track:
`file`, `latent_length` (frames of music; the file holds a few more, in which the music fades into silence),
`duration_in_s`, `split`, `weight` and the metadata for prompts. `latents.json` says which autoencoder made them.
"""

import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from stable_longform.data.manifest import draw_index
from stable_longform.data.prompts import available_fields, build_prompt

INDEX_FILE, SILENCE_FILE, INFO_FILE = "index.jsonl", "silence.safetensors", "latents.json"


@dataclass(frozen=True)
class LatentTrack:
    """One encoded recording: its file, frames of music, length in seconds, split, weight and metadata."""

    file: Path
    latent_length: int
    duration_in_s: float
    split: str
    weight: float
    metadata: dict


def read_latent_index(directory: str | os.PathLike, split: str | None = None) -> list[LatentTrack]:
    """Reads the tracks of a folder of latents, those of one split or all.

    Raises:
        ValueError: the folder has no index, or no track in that split.
    """
    index = Path(directory) / INDEX_FILE
    if not index.is_file():
        raise ValueError(f"{directory} is not a folder of latents: it has no {INDEX_FILE}.")
    rows = [json.loads(line) for line in index.read_text(encoding="utf-8").splitlines()]
    tracks = [LatentTrack(**(row | {"file": index.parent / row["file"]})) for row in rows]
    tracks = [track for track in tracks if split in (None, track.split)]
    if not tracks:
        raise ValueError(f"{directory} has no latents" + (f" in split {split!r}." if split else "."))
    return tracks


class LatentWindows(torch.utils.data.Dataset):
    """Windows of latents with their timing and a prompt; each item is a pure function of `(seed, index)`.

    A longer track is cut at a random frame, a shorter one is completed with the latents of silence, which the model
    learns to generate. Paper: §2.2 (timing), §3.1 (prompts). Posterior samples are drawn, as the paper's code does.

    Args:
        directory: the folder of latents.
        split: "train", "valid", "test" or "extra".
        window_length: frames of an item.
        max_seconds: largest `seconds_start` and `seconds_total`; what is later or longer gets this value.
        seed: of the whole sequence.

    Raises:
        ValueError: no track in the split, or a track whose metadata holds nothing to make a prompt from.
    """

    def __init__(
        self, directory: str | os.PathLike, split: str, window_length: int, max_seconds: float = 512, seed: int = 0
    ):
        self.tracks = read_latent_index(directory, split)
        self.frames_per_s = json.loads((Path(directory) / INFO_FILE).read_text(encoding="utf-8"))["latent_rate"]
        self.silence = load_file(Path(directory) / SILENCE_FILE)
        self.window_length, self.max_seconds, self.seed = window_length, max_seconds, seed
        for track in self.tracks:
            if not available_fields(track.metadata):
                raise ValueError(f"{track.file}: the metadata has no field to make a prompt from.")
        self.weights = [track.weight for track in self.tracks]

    def __len__(self) -> int:
        return 2**31  # an endless sequence; the sampler chooses the range

    def __getitem__(self, index: int) -> dict:
        """Gives `latents (channels, window_length)`, `seconds_start`, `seconds_total` and `prompt`.

        `seconds_start` is rounded down and `seconds_total` up to whole seconds, as in the paper's code.
        """
        rng = np.random.default_rng([self.seed, index])
        track = self.tracks[draw_index(self.weights, rng)]
        start = int(rng.integers(0, max(track.latent_length - self.window_length, 0) + 1))
        mean, std = self._read(track, start)
        noise = torch.from_numpy(rng.standard_normal(mean.shape, dtype=np.float32))
        return {
            "latents": mean + std * noise,
            "seconds_start": min(float(int(start / self.frames_per_s)), float(self.max_seconds)),
            "seconds_total": min(float(np.ceil(track.duration_in_s)), float(self.max_seconds)),
            "prompt": build_prompt(track.metadata, random.Random(int(rng.integers(2**63)))),
        }

    def _read(self, track: LatentTrack, start: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of a window, completed with silence; only the window is read from disk."""
        parts = []
        with safe_open(track.file, framework="pt") as file:
            for name in ("mean", "std"):
                part = file.get_slice(name)[:, start : start + self.window_length].float()
                missing = self.window_length - part.shape[1]
                silence = self.silence[name].float().expand(-1, missing)
                parts.append(torch.cat([part, silence], dim=1) if missing else part)
        return parts[0], parts[1]


def collate_windows(items: Sequence[dict]) -> dict:
    """Stacks items of `LatentWindows`: latents `(B, C, L)`, seconds `(B,)`, prompts as a list."""
    return {
        "latents": torch.stack([item["latents"] for item in items]),
        "seconds_start": torch.tensor([item["seconds_start"] for item in items], dtype=torch.float32),
        "seconds_total": torch.tensor([item["seconds_total"] for item in items], dtype=torch.float32),
        "prompt": [item["prompt"] for item in items],
    }
