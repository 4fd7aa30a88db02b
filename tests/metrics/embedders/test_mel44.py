"""The embedding that is not learned: levels of tones, gain, stereo image, windows."""

import numpy as np
import pytest
import torch

from stable_longform.metrics.embedders.mel44 import HOP_LENGTH, WINDOW_FRAMES, Mel44Embedder

RATE, NUM_SAMPLES = 44100, 2 * WINDOW_FRAMES * HOP_LENGTH
MEANS, DEVIATIONS, RATIOS = slice(0, 64), slice(64, 128), slice(128, 136)


def embed(waveform):
    """Embeddings of a waveform."""
    return Mel44Embedder()(waveform).embeddings


def noise(seed=0):
    """White noise in both channels."""
    return 0.1 * torch.randn(2, NUM_SAMPLES, generator=torch.Generator().manual_seed(seed))


def test_shape_and_number_of_windows():
    assert embed(noise()).shape == (2, 136)
    assert embed(noise()[:, : NUM_SAMPLES // 2]).shape == (1, 136)
    with pytest.raises(ValueError, match="waveform must be"):
        embed(noise()[:, : (WINDOW_FRAMES - 1) * HOP_LENGTH - 1])


def test_a_full_scale_tone_has_level_zero_in_its_band_and_no_deviation():
    tone = torch.sin(2 * torch.pi * 1000 / RATE * torch.arange(NUM_SAMPLES)).expand(2, -1)
    features = embed(tone)[0]
    assert features[MEANS].max() == pytest.approx(0, abs=0.3)  # a tone between two bands is shared by them
    assert features[MEANS].min() < -4
    assert features[DEVIATIONS][features[MEANS].argmax()] < 0.1


def test_gain_moves_all_levels_and_nothing_else():
    quiet, loud = embed(0.1 * noise()), embed(noise())
    np.testing.assert_allclose(loud[:, MEANS] - quiet[:, MEANS], 2, atol=1e-4)
    np.testing.assert_allclose(loud[:, 64:], quiet[:, 64:], atol=1e-4)


def test_ratios_tell_mono_independent_and_opposite_channels():
    left = noise()[:1]
    assert embed(left.expand(2, -1))[:, RATIOS] == pytest.approx(-4)
    assert embed(torch.cat([left, -left]))[:, RATIOS] == pytest.approx(4)
    assert np.abs(embed(noise())[:, RATIOS]).max() < 0.2
    assert embed(torch.cat([left, torch.zeros_like(left)]))[:, RATIOS] == pytest.approx(0, abs=1e-5)


def test_silence_lies_at_the_floor():
    features = embed(torch.zeros(2, NUM_SAMPLES))
    assert features[:, MEANS] == pytest.approx(-10) and (features[:, 64:] == 0).all()


def test_low_pass_is_seen():
    spectrum = torch.fft.rfft(noise())
    spectrum[:, spectrum.shape[1] * 8000 * 2 // RATE :] = 0
    difference = embed(noise())[:, MEANS] - embed(torch.fft.irfft(spectrum, n=NUM_SAMPLES))[:, MEANS]
    assert np.abs(difference[:, :40]).max() < 0.1 and difference[:, -10:].min() > 2
