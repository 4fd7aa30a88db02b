"""Distances of Table 5: perfect reconstruction, gain, closed forms, separate channels."""

import math

import pytest
import torch

from stable_longform.metrics.reconstruction import (
    joint_si_sdr,
    measure_reconstruction,
    mel_distance,
    si_sdr,
    stft_distance,
)
from stable_longform.metrics.tonality import chroma_agreement, partial_share

RATE = 44100


@pytest.fixture
def reference(make_audio):
    """One second of stereo."""
    return make_audio(RATE)


def test_perfect_reconstruction(reference):
    assert stft_distance(reference, reference) == 0
    assert mel_distance(reference, reference) == 0
    assert si_sdr(reference, reference) > 70


@pytest.mark.parametrize("distance", (stft_distance, mel_distance))
def test_spectral_distances_of_a_gain_have_a_closed_form(reference, distance):
    # Convergence |1 − g| and log distance |ln g|, for magnitudes above the floor.
    loud = reference + 0.5 * torch.randn(reference.shape, generator=torch.Generator().manual_seed(0))
    for gain in (0.5, 2.0):
        expected = abs(1 - gain) + abs(math.log(gain))
        assert distance(gain * loud, loud) == pytest.approx(expected, rel=1e-3)
    assert distance(2 * loud, loud) > distance(loud, 2 * loud)  # the second argument is the one that normalises


def test_si_sdr_of_independent_noise_is_the_signal_to_noise_ratio():
    generator = torch.Generator().manual_seed(0)
    signal, noise = torch.randn(2, 2, 10 * RATE, generator=generator)
    for decibels in (0.0, 10.0, 30.0):
        noisy = signal + 10 ** (-decibels / 20) * noise
        assert si_sdr(noisy, signal) == pytest.approx(decibels, abs=0.1)
        assert si_sdr(0.3 * noisy + 0.1, signal) == pytest.approx(si_sdr(noisy, signal), abs=1e-2)


def test_channels_are_separate_signals(reference):
    other = reference.flip(1)
    expected = (si_sdr(other[:1], reference[:1]) + si_sdr(other[1:], reference[1:])) / 2
    assert si_sdr(other, reference) == pytest.approx(expected, rel=1e-4)
    assert stft_distance(other.flip(0), reference.flip(0)) == pytest.approx(stft_distance(other, reference), rel=1e-6)


def test_silent_channels_of_the_reference_are_left_out_of_si_sdr(reference):
    """Dither and an offset are silence; what the decoder makes there costs nothing in SI-SDR."""
    decoded = reference + 0.01 * torch.randn(reference.shape, generator=torch.Generator().manual_seed(0))
    dither = 2e-5 * torch.randn(RATE, generator=torch.Generator().manual_seed(1))
    for silence in (torch.zeros(RATE), torch.full((RATE,), 0.1), dither):
        half_silent = torch.stack([reference[0], silence])
        assert si_sdr(decoded, half_silent) == pytest.approx(si_sdr(decoded[:1], reference[:1]))
        with pytest.raises(ValueError, match="reference is silent"):
            si_sdr(decoded, silence.expand(2, -1))
    assert si_sdr(torch.zeros_like(reference), reference) < -60  # a decoder that is silent is no exception


def test_joint_si_sdr_weighs_channels_by_their_power():
    """A channel at −40 dB whose reconstruction is all error costs as much as its power, not half of the mean."""
    generator = torch.Generator().manual_seed(0)
    loud, noise = torch.randn(2, 10 * RATE, generator=generator)
    quiet, error = 0.01 * torch.randn(2, 10 * RATE, generator=generator)
    reference = torch.stack([loud, quiet])
    decoded = torch.stack([loud + 0.1 * noise, error])
    assert si_sdr(decoded, reference) < 0
    assert joint_si_sdr(decoded, reference) == pytest.approx(20, abs=0.2)
    assert joint_si_sdr(decoded.flip(0), reference.flip(0)) == pytest.approx(joint_si_sdr(decoded, reference))
    assert joint_si_sdr(decoded[:1], reference[:1]) == pytest.approx(si_sdr(decoded[:1], reference[:1]))


def test_measures_of_a_reconstruction(reference):
    noise = 0.01 * torch.randn(reference.shape, generator=torch.Generator().manual_seed(0))
    values = measure_reconstruction(reference + noise, reference, RATE)
    assert values["stft_distance"] == stft_distance(reference + noise, reference)
    assert values["mel_distance"] == mel_distance(reference + noise, reference, RATE)
    assert values["si_sdr"] == si_sdr(reference + noise, reference)
    assert values["chroma_agreement"] == chroma_agreement(reference + noise, reference, RATE)
    assert values["partial_share"] == partial_share(reference + noise, RATE)
    assert values["reference_partial_share"] == partial_share(reference, RATE)
    assert "mel_distance" not in measure_reconstruction(reference, reference, 96000)


def test_mel_distance_forgets_what_a_band_averages(reference):
    shift = torch.exp(
        2j * math.pi * torch.rand(reference.shape[1] // 2 + 1, generator=torch.Generator().manual_seed(0))
    )
    other = torch.fft.irfft(torch.fft.rfft(reference) * shift, n=reference.shape[1])
    assert mel_distance(other, reference) < stft_distance(other, reference)


def test_silence_gives_numbers():
    silence = torch.zeros(2, RATE)
    assert stft_distance(silence, silence) == mel_distance(silence, silence) == 0


@pytest.mark.filterwarnings("ignore:Empty filters detected:UserWarning")
def test_bad_input_is_named(reference):
    for distance in (stft_distance, mel_distance, si_sdr):
        with pytest.raises(ValueError, match="same shape"):
            distance(reference[:, :-1], reference)
        with pytest.raises(ValueError, match="num_samples > 512"):
            distance(reference[:, :512], reference[:, :512])
        with pytest.raises(ValueError, match="finite"):
            distance(reference * math.nan, reference)
    with pytest.raises(ValueError, match="not all filled at 96000 Hz"):
        mel_distance(reference, reference, 96000)
