"""Composed music as a source: `composed:0..399` stands for the pieces with these seeds.

Each piece is composed and rendered when it is needed, without using the disk.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import soundfile

from stable_longform.data.composition.corpus import render_piece, split_of
from stable_longform.data.composition.rendering import SAMPLING_RATE, find_soundfont
from stable_longform.data.recordings import Recording
from stable_longform.data.storage import InMemory

COMPOSED_PREFIX = "composed:"


@dataclass(frozen=True)
class ComposedShards:
    """Whole pieces of 20 to 285 s, one in each shard.

    Attributes:
        seeds: of the pieces; they also determine the splits.
        soundfont: the soundfont that plays them.
    """

    seeds: tuple[int, ...]
    soundfont: Path

    @property
    def num_shards(self) -> int:
        """Number of pieces."""
        return len(self.seeds)

    def of_split(self, split: str) -> "ComposedShards":
        """The pieces of a split.

        Raises:
            ValueError: there are no such pieces.
        """
        seeds = tuple(seed for seed in self.seeds if split_of(seed) == split)
        if not seeds:
            raise ValueError(f"None of the seeds {self.seeds[0]} to {self.seeds[-1]} is in split {split!r}.")
        return replace(self, seeds=seeds)

    def read_shard(self, number: int) -> Iterator[Recording]:
        """The piece with a seed, as a FLAC file in memory."""
        seed = self.seeds[number]
        waveform, metadata = render_piece("piece", seed, self.soundfont)
        file = io.BytesIO()
        soundfile.write(file, waveform.T.numpy(), SAMPLING_RATE, format="FLAC", subtype="PCM_16")
        yield Recording(Path(f"{COMPOSED_PREFIX}{seed}"), str(seed), lambda: metadata, InMemory(file.getvalue()))


def open_composed(name: str) -> ComposedShards:
    """Opens the pieces that a name such as `composed:0..399` describes, including both seeds.

    Raises:
        ValueError: the name has another form, or no soundfont was found.
    """
    match = re.fullmatch(rf"{COMPOSED_PREFIX}(\d+)\.\.(\d+)", name)
    if match is None or int(match[1]) > int(match[2]):
        raise ValueError(f"Composed music is named {COMPOSED_PREFIX}FIRST_SEED..LAST_SEED, got {name!r}.")
    return ComposedShards(tuple(range(int(match[1]), int(match[2]) + 1)), find_soundfont())
