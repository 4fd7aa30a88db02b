"""Chords, bass and drums of a bar."""

import random
from collections.abc import Iterator, Sequence

from stable_longform.data.composition.harmony import BarChords
from stable_longform.data.composition.rhythms import (
    ALL,
    BASS_PATTERNS,
    CHORD_PATTERNS,
    CLOSED_HAT,
    CRASH,
    FILLS,
    GROOVES,
    KICK,
    SNARE,
    SWUNG_FILLS,
)
from stable_longform.data.composition.theory import Chord

VELOCITIES = {"x": 106, "o": 82, "-": 56}
Event = tuple[float, float, int, int]  # onset and duration in beats, pitch, accent


def spans(chords: BarChords, beats_per_bar: int) -> Iterator[tuple[int, float, float]]:
    """The index, start and end of each chord of a bar, in beats."""
    length = beats_per_bar / len(chords)
    for index in range(len(chords)):
        yield index, index * length, (index + 1) * length


def clip_pattern(pattern: Sequence[tuple], start: float, end: float) -> list[tuple]:
    """The events of a pattern within a chord's span; an event that started earlier and still lasts is repeated."""
    clipped = []
    for onset, duration, tones in pattern:
        first, last = max(onset, start), min(onset + duration, end)
        is_struck = start <= onset < end or (onset < start and duration >= 1 and last - first >= 1)
        if is_struck and last > first:
            clipped.append((first, last - first, tones))
    return clipped


def play_chords(
    pattern_name: str, voicings: Sequence[Sequence[int]], chords: BarChords, beats_per_bar: int, highest: int
) -> list[Event]:
    """A bar of chords. `voicings` has the pitches of each chord of the bar; pitches above `highest` are not played."""
    events = []
    pattern = CHORD_PATTERNS[pattern_name]
    if pattern_name == "held":
        pattern = ((0, beats_per_bar, ALL),)
    for index, start, end in spans(chords, beats_per_bar):
        pitches = voicings[index]
        for onset, duration, voices in clip_pattern(pattern, start, end):
            accent = 6 if onset % 2 == 0 else 0
            for number in range(len(pitches)) if voices is ALL else voices:
                pitch = pitches[number % len(pitches)] + 12 * (number // len(pitches))
                events.append((onset, duration, pitch - 12 * (pitch > highest), accent))
    return sorted(set(events))


def play_bass(
    pattern_name: str, chords: BarChords, next_chord: Chord, beats_per_bar: int, lowest: int, highest: int
) -> list[Event]:
    """A bar of bass, in the octaves from `lowest` upwards; `next_chord` is the chord of the next bar."""
    events = []
    pattern = BASS_PATTERNS[pattern_name]
    for index, start, end in spans(chords, beats_per_bar):
        chord = chords[index]
        following = chords[index + 1] if index + 1 < len(chords) else next_chord
        for onset, duration, tone in clip_pattern(pattern, start, end):
            pitch = bass_pitch(chord, following, tone if onset > start or tone == "O" else "R", lowest, highest)
            events.append((onset, duration, pitch, 8 if onset == start else 0))
    return events


def bass_pitch(chord: Chord, following: Chord, tone: str, lowest: int, highest: int) -> int:
    """The pitch of a tone of a bass pattern (`rhythms.BASS_PATTERNS`)."""
    pitch_classes = chord.pitch_classes
    root = lowest + (pitch_classes[0] - lowest) % 12
    if tone == "O":
        return root + 12 if root + 12 <= highest else root
    if tone == "A":
        target = lowest + (following.pitch_classes[0] - lowest) % 12
        if target == root:
            return bass_pitch(chord, following, "F", lowest, highest)
        side = -1 if root < target else 1
        below = following.pitch(following.degree + side) % 12
        pitch = target - (target - below) % 12 if side < 0 else target + (below - target) % 12
        return pitch if lowest <= pitch <= highest else root
    third_or_fifth = {"R": 0, "T": 1, "F": chord.steps.index(4)}[tone]
    if tone == "T" and chord.steps[1] != 2:
        third_or_fifth = 0
    pitch = root + (pitch_classes[third_or_fifth] - root) % 12
    return pitch if pitch <= highest else pitch - 12


def play_groove(name: str, beats_per_bar: int) -> list[Event]:
    """A bar of drums; the accent is the velocity."""
    return [event for drum, steps in GROOVES[name].items() for event in _hits(drum, steps, beats_per_bar)]


def play_fill(groove: list[Event], is_swung: bool, rng: random.Random) -> list[Event]:
    """A bar of drums whose second half is a fill."""
    fill = rng.choice(SWUNG_FILLS if is_swung else FILLS)
    hits = [event for drum, steps in fill.items() for event in _hits(drum, steps, 4)]
    start = min(event[0] for event in hits if event[2] != KICK)
    return [event for event in groove if event[0] < start] + [event for event in hits if event[2] != KICK]


def play_roll(progress: float, has_kick: bool) -> list[Event]:
    """A bar of a build-up: a snare roll, faster and louder as `progress` goes from 0 to 1."""
    steps = "x...x...x...x..." if progress <= 0.5 else "x.x.x.x.x.x.x.x." if progress < 0.9 else "x" * 16
    velocity = round(44 + 46 * progress)
    events = [(onset, 0.2, SNARE, velocity) for onset, _, _, _ in _hits(SNARE, steps, 4)]
    if has_kick and progress < 0.9:
        events += [(float(beat), 0.2, KICK, 96) for beat in range(4)]
    return events + [(beat + 0.5, 0.2, CLOSED_HAT, velocity - 10) for beat in range(4)]


def crash() -> Event:
    """The cymbal that opens a section."""
    return (0.0, 1.0, CRASH, 96)


def _hits(drum: int, steps: str, beats_per_bar: int) -> list[Event]:
    """The hits of one drum, from its row of a groove."""
    length = beats_per_bar / len(steps)
    return [(index * length, 0.2, drum, VELOCITIES[step]) for index, step in enumerate(steps) if step in VELOCITIES]
