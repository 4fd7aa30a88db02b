"""The effect of an approximation on music: levels of mel bands, loudness and brightness against the exact result."""

from typing import NamedTuple

import torch

from stable_longform.metrics.embedders.features import mel_filters

FFT_SIZE, HOP_LENGTH, NUM_BANDS = 2048, 512, 128
DYNAMIC_RANGE = 1e-8  # of power: levels more than 80 dB below the loudest band are raised to this floor


class MusicErrors(NamedTuple):
    """An approximation of a waveform against the exact one.

    Args:
        log_mel_l1: mean difference of the levels of 128 mel bands in dB, with a floor 80 dB below the loudest band.
        rms_ratio: ratio of the root mean squares.
        centroid_ratio: ratio of the centroids of the power spectra.
    """

    log_mel_l1: float
    rms_ratio: float
    centroid_ratio: float


def music_errors(waveform: torch.Tensor, expected: torch.Tensor, sampling_rate: int) -> MusicErrors:
    """Compares two waveforms `(audio_channels, num_samples)`."""
    window = torch.hann_window(FFT_SIZE)
    powers = [
        torch.stft(audio, FFT_SIZE, HOP_LENGTH, window=window, return_complex=True).abs().square()
        for audio in (waveform, expected)
    ]
    bands = [mel_filters(sampling_rate, FFT_SIZE, NUM_BANDS, norm=None) @ power for power in powers]
    floor = float(bands[1].max()) * DYNAMIC_RANGE
    levels = [10 * band.clamp(min=floor).log10() for band in bands]
    spectra = [power.mean(dim=(0, 2)) for power in powers]
    frequencies = torch.linspace(0, sampling_rate / 2, FFT_SIZE // 2 + 1)
    centroids = [float((frequencies * spectrum).sum() / spectrum.sum()) for spectrum in spectra]
    rms = [float(audio.square().mean().sqrt()) for audio in (waveform, expected)]
    return MusicErrors(float((levels[0] - levels[1]).abs().mean()), rms[0] / rms[1], centroids[0] / centroids[1])
