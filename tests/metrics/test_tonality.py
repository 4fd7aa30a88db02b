"""Sines are partials and noise is none; pitch classes by name, octaves agree, semitones do not."""

import math

import numpy as np
import pytest
import torch

from stable_longform.metrics.tonality import chroma, chroma_agreement, note_share, partial_share

RATE = 44100
C_MAJOR = (261.63, 329.63, 392.0)  # C4, E4, G4
NOTES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")


def sines(frequencies, seconds=2.0, rate=RATE) -> torch.Tensor:
    """Equally loud sines, stereo."""
    times = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    mono = sum(torch.sin(2 * math.pi * frequency * times) for frequency in frequencies)
    return (0.1 * mono).float().expand(2, -1)


def noise(seconds=10.0, seed=0) -> torch.Tensor:
    return 0.1 * torch.randn(2, round(seconds * RATE), generator=torch.Generator().manual_seed(seed))


def test_a_chord_is_all_partials_and_noise_has_none():
    assert partial_share(sines(C_MAJOR), RATE) > 0.999
    assert partial_share(noise(), RATE) < 0.02


@pytest.mark.parametrize("level_in_db", [0.0, 10.0])
def test_share_of_a_tone_in_noise_is_that_of_its_power(level_in_db):
    """The tone's power over that of both, within the band; a little of the noise hides under the tone."""
    tone, background = sines([440.0], 10.0), noise()
    in_band = 0.1**2 * (1000 - 80) / (RATE / 2) / 2  # of the mean of two channels
    tone = tone * math.sqrt(in_band * 10 ** (level_in_db / 10) / 0.005)
    expected = 1 / (1 + 10 ** (-level_in_db / 10))
    assert partial_share(tone + background, RATE) == pytest.approx(expected, abs=0.05)


def test_what_lies_outside_the_band_does_not_count():
    hum = 3 * sines([40.0, 2000.0], 10.0)
    assert partial_share(noise() + hum, RATE) < 0.05
    assert chroma_agreement(sines(C_MAJOR) + hum[:, : 2 * RATE], sines(C_MAJOR), RATE) > 0.99


@pytest.mark.parametrize("name, frequency", [("C", 261.63), ("A", 440.0), ("G#", 207.65), ("B", 987.77), ("E", 82.41)])
def test_pitch_classes_have_their_names(name, frequency):
    shares = chroma(sines([frequency]), RATE)
    assert shares.shape[0] == 12 and np.allclose(shares.sum(axis=0), 1)
    assert (shares.argmax(axis=0) == NOTES.index(name)).all()


def test_octaves_are_one_class():
    low, high = sines(C_MAJOR), sines([2 * frequency for frequency in C_MAJOR])
    assert chroma_agreement(high, low, RATE) > 0.95
    assert chroma_agreement(sines([frequency * 2 ** (1 / 12) for frequency in C_MAJOR]), low, RATE) < 0


def test_agreement_with_itself_with_a_gain_and_with_noise():
    chord = sines(C_MAJOR)
    assert chroma_agreement(chord, chord, RATE) == pytest.approx(1)
    assert chroma_agreement(-0.01 * chord, chord, RATE) == pytest.approx(1, abs=1e-4)
    assert abs(chroma_agreement(noise(2.0), chord, RATE)) < 0.5
    assert chroma_agreement(torch.zeros(2, 2 * RATE), chord, RATE) == 0


def test_note_share_counts_notes():
    notes = [523.25 * 2 ** (number / 12) for number in range(12)]
    for count in (1, 2, 4, 12):
        assert note_share(sines(notes[:: 12 // count]), RATE, count) > 0.97
    assert note_share(sines(notes[::3]), RATE, 2) == pytest.approx(0.5, abs=0.05)
    assert note_share(sines(notes), RATE) == pytest.approx(1 / 3, abs=0.1)  # every note a little
    assert partial_share(sines(notes), RATE) > 0.9  # which has partials nevertheless
    assert note_share(noise(), RATE) == pytest.approx(0.48, abs=0.05)


def test_the_quietest_fifth_of_the_frames_does_not_count():
    music = torch.cat([sines(C_MAJOR, 8.0), 1e-3 * noise(1.5)], dim=1)
    assert partial_share(music, RATE) > 0.99 and note_share(music, RATE) > 0.99


def test_other_rates_and_common_gain():
    for rate in (22050, 48000):
        assert partial_share(sines(C_MAJOR, rate=rate), rate) > 0.99
        assert note_share(sines(C_MAJOR, rate=rate), rate, 3) > 0.99
    assert partial_share(0.01 * noise(2.0), RATE) == pytest.approx(partial_share(noise(2.0), RATE), abs=1e-6)


def test_silence_gives_numbers():
    silence = torch.zeros(2, RATE)
    assert partial_share(silence, RATE) == 0
    assert chroma_agreement(silence, silence, RATE) == 0 and note_share(silence, RATE) == pytest.approx(1 / 3)


def test_bad_input_is_named():
    chord = sines(C_MAJOR)
    for measure in (partial_share, note_share, chroma):
        with pytest.raises(ValueError, match="num_samples >= 8192"):
            measure(chord[:, :8191], RATE)
        with pytest.raises(ValueError, match="num_samples >= 8192"):
            measure(chord[0], RATE)
        with pytest.raises(ValueError, match="finite"):
            measure(chord * math.nan, RATE)
        with pytest.raises(ValueError, match="greater than 2000 Hz, got 2000"):
            measure(chord, 2000)
    with pytest.raises(ValueError, match="one shape"):
        chroma_agreement(chord[:, :-1], chord, RATE)
    with pytest.raises(ValueError, match=r"in \[1, 12\], got 13"):
        note_share(chord, RATE, 13)
