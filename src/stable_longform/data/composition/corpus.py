"""A corpus of composed music: the music for a seed, its split, and its row in a manifest."""

import random
from pathlib import Path

import torch

from stable_longform.data.composition.compose import (
    PIECE_DURATION_IN_S,
    STEM_DURATION_IN_S,
    compose_piece,
    compose_stem,
)
from stable_longform.data.composition.descriptions import describe_in_words
from stable_longform.data.composition.one_shots import compose_one_shot
from stable_longform.data.composition.piece import Piece
from stable_longform.data.composition.rendering import SAMPLING_RATE, render

KINDS = ("piece", "stem", "one-shot")
# Of 20 seeds in a row, one is held out for validation and one for tests.
SEEDS_PER_SPLIT_CYCLE, VALID_SEED, TEST_SEED = 20, 18, 19


def split_of(seed: int) -> str:
    """The split of a seed: "train", "valid" or "test"."""
    return {VALID_SEED: "valid", TEST_SEED: "test"}.get(seed % SEEDS_PER_SPLIT_CYCLE, "train")


def draw_duration(seed: int, min_duration_in_s: float, max_duration_in_s: float) -> float:
    """The duration of a seed's piece in whole seconds, uniform between two bounds."""
    return float(round(random.Random(f"duration {seed}").uniform(min_duration_in_s, max_duration_in_s)))


def compose(
    kind: str, seed: int, piece_duration_in_s: tuple[float, float] = PIECE_DURATION_IN_S
) -> tuple[Piece, float | None]:
    """Composes the piece for a seed; also returns its longest duration, None if it may last as long as it sounds.

    Args:
        kind: one of `KINDS`.
        seed: determines everything.
        piece_duration_in_s: shortest and longest piece, within `PIECE_DURATION_IN_S`.

    Raises:
        ValueError: `kind` is unknown, or the durations are out of range.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}.")
    if kind == "one-shot":
        return compose_one_shot(seed), None
    if kind == "stem":
        duration_in_s = draw_duration(seed, *STEM_DURATION_IN_S)
        return compose_stem(seed, duration_in_s), duration_in_s
    duration_in_s = draw_duration(seed, *piece_duration_in_s)
    return compose_piece(seed, duration_in_s), duration_in_s


def render_piece(
    kind: str, seed: int, soundfont: Path, piece_duration_in_s: tuple[float, float] = PIECE_DURATION_IN_S
) -> tuple[torch.Tensor, dict]:
    """Composes and renders the piece for a seed, without using the disk.

    Args:
        kind, seed, piece_duration_in_s: as in `compose`.
        soundfont: a General MIDI .sf2 file, see `rendering.find_soundfont`.

    Returns:
        The waveform, float32 `(2, num_samples)` at 44.1 kHz, and the metadata, see `metadata_of`.
    """
    piece, duration_in_s = compose(kind, seed, piece_duration_in_s)
    waveform = render(piece, soundfont, duration_in_s)
    return waveform, metadata_of(piece, waveform.shape[1])


def metadata_of(piece: Piece, num_samples: int) -> dict:
    """The metadata of a rendered piece, as the row of a manifest without the path.

    `sections` lists names, start and end in seconds, and keys; the last section ends where the last notes are
    released, before the sound has decayed. Properties that a piece does not have, such as a key for drums, are
    omitted.
    """
    bars = [(section, section.start_bar, section.start_bar + section.num_bars) for section in piece.sections]
    sections = [
        {
            "name": section.name,
            "start_in_s": round(piece.time_in_s(start * piece.beats_per_bar), 3),
            "end_in_s": round(piece.time_in_s(end * piece.beats_per_bar), 3),
            **({"key": section.key.name} if piece.key else {}),
        }
        for section, start, end in bars
    ]
    metadata = {
        # Rounded down so that it does not exceed the file.
        "duration_in_s": num_samples * 1000 // SAMPLING_RATE / 1000,
        "split": split_of(piece.seed),
        "kind": piece.kind,
        "seed": piece.seed,
        "genre": [piece.genre] if piece.genre else [],
        "moods": list(piece.moods),
        "instruments": piece.instruments,
        "bpm": piece.bpm if piece.sections else None,
        "key": piece.key.name if piece.key else None,
        "description": describe_in_words(piece),
        "sections": sections,
    }
    return {name: value for name, value in metadata.items() if value not in (None, [])}
