"""Composes whole pieces, deterministically from a seed."""

import random

from stable_longform.data.composition.arrangement import Arranger
from stable_longform.data.composition.forms import plan_sections
from stable_longform.data.composition.genres import GENRES
from stable_longform.data.composition.harmony import make_progression, theme_bars
from stable_longform.data.composition.melody import make_melody
from stable_longform.data.composition.moods import MOODS, blend
from stable_longform.data.composition.piece import Piece
from stable_longform.data.composition.rhythms import MELODY_RHYTHMS
from stable_longform.data.composition.theory import Key

MIN_DURATION_IN_S, MAX_DURATION_IN_S = 20.0, 285.0
TAIL_IN_S = 3.0  # kept free at the end, for the last notes to die away in


def compose_piece(seed: int, duration_in_s: float, genre: str | None = None) -> Piece:
    """Composes a piece.

    Args:
        seed: decides on everything.
        duration_in_s: room for the music and its last notes, 20 ... 285; the music ends less than a bar earlier.
        genre: a key of `GENRES`; None: drawn.
    """
    if not MIN_DURATION_IN_S <= duration_in_s <= MAX_DURATION_IN_S:
        raise ValueError(f"duration_in_s must be in [20, 285], got {duration_in_s}.")
    rng = random.Random(f"piece {seed}")
    drawn = rng.choice(list(GENRES))
    genre = genre or drawn
    style = GENRES[genre]
    moods = draw_moods(style.moods, style.modes, rng)
    mood = blend([MOODS[name] for name in moods])
    key = Key(rng.randrange(12), rng.choice([mode for mode in style.modes if mode in mood.modes]))
    slowest, fastest = style.bpm
    bpm = round(slowest + (fastest - slowest) * rng.uniform(*mood.tempo))
    num_bars = int((duration_in_s - TAIL_IN_S) * bpm / 60 // style.beats_per_bar)
    length = theme_bars(style.harmony)
    sections = plan_sections(style.form, num_bars, length, key, mood.intensity, random.Random(f"form {seed}"))
    chords, melodies = {}, {}
    for section in sections:
        if section.theme not in chords:
            theme_rng = random.Random(f"theme {section.theme} {seed}")
            theme_key = section.key
            bars = make_progression(style.harmony, theme_key, style.chord_steps, style.has_leading_tone, theme_rng)
            density = mood.density + (0.6 if len(section.theme) > 1 else 0.1 if section.theme == "C" else 0)
            chords[section.theme] = bars
            rhythms = MELODY_RHYTHMS[style.melody]
            melodies[section.theme] = make_melody(bars, style.beats_per_bar, rhythms, density, theme_rng)
    arranger = Arranger(style, mood.density, mood.register, random.Random(f"parts {seed}"))
    parts = arranger.write(sections, chords, melodies)
    return Piece(seed, "piece", genre, moods, bpm, key, style.beats_per_bar, tuple(sections), parts)


def draw_moods(names: tuple[str, ...], modes: tuple[str, ...], rng: random.Random) -> tuple[str, ...]:
    """Draws one or two moods that have one of the genre's modes in common."""
    first = rng.choice(names)

    def modes_of(*moods: str) -> set[str]:
        return set(modes).intersection(*(MOODS[mood].modes for mood in moods))

    others = [name for name in names if name != first and modes_of(first, name)]
    others = [name for name in others if abs(MOODS[name].intensity - MOODS[first].intensity) <= 0.2]
    return (first, rng.choice(others)) if others and rng.random() < 0.5 else (first,)
