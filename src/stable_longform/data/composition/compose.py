"""Composes whole pieces and stems, deterministically from a seed."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stable_longform.data.composition.arrangement import Arranger
from stable_longform.data.composition.forms import plan_sections
from stable_longform.data.composition.genres import GENRES, Genre
from stable_longform.data.composition.harmony import make_progression, theme_bars
from stable_longform.data.composition.instruments import INSTRUMENTS, Instrument
from stable_longform.data.composition.melody import make_melody
from stable_longform.data.composition.moods import MOODS, Mood, blend
from stable_longform.data.composition.orchestra import choose_players
from stable_longform.data.composition.piece import Piece
from stable_longform.data.composition.rhythms import MELODY_RHYTHMS
from stable_longform.data.composition.theory import Key, parse_key

PIECE_DURATION_IN_S = (20.0, 285.0)  # shortest and longest
STEM_DURATION_IN_S = (10.0, 60.0)
TAIL_IN_S = 3.5  # at the end, in which the last notes decay
LEVEL_IN_DBFS, LEVEL_OF_INTENSITY_IN_DB = -16.0, 12.0  # root mean square of a piece, and the effect of its moods
SOLO_DENSITY = 0.6  # how much busier solos are


@dataclass(frozen=True)
class Plan:
    """The decisions that are made before any note is written."""

    seed: int
    genre: str
    moods: tuple[str, ...]
    bpm: int
    key: Key

    @property
    def style(self) -> Genre:
        """The genre's settings."""
        return GENRES[self.genre]

    @property
    def mood(self) -> Mood:
        """The combined effect of the moods."""
        return blend([MOODS[name] for name in self.moods])


def compose_piece(
    seed: int,
    duration_in_s: float,
    genre: str | None = None,
    moods: Sequence[str] | None = None,
    bpm: int | None = None,
    key: str | None = None,
) -> Piece:
    """Composes a whole piece.

    Args:
        seed: determines everything that is not given.
        duration_in_s: for the music and its last notes, 20 ... 285; the music ends less than a bar earlier.
        genre: a key of `GENRES`.
        moods: keys of `MOODS`, one or more, with a mode in common.
        bpm: the tempo, 40 ... 240.
        key: for instance "A minor".

    Raises:
        ValueError: a value is unknown or out of range.
    """
    _check_duration(duration_in_s, PIECE_DURATION_IN_S)
    plan = _plan(seed, genre, moods, bpm, key)
    players = choose_players(plan.style, random.Random(f"players {seed}"))
    return _write(plan, "piece", duration_in_s, plan.style.form, players)


def compose_stem(seed: int, duration_in_s: float) -> Piece:
    """Composes a part of one instrument: a melody, chords, a bass or drums.

    Args:
        seed: determines everything.
        duration_in_s: as for a piece, but 10 ... 60.
    """
    _check_duration(duration_in_s, STEM_DURATION_IN_S)
    plan = _plan(seed, None, None, None, None)
    rng = random.Random(f"players {seed}")
    players = choose_players(plan.style, rng)
    soloists = [instrument for instrument in INSTRUMENTS.values() if instrument.highest >= 72]
    if rng.random() < 0.5:
        solo = {"lead": rng.choice([instrument for instrument in soloists if not instrument.is_drum_kit])}
    else:
        role = rng.choice([role for role in players if role != "second"])
        solo = {role: players[role]}
    return _write(plan, "stem", duration_in_s, "stem", solo)


def _check_duration(duration_in_s: float, bounds: tuple[float, float]) -> None:
    if not bounds[0] <= duration_in_s <= bounds[1]:
        raise ValueError(f"duration_in_s must be in [{bounds[0]:g}, {bounds[1]:g}], got {duration_in_s}.")


def _plan(seed: int, genre: str | None, moods: Sequence[str] | None, bpm: int | None, key: str | None) -> Plan:
    """Draws everything that is not given. Given values do not change the other draws."""
    rng = random.Random(f"plan {seed}")
    drawn = rng.choice(list(GENRES))
    genre = drawn if genre is None else genre
    if genre not in GENRES:
        raise ValueError(f"genre must be one of {', '.join(GENRES)}, got {genre!r}.")
    style = GENRES[genre]
    drawn_moods = _draw_moods(style, rng)
    moods = drawn_moods if moods is None else tuple(moods)
    unknown = [name for name in moods if name not in MOODS]
    if unknown or not moods:
        raise ValueError(f"moods must be among {', '.join(MOODS)}, got {', '.join(unknown) or 'none'}.")
    mood = blend([MOODS[name] for name in moods])
    modes = [mode for mode in style.modes if mode in mood.modes] or mood.modes
    if not modes:
        raise ValueError(f"The moods {', '.join(moods)} have no mode in common.")
    drawn_key = Key(rng.randrange(12), rng.choice(modes))
    slowest, fastest = style.bpm
    drawn_bpm = round(slowest + (fastest - slowest) * rng.uniform(*mood.tempo))
    bpm = drawn_bpm if bpm is None else bpm
    if not 40 <= bpm <= 240:
        raise ValueError(f"bpm must be in [40, 240], got {bpm}.")
    return Plan(seed, genre, moods, bpm, drawn_key if key is None else parse_key(key))


def _draw_moods(style: Genre, rng: random.Random) -> tuple[str, ...]:
    """Draws one or two moods of similar intensity that have one of the genre's modes in common."""
    first = rng.choice(style.moods)
    others = [
        name
        for name in style.moods
        if name != first
        and set(style.modes).intersection(MOODS[first].modes, MOODS[name].modes)
        and abs(MOODS[name].intensity - MOODS[first].intensity) <= 0.2
    ]
    second = rng.choice(others) if others else None
    return (first, second) if second and rng.random() < 0.5 else (first,)


def _write(plan: Plan, kind: str, duration_in_s: float, form: str, players: Mapping[str, Instrument]) -> Piece:
    """Writes a piece: its sections, the chords and the melody of each theme, then all parts."""
    style, mood, seed = plan.style, plan.mood, plan.seed
    num_bars = int((duration_in_s - TAIL_IN_S) * plan.bpm / 60 // style.beats_per_bar)
    form_rng = random.Random(f"form {seed}")
    sections = plan_sections(form, num_bars, theme_bars(style.harmony), plan.key, mood.intensity, form_rng)
    chords, melodies = {}, {}
    for section in sections:
        if section.theme not in chords:
            rng = random.Random(f"theme {section.theme} {seed}")
            steps, has_leading_tone = style.chord_steps, style.has_leading_tone
            chords[section.theme] = make_progression(style.harmony, section.key, steps, has_leading_tone, rng)
            density = mood.density + (SOLO_DENSITY if section.is_solo else 0)
            rhythms = MELODY_RHYTHMS[style.melody]
            melodies[section.theme] = make_melody(chords[section.theme], style.beats_per_bar, rhythms, density, rng)
    arranger = Arranger(style, players, mood.density, mood.register, random.Random(f"parts {seed}"))
    parts = arranger.write(sections, chords, melodies)
    is_pitched = any(not part.instrument.is_drum_kit for part in parts)
    return Piece(
        seed=seed,
        kind=kind,
        genre=plan.genre,
        moods=plan.moods,
        bpm=plan.bpm,
        key=plan.key if is_pitched else None,
        beats_per_bar=style.beats_per_bar,
        sections=tuple(sections),
        parts=parts,
        level_in_dbfs=LEVEL_IN_DBFS + LEVEL_OF_INTENSITY_IN_DB * mood.intensity,
    )
