"""How close a decoded recording is to the original: the three columns of the paper's Table 5, and similar metrics.

Conventions: waveforms are float tensors `(channels, num_samples)` with the same rate and length; channels count as
separate signals. Every function takes the decoded waveform first, the reference second.

Metrics: `stft_distance` and `mel_distance` (lower is better), `si_sdr` (dB, higher is better), all auraloss's with its
defaults: one STFT of 1024 samples, hop 256, Hann window, spectral convergence plus log-magnitude distance, no
perceptual weighting; 128 mel bands (Slaney); zero mean. SI-SDR is undefined for a silent reference, so silent channels
are left out of its mean. `joint_si_sdr`, which is not in the paper, treats all channels as one signal, so that a quiet
side counts by its power. `measure_reconstruction` computes all of them, and those of `tonality`.

References: Steinmetz and Reiss, "auraloss" (2020). Le Roux et al., "SDR – half-baked or well done?" (2019). Paper:
§4.3.
"""

import functools

import auraloss
import torch

from stable_longform.metrics.tonality import chroma_agreement, note_share, partial_share

FFT_SIZE = 1024
MAX_MEL_RATE = 48_000  # Hz; above it, the lowest bands contain no bin
SILENCE_IN_DB = -90.0  # dBFS; a channel whose power without its mean is lower is silent: dither of 16 bits


def stft_distance(decoded: torch.Tensor, reference: torch.Tensor) -> float:
    """Spectral convergence plus log-magnitude distance of two `(channels, num_samples)`; 0 for equal ones.

    Raises:
        ValueError: the shapes differ, are others or are too short, or a value is not finite.
    """
    return _apply(_stft_loss(), decoded, reference)


def mel_distance(decoded: torch.Tensor, reference: torch.Tensor, sampling_rate: int = 44100) -> float:
    """The same on mel magnitudes. At rates whose lowest mel bands hold no FFT bin the result would be meaningless.

    Raises:
        ValueError: see `stft_distance`; or a mel band would be empty at this rate.
    """
    loss = _mel_loss(sampling_rate)
    if not (loss.fb.sum(dim=-1) > 0).all():
        raise ValueError(f"128 mel bands of a 1024-sample STFT are not all filled at {sampling_rate} Hz.")
    return _apply(loss, decoded, reference)


def si_sdr(decoded: torch.Tensor, reference: torch.Tensor) -> float:
    """Scale-invariant signal-to-distortion ratio in dB; it does not depend on the gain.

    It is the mean over the channels in which the reference is not silent.

    Raises:
        ValueError: see `stft_distance`; or the reference is silent in all channels.
    """
    _check(decoded, reference)
    power = (reference - reference.mean(dim=1, keepdim=True)).square().mean(dim=1)
    is_heard = power > 10 ** (SILENCE_IN_DB / 10)
    if not is_heard.any():
        raise ValueError("The reference is silent: SI-SDR is undefined.")
    return -_apply(auraloss.time.SISDRLoss(), decoded[is_heard], reference[is_heard])


def joint_si_sdr(decoded: torch.Tensor, reference: torch.Tensor) -> float:
    """Scale-invariant signal-to-distortion ratio in dB of all channels, concatenated to one signal.

    Raises:
        ValueError: see `si_sdr`.
    """
    _check(decoded, reference)
    return si_sdr(decoded.reshape(1, -1), reference.reshape(1, -1))


def measure_reconstruction(decoded: torch.Tensor, reference: torch.Tensor, sampling_rate: int) -> dict[str, float]:
    """All metrics of this package for a reconstruction.

    Args:
        decoded: `(channels, num_samples)` of at least 0.19 s.
        reference: the same shape.
        sampling_rate: Hz, above 2000.

    Returns:
        The paper's `stft_distance`, `mel_distance` (up to 48 kHz) and `si_sdr`; `joint_si_sdr`; `chroma_agreement`;
        `partial_share` and `note_share` of the reconstruction, and of the original with the prefix `reference_`.

    Raises:
        ValueError: the shapes differ, are others or are too short, a value is not finite, or the reference is silent.
    """
    values = {"stft_distance": stft_distance(decoded, reference)}
    if sampling_rate <= MAX_MEL_RATE:
        values["mel_distance"] = mel_distance(decoded, reference, sampling_rate)
    values |= {"si_sdr": si_sdr(decoded, reference), "joint_si_sdr": joint_si_sdr(decoded, reference)}
    values["chroma_agreement"] = chroma_agreement(decoded, reference, sampling_rate)
    for prefix, waveform in (("", decoded), ("reference_", reference)):
        values[f"{prefix}partial_share"] = partial_share(waveform, sampling_rate)
        values[f"{prefix}note_share"] = note_share(waveform, sampling_rate)
    return values


@functools.cache
def _stft_loss() -> torch.nn.Module:
    """The STFT distance."""
    return auraloss.freq.STFTLoss(fft_size=FFT_SIZE)


@functools.cache
def _mel_loss(sampling_rate: int):
    """The mel distance, an `auraloss.freq.MelSTFTLoss`."""
    return auraloss.freq.MelSTFTLoss(sampling_rate, fft_size=FFT_SIZE)


@torch.no_grad()
def _apply(loss: torch.nn.Module, decoded: torch.Tensor, reference: torch.Tensor) -> float:
    """Checks two waveforms and computes a loss of them."""
    _check(decoded, reference)
    return float(loss(decoded[None].float().contiguous(), reference[None].float().contiguous()))


def _check(decoded: torch.Tensor, reference: torch.Tensor) -> None:
    """Raises a ValueError unless both are finite and have the same shape `(channels, num_samples)`."""
    if decoded.shape != reference.shape or decoded.ndim != 2 or decoded.shape[1] <= FFT_SIZE // 2:
        raise ValueError(
            f"Both must have the same shape (channels, num_samples > {FFT_SIZE // 2}), "
            f"got {tuple(decoded.shape)} and {tuple(reference.shape)}."
        )
    if not (decoded.isfinite().all() and reference.isfinite().all()):
        raise ValueError("Both waveforms must be finite.")
