"""A corpus of composed music: which piece a seed stands for, its split, and its row in a manifest."""

import random
from pathlib import Path

import torch

from stable_longform.data.composition.compose import MAX_DURATION_IN_S, MIN_DURATION_IN_S, compose_piece
from stable_longform.data.composition.piece import Piece
from stable_longform.data.composition.rendering import SAMPLING_RATE, render

# Of 20 seeds in a row, one is held out for validation and one for tests.
SEEDS_PER_SPLIT_CYCLE, VALID_SEED, TEST_SEED = 20, 18, 19


def split_of(seed: int) -> str:
    """The split of a seed: "train", "valid" or "test"."""
    return {VALID_SEED: "valid", TEST_SEED: "test"}.get(seed % SEEDS_PER_SPLIT_CYCLE, "train")


def draw_duration(
    seed: int, min_duration_in_s: float = MIN_DURATION_IN_S, max_duration_in_s: float = MAX_DURATION_IN_S
) -> float:
    """The duration of a seed's piece in whole seconds, uniform between two bounds."""
    return float(round(random.Random(f"duration {seed}").uniform(min_duration_in_s, max_duration_in_s)))


def render_piece(seed: int, duration_in_s: float, soundfont: Path) -> tuple[torch.Tensor, dict]:
    """Composes and plays the piece of a seed, without touching the disk.

    Returns:
        The waveform, float32 `(2, num_samples)` at 44.1 kHz, and the metadata, see `describe`.
    """
    piece = compose_piece(seed, duration_in_s)
    waveform = render(piece, soundfont)
    return waveform, describe(piece, waveform.shape[1] / SAMPLING_RATE)


def describe(piece: Piece, duration_in_s: float) -> dict:
    """What is known of a piece, as a manifest's row says it, all but the path.

    `sections` lists names with start and end in seconds; the last ends where its last note is released, before the
    sound has died away.
    """
    starts = [section.start_bar * piece.beats_per_bar for section in piece.sections]
    ends = starts[1:] + [piece.num_bars * piece.beats_per_bar]
    sections = [
        {
            "name": section.name,
            "start_in_s": round(piece.time_in_s(start), 3),
            "end_in_s": round(piece.time_in_s(end), 3),
            "key": section.key.name,
        }
        for section, start, end in zip(piece.sections, starts, ends, strict=True)
    ]
    return {
        "duration_in_s": int(duration_in_s * 1000) / 1000,
        "split": split_of(piece.seed),
        "kind": piece.kind,
        "seed": piece.seed,
        "genre": [piece.genre],
        "moods": list(piece.moods),
        "instruments": piece.instruments,
        "bpm": piece.bpm,
        "key": piece.key.name,
        "sections": sections,
    }
