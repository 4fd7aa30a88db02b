"""Progressions and voice leading."""

import itertools
import random

import pytest

from stable_longform.data.composition.genres import GENRES
from stable_longform.data.composition.harmony import CADENCES, PROGRESSIONS, make_progression, theme_bars, voice
from stable_longform.data.composition.theory import SCALES, Chord, Key

STYLES = {genre.harmony: genre for genre in GENRES.values()}


def all_bars():
    for style, modes in PROGRESSIONS.items():
        for mode, progressions in modes.items():
            for bars in progressions:
                yield style, mode, bars


def test_progressions_are_whole_themes_of_degrees_of_the_scale():
    for style, _, bars in all_bars():
        assert theme_bars(style) % len(bars) == 0
        degrees = [degree for bar in bars for degree in (bar if isinstance(bar, tuple) else (bar,))]
        assert set(degrees) <= set(range(7)) and 0 in (degrees[0], degrees[-1])


def test_power_chords_have_no_diminished_fifth():
    for style, mode, bars in all_bars():
        if style == "power" or STYLES[style].chord_steps == (0, 4, 7):
            for degree in bars:
                root, fifth = (Key(0, mode).pitch(degree + step) for step in (0, 4))
                assert fifth - root == 7


def test_pieces_end_at_home():
    assert all(cadence[-1] == 0 for cadence in CADENCES.values()) and set(CADENCES) == set(SCALES)


@pytest.mark.parametrize("style", PROGRESSIONS)
def test_a_theme_has_its_bars(style):
    for mode in PROGRESSIONS[style]:
        bars = make_progression(style, Key(3, mode), (0, 2, 4), True, random.Random(1))
        assert len(bars) == theme_bars(style)
        assert all(chord.key == Key(3, mode) for bar in bars for chord in bar)
        assert all(chord.has_leading_tone == (chord.degree == 4) for bar in bars for chord in bar)


def brute_force(chord: Chord, previous: list[int], lowest: int, highest: int) -> float:
    """The least movement of all close positions, found by trying all sets of pitches."""
    count, best = len(chord.steps), float("inf")
    allowed = [pitch for pitch in range(lowest, highest + 1) if pitch % 12 in chord.pitch_classes]
    for pitches in itertools.combinations(allowed, count):
        if {p % 12 for p in pitches} == set(chord.pitch_classes) and pitches[-1] - pitches[0] < 12:
            middle = abs(sum(pitches) / count - (lowest + highest) / 2)
            best = min(best, sum(min(abs(p - q) for q in previous) for p in pitches) + 0.3 * middle)
    return best


@pytest.mark.parametrize("steps", [(0, 2, 4), (0, 2, 4, 6)])
def test_voices_move_as_little_as_they_can(steps):
    rng, previous = random.Random(0), None
    for _ in range(60):
        chord = Chord(Key(rng.randrange(12), rng.choice(list(SCALES))), rng.randrange(7), steps)
        pitches = voice(chord, previous, 48, 69)
        assert sorted(p % 12 for p in pitches) == sorted(chord.pitch_classes)
        assert pitches == sorted(pitches) and 48 <= pitches[0] and pitches[-1] <= 69
        if previous is not None:
            middle = abs(sum(pitches) / len(pitches) - 58.5)
            cost = sum(min(abs(p - q) for q in previous) for p in pitches) + 0.3 * middle
            assert cost == pytest.approx(brute_force(chord, previous, 48, 69))
        previous = pitches


def test_power_chords_keep_their_root_at_the_bottom():
    for tonic in range(12):
        chord = Chord(Key(tonic, "minor"), 0, (0, 4, 7))
        root, fifth, octave = voice(chord, [64, 71, 76], 40, 64)
        assert (root % 12, fifth - root, octave - root) == (tonic, 7, 12)
