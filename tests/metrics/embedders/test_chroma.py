"""The embedding of notes: the right pitch class in the right half second, whatever the level and the octave."""

import numpy as np
import pytest
import torch

from stable_longform.metrics.embedders.chroma import SAMPLING_RATE, ChromaEmbedder


def play(*frequencies, seconds=2.5, level=0.3):
    """Tones one after the other, `(1, num_samples)`."""
    times = torch.arange(round(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    return torch.cat([level * torch.sin(2 * np.pi * frequency * times) for frequency in frequencies])[None]


def embed(waveform):
    """Embeddings as `(num_windows, 12 classes, 10 half seconds)`."""
    return ChromaEmbedder()(waveform).embeddings.reshape(-1, 12, 10)


def test_a_tone_is_in_its_pitch_class_and_its_half_seconds():
    (shares,) = embed(play(440.0, 440.0 * 2 ** (7 / 12)))
    assert shares[0, :4].min() > 0.95 and shares[7, 6:].min() > 0.95
    assert shares[0, 6:].max() < 0.05 and shares[7, :4].max() < 0.05
    np.testing.assert_allclose(shares.sum(axis=0), 1, atol=1e-3)


def test_level_and_octave_change_nothing_and_order_does():
    reference = embed(play(440.0, 660.0))
    np.testing.assert_allclose(embed(play(440.0, 660.0, level=0.03)), reference, atol=1e-3)
    np.testing.assert_allclose(embed(play(220.0, 330.0)), reference, atol=0.05)
    assert np.abs(embed(play(660.0, 440.0)) - reference).max() > 0.9


def test_windows_are_whole_and_bad_input_is_named():
    assert embed(play(440.0, 440.0, 440.0, 440.0, 440.0)).shape[0] == 2
    for waveform in (play(440.0), play(440.0, 440.0).repeat(2, 1), play(440.0, 440.0) * np.nan):
        with pytest.raises(ValueError, match="waveform must be"):
            ChromaEmbedder()(waveform)
