"""Scales against their definition, and the laws of keys and chords."""

import pytest

from stable_longform.data.composition.theory import SCALES, TONICS, Chord, Key, parse_key

KEYS = [Key(tonic, mode) for tonic in range(12) for mode in SCALES]


def test_white_keys():
    """C major, A minor and D dorian are the white keys of the piano, and no other keys of these modes are."""
    white = {0, 2, 4, 5, 7, 9, 11}
    assert {key.name for key in KEYS if key.pitch_classes == white} == {"C major", "A minor", "D dorian"}


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_a_key_and_its_name(key):
    assert parse_key(key.name) == key


@pytest.mark.parametrize("name", ["", "A", "H minor", "A lydian", "A  minor", "a minor"])
def test_unknown_keys(name):
    with pytest.raises(ValueError, match="A key is one of"):
        parse_key(name)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_degrees_climb_and_an_octave_has_seven(key):
    pitches = [key.pitch(degree) for degree in range(-7, 15)]
    assert all(1 <= upper - lower <= 2 for lower, upper in zip(pitches, pitches[1:], strict=False))
    assert key.pitch(7) - key.pitch(0) == 12 and key.pitch(0) % 12 == key.tonic
    assert {pitch % 12 for pitch in pitches} == key.pitch_classes


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_related_keys_differ_in_at_most_one_tone(key):
    assert all(len(key.pitch_classes & other.pitch_classes) >= 6 for other in key.related())


@pytest.mark.parametrize(
    ("chord", "names"),
    [
        (Chord(parse_key("C major"), 0), "C E G"),
        (Chord(parse_key("C major"), 4, (0, 2, 4, 6)), "G B D F"),
        (Chord(parse_key("A minor"), 4), "E G B"),
        (Chord(parse_key("A minor"), 4, has_leading_tone=True), "E Ab B"),
        (Chord(parse_key("C major"), 4, has_leading_tone=True), "G B D"),
        (Chord(parse_key("E minor"), 0, (0, 4, 7)), "E B E"),
    ],
)
def test_chords(chord, names):
    assert [TONICS[pitch_class] for pitch_class in chord.pitch_classes] == names.split()


@pytest.mark.parametrize("degree", range(-5, 12))
def test_the_nearest_tone_of_a_triad_is_at_most_a_step_away(degree):
    chord = Chord(parse_key("C major"), 3)
    nearest = chord.nearest_tone(degree)
    assert nearest % 7 in chord.degrees and abs(nearest - degree) <= 1
