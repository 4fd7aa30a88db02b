"""Laws of counterpoint that melodies keep, over many draws."""

import random
from itertools import pairwise

import pytest

from stable_longform.data.composition.harmony import PROGRESSIONS, make_progression
from stable_longform.data.composition.melody import MAX_DEGREE, MIN_DEGREE, chord_at, make_melody, second_voice, vary
from stable_longform.data.composition.rhythms import MELODY_RHYTHMS
from stable_longform.data.composition.theory import Key

CASES = [(rhythm, style, seed) for rhythm in MELODY_RHYTHMS for style in PROGRESSIONS for seed in range(4)]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}-{case[2]}")
def theme(request):
    """Chords, beats of a bar and a melody."""
    rhythm, style, seed = request.param
    rng = random.Random(seed)
    beats_per_bar = 3 if rhythm == "waltz" else 4
    mode = rng.choice(list(PROGRESSIONS[style]))
    bars = make_progression(style, Key(rng.randrange(12), mode), (0, 2, 4), True, rng)
    return bars, beats_per_bar, make_melody(bars, beats_per_bar, MELODY_RHYTHMS[rhythm], rng.uniform(-1, 1), rng)


def test_notes_follow_each_other_within_the_theme(theme):
    bars, beats_per_bar, melody = theme
    assert all(first.start + first.duration <= second.start + 1e-9 for first, second in pairwise(melody))
    assert melody[-1].start + melody[-1].duration <= len(bars) * beats_per_bar
    assert all(MIN_DEGREE <= tone.degree <= MAX_DEGREE for tone in melody)


def test_no_note_outlasts_its_chord(theme):
    bars, beats_per_bar, melody = theme
    for tone in melody:
        chord, end = chord_at(bars, tone.start, beats_per_bar)
        assert tone.chord == chord and tone.start + tone.duration <= end + 1e-9


def test_strong_and_long_notes_belong_to_the_chord(theme):
    _, beats_per_bar, melody = theme
    for tone in melody:
        if (tone.start % beats_per_bar) % 2 == 0 or tone.duration >= 1:
            assert tone.degree % 7 in tone.chord.degrees


def test_other_notes_are_reached_and_left_by_step(theme):
    _, _, melody = theme
    for before, tone, after in zip(melody, melody[1:], melody[2:], strict=False):
        if tone.degree % 7 not in tone.chord.degrees:
            assert abs(tone.degree - before.degree) <= 1 and abs(after.degree - tone.degree) <= 1


def test_the_last_note_rests_on_the_tonic_where_the_chord_has_it(theme):
    *_, melody = theme
    last = melody[-1]
    assert last.degree % 7 == 0 or 0 not in last.chord.degrees


def test_motifs_return(theme):
    """Bars one and three of every four have the same rhythm."""
    bars, beats_per_bar, melody = theme
    if len(bars) == 8 and all(len(bar) == 1 for bar in bars):

        def rhythm(bar: int) -> list:
            return [
                (tone.start - bar * beats_per_bar, tone.duration)
                for tone in melody
                if tone.start // beats_per_bar == bar
            ]

        assert rhythm(0) == rhythm(2) == rhythm(4) == rhythm(6)


def test_a_variation_lasts_as_long_and_ends_alike(theme):
    *_, melody = theme
    varied = vary(melody, random.Random(0))
    assert sum(tone.duration for tone in varied) == pytest.approx(sum(tone.duration for tone in melody))
    assert varied[-1] == melody[-1]
    strong = {tone.start: tone.degree for tone in varied}
    assert all(strong[tone.start] == tone.degree for tone in melody)


def test_the_second_voice_is_consonant_and_below(theme):
    *_, melody = theme
    first = {tone.start: tone for tone in melody}
    for tone in second_voice(melody):
        assert tone.degree % 7 in tone.chord.degrees
        assert first[tone.start].degree - tone.degree >= 2
