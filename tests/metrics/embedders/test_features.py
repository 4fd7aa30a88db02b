"""Helpers of the embedders: mel filters against librosa, the cache folder."""

import librosa
import numpy as np
import pytest
import torch

from stable_longform.metrics.embedders.features import (
    CACHE_VARIABLE,
    cache_dir,
    check_waveform,
    mel_filters,
)


@pytest.mark.parametrize(
    ("rate", "fft_size", "num_mels", "norm"), [(16000, 512, 96, "slaney"), (44100, 2048, 64, None)]
)
def test_mel_filters_are_those_of_librosa(rate, fft_size, num_mels, norm):
    expected = librosa.filters.mel(sr=rate, n_fft=fft_size, n_mels=num_mels, norm=norm)
    np.testing.assert_allclose(mel_filters(rate, fft_size, num_mels, norm), expected, rtol=1e-4, atol=1e-7)


def test_cache_dir_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "here"))
    assert cache_dir() == tmp_path / "here"
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "stable_longform"


def test_check_waveform_names_what_is_wrong():
    check_waveform(torch.zeros(2, 10), 2, 10)
    for bad in (torch.zeros(1, 10), torch.zeros(2, 9), torch.zeros(10)):
        with pytest.raises(ValueError, match=r"waveform must be \(2 channels, at least 10 samples\)"):
            check_waveform(bad, 2, 10)
    with pytest.raises(ValueError, match="finite"):
        check_waveform(torch.full((2, 10), torch.inf), 2, 10)
