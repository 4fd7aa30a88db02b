"""Features of structure: known tones, and what must not change them."""

import numpy as np
import pytest
import torch
from pieces import render_form

from stable_longform.analysis import features
from stable_longform.analysis.features import FRAME_RATE, SAMPLING_RATE, extract_features


def tone(frequency, seconds=12):
    return torch.sin(2 * torch.pi * frequency * torch.arange(SAMPLING_RATE * seconds) / SAMPLING_RATE)[None]


@pytest.mark.parametrize(("frequency", "pitch_class"), ((440.0, 9), (261.63, 0), (110.0, 9), (1479.98, 6)))
def test_a_tone_has_its_pitch_class(frequency, pitch_class):
    chroma = extract_features([tone(frequency)]).chroma
    assert (chroma[:, 2:-2].argmax(axis=0) == pitch_class).all()
    np.testing.assert_allclose(np.linalg.norm(chroma, axis=0), 1, rtol=1e-5)


def test_blocks_don_t_matter():
    waveform = render_form("AB", 16)
    whole = extract_features([waveform])
    for size in (5000, 8192, 22050, 100001):
        split = extract_features(waveform.split(size, dim=1))
        assert split.duration_in_s == whole.duration_in_s
        np.testing.assert_allclose(split.chroma, whole.chroma, atol=1e-5)
        np.testing.assert_allclose(split.timbre, whole.timbre, atol=1e-4)


def test_frames_cover_the_music():
    waveform = render_form("AB", 16)
    result = extract_features([waveform])
    assert result.frame_rate == FRAME_RATE == 5
    assert result.num_frames == pytest.approx(waveform.shape[1] / SAMPLING_RATE * FRAME_RATE, abs=1)
    np.testing.assert_allclose(result.timbre.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(np.square(result.timbre).sum(axis=0).mean(), 1, rtol=1e-4)


def test_gain_channels_and_phase_don_t_matter():
    waveform = render_form("AB", 16)
    whole = extract_features([waveform])
    for other in (waveform * 0.01, waveform.repeat(2, 1), torch.cat([waveform, -waveform])):
        result = extract_features([other])
        np.testing.assert_allclose(result.chroma, whole.chroma, atol=1e-4)
        np.testing.assert_allclose(result.timbre, whole.timbre, atol=1e-3)


def test_long_music_has_longer_frames(monkeypatch):
    monkeypatch.setattr(features, "MAX_FRAMES", 20)
    result = extract_features([tone(440.0, 30)])
    assert result.num_frames <= 20
    assert result.num_frames / result.frame_rate == pytest.approx(30, abs=1 / result.frame_rate)


def test_silent_frames_have_no_harmony():
    waveform = tone(440.0)
    waveform[:, 4 * SAMPLING_RATE : 8 * SAMPLING_RATE] = 0
    is_silent = ~extract_features([waveform]).chroma.any(axis=0)
    assert is_silent[23:37].all() and not is_silent[:18].any() and not is_silent[42:].any()


def test_what_cannot_be_used_is_said():
    for blocks, message in (
        ([], "empty"),
        ([torch.zeros(1, 50000)], "silent"),
        ([tone(440.0) * 5e-5], "silent"),
        ([tone(440.0) * 1e30], r"samples up to \d+e\+\d+, above 1e\+09"),
        ([torch.full((1, 50000), torch.nan)], "not finite"),
        ([torch.ones(1, 50000), torch.full((1, 500), torch.inf)], "not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            extract_features(blocks)
    assert extract_features([torch.ones(1, 100)]).num_frames == 1
