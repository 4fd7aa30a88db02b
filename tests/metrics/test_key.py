"""Keys: chords of known keys, transposition, relations on the circle of fifths."""

import numpy as np
import pytest

from stable_longform.metrics.key import PROFILES, RELATIVE_MAJOR, SAMPLING_RATE, estimate_key, key_relation, match_key

CADENCES = {
    "major": ((0, 4, 7), (5, 9, 12), (7, 11, 14), (0, 4, 7)),
    "minor": ((0, 3, 7), (5, 8, 12), (7, 10, 14), (0, 3, 7)),
}


def cadence(tonic: int, mode: str) -> np.ndarray:
    """I-IV-V-I, a second each, each tone with three partials."""
    times = np.arange(SAMPLING_RATE) / SAMPLING_RATE
    chords = []
    for chord in CADENCES[mode]:
        frequencies = [261.63 * 2 ** ((tonic + tone) / 12) for tone in chord]
        tones = [np.sin(2 * np.pi * n * f * times) / n for f in frequencies for n in (1, 2, 3)]
        chords.append(np.sum(tones, axis=0) * np.hanning(len(times)) ** 0.2)
    return (0.05 * np.concatenate(chords)).astype(np.float32)


@pytest.mark.parametrize(("tonic", "mode"), [(0, "major"), (9, "minor"), (6, "major"), (3, "minor")])
def test_a_cadence_tells_its_key(tonic, mode):
    assert estimate_key(cadence(tonic, mode)) == (tonic, mode)


def test_transposed_chroma_is_a_transposed_key():
    chroma = np.random.default_rng(0).random(12)
    tonic, mode = match_key(chroma)
    for steps in range(12):
        assert match_key(np.roll(chroma, steps)) == ((tonic + steps) % 12, mode)
        assert match_key(5 * np.roll(chroma, steps) + 2) == ((tonic + steps) % 12, mode)
    for mode, profile in PROFILES.items():
        assert match_key(np.roll(profile, 4)) == (4, mode)
        assert sum(profile) == pytest.approx(1, abs=0.01)


def test_silence_has_no_key():
    assert match_key(np.zeros(12)) is None and match_key(np.ones(12)) is None
    assert estimate_key(np.zeros(SAMPLING_RATE, dtype=np.float32)) is None
    assert key_relation(None, (0, "major")) == "other"


@pytest.mark.parametrize(
    ("heard", "asked", "relation"),
    [
        ((9, "minor"), (9, "minor"), "exact"),
        ((0, "major"), (9, "minor"), "relative"),
        ((9, "minor"), (0, "major"), "relative"),
        ((4, "minor"), (9, "minor"), "fifth"),
        ((2, "minor"), (9, "minor"), "fifth"),
        ((9, "major"), (9, "minor"), "other"),
        ((4, "major"), (9, "minor"), "other"),
        ((2, "minor"), (2, "dorian"), "exact"),
        ((0, "major"), (2, "dorian"), "relative"),
        ((9, "minor"), (2, "dorian"), "relative"),  # a fifth apart as well, but with the same tones
        ((7, "minor"), (2, "dorian"), "fifth"),
        ((5, "major"), (2, "dorian"), "other"),
    ],
)
def test_relations(heard, asked, relation):
    assert key_relation(heard, asked) == relation


def test_relations_move_with_both_keys_and_each_key_has_one_relative_of_its_kind():
    keys = [(tonic, mode) for mode in RELATIVE_MAJOR for tonic in range(12)]
    heard = [key for key in keys if key[1] != "dorian"]
    for asked in keys:
        relations = [key_relation(key, asked) for key in heard]
        assert relations.count("exact") == 1
        assert relations.count("relative") == (2 if asked[1] == "dorian" else 1)
        moved = [key_relation(((t + 5) % 12, mode), ((asked[0] + 5) % 12, asked[1])) for t, mode in heard]
        assert moved == relations
