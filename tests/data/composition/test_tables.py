"""The tables of genres, moods, instruments and rhythms fit each other and cover what they promise."""

import itertools

import pytest

from stable_longform.data.composition.forms import FORMS
from stable_longform.data.composition.genres import GENRES
from stable_longform.data.composition.harmony import PROGRESSIONS, voice
from stable_longform.data.composition.instruments import INSTRUMENTS
from stable_longform.data.composition.moods import MOODS, blend
from stable_longform.data.composition.orchestra import POWER_CHORDS, ROLES, pitch_range, volume
from stable_longform.data.composition.rhythms import BASS_PATTERNS, CHORD_PATTERNS, GROOVES, MELODY_RHYTHMS
from stable_longform.data.composition.theory import SCALES, Chord, Key

PLAYED = [role for role in ROLES if role != "second"]


def used(attribute: str) -> set[str]:
    return {name for genre in GENRES.values() for name in getattr(genre, attribute)}


def test_the_promised_variety():
    instruments = {INSTRUMENTS[name].name for role in PLAYED for name in used(role)}
    assert len(GENRES) >= 12 and len(instruments) >= 30 and used("modes") == set(SCALES)
    assert min(genre.bpm[0] for genre in GENRES.values()) == 60
    assert 170 <= max(genre.bpm[1] for genre in GENRES.values()) <= 180


@pytest.mark.parametrize(
    ("attribute", "table"),
    [("chord_patterns", CHORD_PATTERNS), ("bass_patterns", BASS_PATTERNS), ("grooves", GROOVES)],
)
def test_every_pattern_is_known_and_used(attribute, table):
    assert used(attribute) == set(table)


@pytest.mark.parametrize("genre", GENRES.values(), ids=GENRES)
def test_a_genre_names_what_exists(genre):
    assert genre.form in FORMS and genre.harmony in PROGRESSIONS and genre.melody in MELODY_RHYTHMS
    assert all(name in INSTRUMENTS for role in PLAYED for name in getattr(genre, role))
    assert all(INSTRUMENTS[name].is_drum_kit == (role == "drums") for role in PLAYED for name in getattr(genre, role))
    assert bool(genre.drums) == bool(genre.grooves) and bool(genre.bass_patterns) == bool(genre.bass)
    assert all(set(MOODS[mood].modes) & set(genre.modes) for mood in genre.moods)


@pytest.mark.parametrize("genre", GENRES.values(), ids=GENRES)
def test_every_chord_can_be_voiced(genre):
    """In every key and mode of the genre, on every instrument that may play it."""
    for role in ("chords", "pad", "arpeggio"):
        for name in getattr(genre, role):
            bounds = pitch_range(role, INSTRUMENTS[name], genre.chord_steps)
            steps = genre.chord_steps if role == "chords" or genre.chord_steps != POWER_CHORDS else (0, 2, 4)
            for tonic, mode, degree in itertools.product(range(12), genre.modes, range(7)):
                chord = Chord(Key(tonic, mode), degree, steps, genre.has_leading_tone and degree == 4)
                pitches = voice(chord, None, *bounds)
                assert bounds[0] <= pitches[0] and pitches[-1] <= bounds[1]


def test_moods_of_every_genre_differ_from_one_another():
    for genre in GENRES.values():
        effects = [MOODS[mood] for mood in genre.moods]
        assert len({(m.modes, m.tempo, m.intensity, m.density, m.register) for m in effects}) == len(effects)


def test_a_mood_blended_with_itself_is_itself():
    for mood in MOODS.values():
        both = blend([mood, mood])
        assert both.modes == mood.modes and both.register == mood.register
        assert both.tempo == pytest.approx(mood.tempo)
        assert (both.intensity, both.density) == pytest.approx((mood.intensity, mood.density))


def test_bars_are_full():
    for style, levels in MELODY_RHYTHMS.items():
        for rhythm in (rhythm for level in levels for rhythm in level):
            assert sum(abs(duration) for duration in rhythm) == (3 if style == "waltz" else 4)
    for name, pattern in (CHORD_PATTERNS | BASS_PATTERNS).items():
        assert all(0 <= onset and onset + duration <= 4 for onset, duration, _ in pattern), name
    assert {len(steps) for groove in GROOVES.values() for steps in groove.values()} == {12, 16}


def test_louder_instruments_get_less_volume():
    quiet, loud = INSTRUMENTS["vibraphone"], INSTRUMENTS["distorted_guitar"]
    assert volume("lead", quiet) > volume("lead", loud)
    assert volume("lead", loud) > volume("pad", loud)
