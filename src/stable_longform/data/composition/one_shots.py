"""One-shots: single notes, chords and drums, and the sound effects of General MIDI."""

import random

from stable_longform.data.composition.instruments import INSTRUMENTS, Instrument
from stable_longform.data.composition.orchestra import volume
from stable_longform.data.composition.piece import Note, Part, Piece
from stable_longform.data.composition.theory import SCALES, TONICS

DRUMS = {
    36: "kick drum",
    37: "rim shot",
    38: "snare drum",
    39: "hand clap",
    41: "low tom",
    42: "closed hi-hat",
    46: "open hi-hat",
    47: "tom",
    49: "crash cymbal",
    50: "high tom",
    51: "ride cymbal",
    54: "tambourine",
    56: "cowbell",
    63: "conga",
    65: "timbale",
    70: "maracas",
}
# Programs of General MIDI.
EFFECTS = {
    "a reversed cymbal": 119,
    "sea waves": 122,
    "a bird singing": 123,
    "a telephone ringing": 124,
    "a helicopter": 125,
    "applause": 126,
    "a gunshot": 127,
}
EFFECT_PITCH = 60
ONE_SHOT_BPM = 120


def compose_one_shot(seed: int) -> Piece:
    """A single sound, drawn from a seed: a note, a chord, a drum or an effect."""
    rng = random.Random(f"one-shot {seed}")
    kind = rng.choice(("note", "note", "chord", "drum", "effect"))
    if kind == "effect":
        name = rng.choice(list(EFFECTS))
        instrument = Instrument("", EFFECTS[name], EFFECT_PITCH, EFFECT_PITCH, -30)
        return _sound(seed, instrument, [EFFECT_PITCH], rng.uniform(4, 12), f"The sound of {name}.", rng)
    if kind == "drum":
        instrument = rng.choice([instrument for instrument in INSTRUMENTS.values() if instrument.is_drum_kit])
        pitch = rng.choice(list(DRUMS))
        return _sound(seed, instrument, [pitch], 1.0, f"One-shot of a {DRUMS[pitch]}.", rng)
    instrument = rng.choice([instrument for instrument in INSTRUMENTS.values() if not instrument.is_drum_kit])
    duration = rng.choice((0.5, 1.0, 2.0, 4.0, 8.0))
    if kind == "note":
        pitch = rng.randint(instrument.lowest, instrument.highest)
        description = f"{instrument.name}, one note: {TONICS[pitch % 12]}{pitch // 12 - 1}."
        return _sound(seed, instrument, [pitch], duration, description, rng)
    mode = rng.choice(("major", "minor"))
    root = rng.randint(instrument.lowest, instrument.highest - 7)
    pitches = [root + SCALES[mode][step] for step in (0, 2, 4)]
    return _sound(
        seed, instrument, pitches, duration, f"{instrument.name}, one chord: {TONICS[root % 12]} {mode}.", rng
    )


def _sound(
    seed: int, instrument: Instrument, pitches: list[int], duration: float, description: str, rng: random.Random
) -> Piece:
    """A piece of one sound, `duration` beats long."""
    velocity = rng.randint(70, 120)
    notes = tuple(Note(0.0, duration, pitch, velocity) for pitch in pitches)
    part = Part("lead", instrument, notes, volume("lead", instrument), reverb=rng.choice((0, 20, 60)))
    return Piece(seed, "one-shot", None, (), ONE_SHOT_BPM, None, 4, (), (part,), description=description)
