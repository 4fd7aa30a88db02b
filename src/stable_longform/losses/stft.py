"""The reconstruction loss of the autoencoder: multi-resolution STFT on mid, side, left and right.

Paper: §2.1, "a perceptually weighted multi-resolution STFT", on mid/side and, weighted by ½, on left and right. As in
the code at the time of the paper: mid S = L + R and side D = L − R with weight 1 each, L and R with weight ½ each;
A-weighting by a 101-tap filter before the STFT; spectral convergence plus log-magnitude distance, both with weight 1,
averaged over the resolutions. The spectral convergence is normalised by the decoded signal and over the whole batch.
Not in the paper: the complex STFT error. With it, even a short training preserves the phase, and thus the notes.

References: Yamamoto et al., "Parallel WaveGAN" (2020) for the two distances; Steinmetz and Reiss, "auraloss" (2020);
the tests compare with its version 0.4.0.
"""

import functools
from collections.abc import Sequence

import numpy as np
import scipy.signal
import torch
import torch.nn.functional as F

FFT_SIZES = (2048, 1024, 512, 256, 128, 64, 32)  # in samples; the window has this length, the hop is a quarter of it
SIGNAL_WEIGHTS = {"mid": 1.0, "side": 1.0, "left": 0.5, "right": 0.5}


def stereo_stft_loss(
    waveform: torch.Tensor,
    decoded: torch.Tensor,
    sampling_rate: int = 44100,
    fft_sizes: Sequence[int] = FFT_SIZES,
    complex_fft_sizes: Sequence[int] = (),
    is_a_weighted: bool = True,
) -> dict[str, torch.Tensor]:
    """Multi-resolution STFT losses of the four signals of a stereo pair, not yet weighted by `SIGNAL_WEIGHTS`.

    Args:
        waveform: the real audio, `(batch_size, 2, num_samples)`, `num_samples` > half the largest FFT size.
        decoded: the reconstruction, the same shape.
        sampling_rate: Hz, for the A-weighting filter.
        fft_sizes: of the magnitude distances, in samples.
        complex_fft_sizes: of the complex STFT error (not in the paper), in samples; empty: no such error.
        is_a_weighted: whether both signals are A-weighted first. Without A-weighting (not in the paper), the bass
            counts fully.

    Returns:
        scalars named "mid", "side", "left" and "right", and with `complex_fft_sizes` also "complex_stft": the sum over
        those sizes of mean |X − Y| over mean |X| on left and right, which depends on the phase too. For a silent
        reconstruction it equals the number of sizes.

    Raises:
        ValueError: the shapes differ or are not stereo.
    """
    if waveform.shape != decoded.shape or waveform.ndim != 3 or waveform.shape[1] != 2:
        raise ValueError(
            f"waveform and decoded must both be (batch_size, 2, num_samples), "
            f"got {tuple(waveform.shape)} and {tuple(decoded.shape)}."
        )
    real, fake = waveform.float(), decoded.float()
    if is_a_weighted:
        real, fake = a_weighting(real, sampling_rate), a_weighting(fake, sampling_rate)
    distance, error = waveform.new_zeros(len(SIGNAL_WEIGHTS)), waveform.new_zeros(())
    for fft_size in dict.fromkeys((*fft_sizes, *complex_fft_sizes)):
        spectra = stft(real, fft_size), stft(fake, fft_size)  # each is computed once and used several times
        if fft_size in fft_sizes:
            distance = distance + magnitude_distance(*(magnitude(_signals(spectrum)) for spectrum in spectra))
        if fft_size in complex_fft_sizes:
            error = error + complex_error(*spectra)
    losses = dict(zip(SIGNAL_WEIGHTS, distance / len(fft_sizes), strict=True))
    return losses | ({"complex_stft": error} if complex_fft_sizes else {})


def magnitude_distance(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Spectral convergence plus log-magnitude distance, for each signal.

    Args:
        real: positive magnitudes `(num_signals, ...)`.
        fake: the same shape; it normalises the spectral convergence.

    Returns:
        `(num_signals,)`.
    """
    convergence = (fake - real).flatten(1).norm(dim=1) / fake.flatten(1).norm(dim=1)
    return convergence + (real.log() - fake.log()).abs().flatten(1).mean(dim=1)


def complex_error(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Mean |X − Y| over mean |X| of two complex spectra of one shape: 0 if they are equal, 1 for Y = 0."""
    return (real - fake).abs().mean() / real.abs().mean().clamp(min=1e-4)


def stft(waveform: torch.Tensor, fft_size: int) -> torch.Tensor:
    """STFT of `(..., num_samples)` with a Hann window, hop `fft_size / 4` and reflected ends.

    Returns:
        complex `(..., fft_size / 2 + 1, num_frames)`.
    """
    spectrum = torch.stft(
        waveform.reshape(-1, waveform.shape[-1]),
        fft_size,
        fft_size // 4,
        window=torch.hann_window(fft_size, device=waveform.device),
        pad_mode="reflect",
        return_complex=True,
    )
    return spectrum.reshape(*waveform.shape[:-1], *spectrum.shape[1:])


def stft_magnitude(waveform: torch.Tensor, fft_size: int) -> torch.Tensor:
    """The magnitudes of `stft`, with the floor of `magnitude`."""
    return magnitude(stft(waveform, fft_size))


def magnitude(spectrum: torch.Tensor) -> torch.Tensor:
    """|X| of a complex X; the square is at least 1e-8."""
    return torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag).clamp(min=1e-8).sqrt()


def a_weighting(waveform: torch.Tensor, sampling_rate: int) -> torch.Tensor:
    """Filters `(..., num_samples)` by the A-weighting curve; the ends are padded with zeros to keep the length."""
    taps = _a_weighting_taps(sampling_rate).to(waveform)
    filtered = F.conv1d(waveform.reshape(-1, 1, waveform.shape[-1]), taps[None, None], padding=taps.numel() // 2)
    return filtered.reshape(waveform.shape)


def _signals(stereo: torch.Tensor) -> torch.Tensor:
    """Computes mid, side, left and right `(4, B, ...)` of stereo waveforms or spectra `(B, 2, ...)`."""
    left, right = stereo.unbind(dim=1)
    return torch.stack([left + right, left - right, left, right])


@functools.cache
def _a_weighting_taps(sampling_rate: int, num_taps: int = 101) -> torch.Tensor:
    """Taps of a linear-phase filter fitted by least squares to the A-weighting curve of IEC 61672."""
    pole_1, pole_2, pole_3, pole_4, gain_at_1khz = 20.598997, 107.65265, 737.86223, 12194.217, 1.9997
    radians = 2 * torch.pi
    numerator = [(radians * pole_4) ** 2 * 10 ** (gain_at_1khz / 20), 0, 0, 0, 0]
    denominator: np.ndarray = np.ones(1)
    for factor in (
        [1, 2 * radians * pole_4, (radians * pole_4) ** 2],
        [1, 2 * radians * pole_1, (radians * pole_1) ** 2],
        [1, radians * pole_3],
        [1, radians * pole_2],
    ):
        denominator = np.polymul(denominator, factor)
    b, a = scipy.signal.bilinear(numerator, denominator, fs=sampling_rate)
    frequencies, response = scipy.signal.freqz(b, a, worN=512, fs=sampling_rate)
    taps = scipy.signal.firls(num_taps, frequencies, abs(response), fs=sampling_rate)
    return torch.from_numpy(taps.astype("float32"))
