"""The embedding of notes: the right pitch class at the right time, whatever the level and the timbre."""

import numpy as np
import pytest
import torch

from stable_longform.metrics.embedders.chroma import PART_IN_S, SAMPLING_RATE, ChromaEmbedder


def play(*frequencies, seconds=2.5, level=0.3):
    """Tones one after the other, `(1, num_samples)`."""
    times = torch.arange(round(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    return torch.cat([level * torch.sin(2 * np.pi * frequency * times) for frequency in frequencies])[None]


def embed(waveform, *settings):
    """Embeddings as `(num_windows, 24 classes, parts)`."""
    rows = ChromaEmbedder(*settings)(waveform).embeddings
    return rows.reshape(len(rows), 24, -1)


def melody(seed, seconds=12.0):
    """A chord throughout, and one of its notes after another, as long as a fifth of a second or more."""
    rng = np.random.default_rng(seed)
    notes = 220 * 2 ** (np.array([0, 3, 7, 12, 15, 19]) / 12)
    tones = [play(frequency, seconds=seconds, level=0.05) for frequency in notes]
    steps = torch.cat([play(rng.choice(notes), seconds=0.2 * rng.integers(1, 4)) for _ in range(60)], dim=1)
    return sum(tones) + steps[:, : tones[0].shape[1]]


def test_a_tone_is_in_its_pitch_class_at_its_time():
    (rows,) = embed(play(440.0, 440.0 * 2 ** (7 / 12)))
    level = 1 / np.sqrt(100)  # two classes change, 50 parts each
    np.testing.assert_allclose(rows[12, 2:23], level, rtol=0.1)
    np.testing.assert_allclose(rows[12, 27:48], -level, rtol=0.1)
    np.testing.assert_allclose(rows[19, 27:48], level, rtol=0.1)
    assert np.abs(np.delete(rows, (12, 19), axis=0)[:, 2:23]).max() < 0.1 * level
    (low,) = embed(play(110.0, 110.0 * 2 ** (7 / 12)))
    np.testing.assert_allclose(low[0, 2:23], level, rtol=0.1)


def test_level_changes_nothing_and_order_does():
    reference = embed(play(440.0, 660.0))
    np.testing.assert_allclose(embed(play(440.0, 660.0, level=0.03)), reference, atol=1e-4)
    assert np.sum(embed(play(660.0, 440.0)) * reference) < -0.9


def test_the_same_moments_match_and_other_music_in_the_same_key_does_not():
    first, second = melody(0), melody(1)
    (row,) = embed(first[:, 3 * SAMPLING_RATE :], 8.0, 8.0)
    queries = embed(first + 0.02 * torch.randn(first.shape), 8.0, PART_IN_S)
    cosines = np.tensordot(queries, row, ([1, 2], [0, 1]))
    assert queries.flags.c_contiguous and cosines.argmax() == 30 and cosines.max() > 0.95
    assert np.delete(cosines, range(28, 33)).max() < 0.7
    assert np.tensordot(embed(second, 8.0, PART_IN_S), row, ([1, 2], [0, 1])).max() < 0.7


def test_silence_is_a_row_of_zeros():
    waveform = torch.cat([play(440.0, 660.0), torch.zeros(1, 10 * SAMPLING_RATE)], dim=1)
    rows = embed(waveform)
    np.testing.assert_allclose(np.linalg.norm(rows[0]), 1, rtol=1e-5)
    assert not rows[2].any()
    with pytest.raises(ValueError, match="silent"):
        embed(torch.zeros(1, 5 * SAMPLING_RATE))


def test_windows_are_whole_and_bad_input_is_named():
    waveform = play(440.0, 660.0, 440.0, 550.0, 440.0)
    assert [len(embed(waveform, 5.0, hop)) for hop in (5.0, 2.5, 0.1)] == [2, 4, 76]
    for waveform in (play(440.0), play(440.0, 440.0).repeat(2, 1), play(440.0, 440.0) * np.nan):
        with pytest.raises(ValueError, match="waveform must be"):
            ChromaEmbedder()(waveform)
    with pytest.raises(ValueError, match="at least 1 s, got 0.5"):
        ChromaEmbedder(0.5)
