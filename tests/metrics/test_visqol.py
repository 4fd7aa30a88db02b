"""ViSQOL: nothing lost, less and more lost, segments, what has no score."""

import pytest
import scipy.signal
import torch

from stable_longform.metrics import visqol as module
from stable_longform.metrics.visqol import visqol

RATE = 44100


@pytest.fixture
def reference(make_audio):
    """Two seconds of stereo with tones and noise up to 20 kHz."""
    noise = torch.randn(2, 2 * RATE, generator=torch.Generator().manual_seed(0))
    return make_audio(2 * RATE) + 0.03 * noise


def low_passed(waveform, cutoff):
    """Without what lies above `cutoff` Hz."""
    sections = scipy.signal.butter(8, cutoff, fs=RATE, output="sos")
    return torch.from_numpy(scipy.signal.sosfiltfilt(sections, waveform.numpy()).copy()).float()


def test_less_is_worse(make_audio, visqol_in_numpy):
    """Equal files have the score that the published program gives them; noise and a low-pass cost, more noise more."""
    reference = make_audio(RATE)
    noise = reference.std() * torch.randn(reference.shape, generator=torch.Generator().manual_seed(0))
    scores = [visqol(reference + 10 ** (-snr / 20) * noise, reference, RATE) for snr in (60, 20, 0)]
    assert visqol(reference, reference, RATE) == pytest.approx(4.7321, abs=1e-3)
    assert 4.7322 > scores[0] > 4.6 > scores[1] > scores[2] > 1
    assert visqol(low_passed(reference, 7000), reference, RATE) < 2


def test_segments_are_averaged_and_silent_ones_left_out(reference, monkeypatch, visqol_in_numpy):
    monkeypatch.setattr(module, "SEGMENT_IN_S", 1)
    one, other = low_passed(reference, 7000)[:, :RATE], reference[:, RATE:]
    halves = [visqol(one, reference[:, :RATE], RATE), visqol(other, reference[:, RATE:], RATE)]
    decoded = torch.cat([one, other], dim=1)
    assert visqol(decoded, reference, RATE) == pytest.approx(sum(halves) / 2, abs=0.05)  # resampled as a whole
    silent = torch.cat([torch.zeros(2, RATE), reference[:, RATE:]], dim=1)
    assert visqol(decoded, silent, RATE) == pytest.approx(halves[1], abs=0.05)


def test_bad_input_is_named(reference):
    with pytest.raises(ValueError, match="same shape"):
        visqol(reference[:, 1:], reference, RATE)
    with pytest.raises(ValueError, match="finite"):
        visqol(reference * torch.nan, reference, RATE)
    with pytest.raises(ValueError, match="at least 1 s, got 0.50 s"):
        visqol(reference[:, : RATE // 2], reference[:, : RATE // 2], RATE)
    with pytest.raises(ValueError, match="silent"):
        visqol(reference, 0 * reference, RATE)
