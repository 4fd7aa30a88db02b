"""Melodies: recurring motifs, chord tones on strong beats, steps in between, a cadence at the end."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from stable_longform.data.composition.harmony import BarChords
from stable_longform.data.composition.theory import Chord

MIN_DEGREE, MAX_DEGREE = -3, 10  # of a melody, before its register is chosen


@dataclass(frozen=True)
class Tone:
    """A note of a melody: onset and duration in beats from the start of its theme, degree, chord below it."""

    start: float
    duration: float
    degree: int
    chord: Chord

    @property
    def pitch(self) -> int:
        """Its pitch before the register is chosen."""
        return self.chord.pitch(self.degree)


def chord_at(bars: Sequence[BarChords], beat: float, beats_per_bar: int) -> tuple[Chord, float]:
    """The chord that sounds at a beat of a theme, and the beat at which it ends."""
    bar = int(beat // beats_per_bar)
    chords = bars[bar % len(bars)]
    length = beats_per_bar / len(chords)
    index = int((beat - bar * beats_per_bar) // length)
    return chords[index], bar * beats_per_bar + (index + 1) * length


def make_melody(
    bars: Sequence[BarChords],
    beats_per_bar: int,
    rhythms: Sequence[Sequence[Sequence[float]]],
    density: float,
    rng: random.Random,
) -> list[Tone]:
    """Composes the melody of a theme.

    The rhythm is a pattern of motifs, a b a c, of one bar each. Bars with the same motif share rhythm and shape,
    fitted to the chords. Every note that is on a strong beat or at least a beat long is a chord tone. The notes
    between are chord tones too, or one step away from both neighbours. The last bar rests on the tonic, or on the
    nearest chord tone.

    Args:
        bars: the chords of each bar.
        beats_per_bar: 3 or 4.
        rhythms: bars to choose from: calm, normal and busy ones; negative numbers are rests.
        density: how busy, -1 ... 1.
        rng: the source of all choices.
    """
    motifs = {}
    for name in "abc":
        level = min(max(round(1 + density + rng.uniform(-0.6, 0.6)), 0), 2)
        rhythm = rng.choice(rhythms[level])
        motifs[name] = (rhythm, _contour(len(rhythm), rng))
    plan = ("abac" * 3 if len(bars) != 12 else "abcabcabcabc")[: len(bars) - 1]
    tones, degree, can_leap = [], rng.choice((2, 4)), True
    last_bar = len(plan) * beats_per_bar
    for bar, name in enumerate(plan):
        start: float = bar * beats_per_bar
        if bar % 4 == 0 and can_leap:
            degree = rng.choice((0, 4, 7))
        for duration, step in zip(*motifs[name], strict=True):
            if duration > 0:
                chord, chord_end = chord_at(bars, start, beats_per_bar)
                position = start - bar * beats_per_bar
                is_strong = duration >= 1 or position % 2 == 0 or start + duration >= last_bar
                degree = _next_degree(degree, step, chord, is_strong, can_leap)
                can_leap = degree % 7 in chord.degrees
                tones.append(Tone(start, min(duration, chord_end - start), degree, chord))
            start += abs(duration)
    chord, chord_end = chord_at(bars, last_bar, beats_per_bar)
    final = min(range(MIN_DEGREE, MAX_DEGREE + 1), key=lambda other: (_finality(other, chord), abs(other - degree)))
    tones.append(Tone(last_bar, min(beats_per_bar - 1, chord_end - last_bar), final, chord))
    return tones


def _contour(length: int, rng: random.Random) -> list[int]:
    """The shape of a motif: steps mostly in one direction, and occasional leaps, which are followed by a turn."""
    direction, steps = rng.choice((-1, 1)), []
    for _ in range(length):
        if rng.random() < 0.3:
            direction = -direction
        size = rng.choices((0, 1, 2, 3), (1, 6, 3, 1))[0]
        steps.append(direction * size)
        if size > 1:
            direction = -direction
    return steps


def _next_degree(degree: int, step: int, chord: Chord, is_strong: bool, can_leap: bool) -> int:
    """The degree that follows a degree in a melody.

    It moves by `step`, and turns at the limits of the range; after a tone outside the chord (`can_leap` is false) it
    moves by one degree. On strong beats, after leaps and at the limits, it is the next chord tone in that direction.
    """
    if not can_leap:
        step = max(-1, min(1, step)) or 1
    if not MIN_DEGREE <= degree + step <= MAX_DEGREE:
        step = -step
    target = degree + step
    if is_strong or abs(step) > 1 or target in (MIN_DEGREE, MAX_DEGREE):
        direction = 1 if step > 0 else -1
        choices = (target, target + direction, target - direction) if can_leap else (target, degree - step)
        target = next((other for other in choices if other % 7 in chord.degrees), MAX_DEGREE + 1)
        if not MIN_DEGREE <= target <= MAX_DEGREE:
            target = chord.nearest_tone(min(max(degree, MIN_DEGREE + 2), MAX_DEGREE - 2))
    return target


def _finality(degree: int, chord: Chord) -> int:
    """0 for the tonic, 1 for other chord tones, 2 for all other tones."""
    return 2 if degree % 7 not in chord.degrees else int(degree % 7 != 0)


def vary(melody: Sequence[Tone], rng: random.Random) -> list[Tone]:
    """Varies a melody: some long notes are split, with a neighbouring or the next chord tone in between."""
    varied = []
    for tone in melody[:-1]:
        if tone.duration >= 1 and rng.random() < 0.35:
            half, neighbour = tone.duration / 2, tone.degree + rng.choice((-1, 1))
            is_passing = half <= 0.5 and tone.start % 1 == 0  # a short note off the beat
            other = neighbour if is_passing else tone.chord.nearest_tone(tone.degree + 2)
            varied += [
                replace(tone, duration=half),
                replace(tone, start=tone.start + half, duration=half, degree=other),
            ]
        else:
            varied.append(tone)
    return varied + list(melody[-1:])


def second_voice(melody: Sequence[Tone]) -> list[Tone]:
    """A second voice: the chord tone a third or more below each long note; short notes are omitted."""
    voices = []
    for tone in melody:
        if tone.duration >= 0.5 and tone.degree % 7 in tone.chord.degrees:
            lower = next(d for d in range(tone.degree - 2, tone.degree - 9, -1) if d % 7 in tone.chord.degrees)
            voices.append(replace(tone, degree=lower))
    return voices
