"""Whether music has notes: partials above the noise, the pitch classes that sound, and their agreement.

Reconstructed music can keep its level and timbre but lose its notes, which spectral and Fréchet distances hardly
detect. These measures do. They use the frequency band of melody, bass and chords.

Conventions: waveforms are float tensors `(channels, num_samples)` of at least `FRAME_IN_S` seconds; channels are
averaged. Frames are `FRAME_IN_S` long and overlap by half, with a Hann window. The value of a recording is the median
over its frames without the quietest fifth. The band is `BAND_IN_HZ`.

Metrics, in [0, 1] except the agreement, which is in [-1, 1]; higher is better:

- `partial_share`: share of the power in partials, which are bins `PARTIAL_IN_DB` above the noise around them. 0 for
  noise, 0.7 to 0.98 for music.
- `note_share`: share of the power in the four strongest of the twelve pitch classes. 0.48 for white noise, 0.83 to
  0.97 for music; near 1/3 if all notes sound at once, which also have partials.
- `chroma_agreement`: correlation of the twelve pitch classes of a reconstruction and its original, frame by frame.

The figures are for five real tracks and for composed music at 44.1 kHz. The measures are our own; chroma follows
Fujishima, "Realtime chord recognition of musical sound" (1999).
"""

import numpy as np
import scipy.ndimage
import scipy.signal
import torch

FRAME_IN_S = 8192 / 44100
BAND_IN_HZ = (80.0, 1000.0)
PARTIAL_IN_DB = 10.0
NOISE_WIDTH = 31  # bins used to estimate the noise around a bin
QUIET_QUANTILE = 0.2  # share of the quietest frames, which are left out
FLOOR = 1e-14  # power in the band below which a frame is silent
CONCERT_PITCH_IN_HZ, CONCERT_PITCH_CLASS = 440.0, 9  # A; C is 0


def partial_share(waveform: torch.Tensor, sampling_rate: int) -> float:
    """Share of the power in partials, in [0, 1].

    A bin counts as a partial if its power is `PARTIAL_IN_DB` above the mean power of the noise around it. The mean is
    estimated from the median of `NOISE_WIDTH` bins, divided by ln 2 as for an exponential distribution.

    Args:
        waveform: `(channels, num_samples)`.
        sampling_rate: Hz, greater than 2000.

    Raises:
        ValueError: the shape is wrong, there are too few samples, samples are not finite, or the rate is too low.
    """
    frequencies, power = _spectrum(waveform, sampling_rate)
    noise = scipy.ndimage.median_filter(power, size=(NOISE_WIDTH, 1)) / np.log(2)
    is_inside = _is_inside(frequencies)
    power, noise = power[is_inside], noise[is_inside]
    in_partials = (power * (power > 10 ** (PARTIAL_IN_DB / 10) * noise)).sum(axis=0)
    share = _divide(in_partials, power.sum(axis=0), otherwise=0.0)
    return float(np.median(share[_is_loud(power)]))


def note_share(waveform: torch.Tensor, sampling_rate: int, num_notes: int = 4) -> float:
    """Share of the power in the strongest pitch classes of each frame, in [`num_notes` / 12, 1].

    Args:
        waveform: `(channels, num_samples)`.
        sampling_rate: Hz, greater than 2000.
        num_notes: in [1, 12].

    Raises:
        ValueError: see `partial_share`; or `num_notes` is out of range.
    """
    if not 1 <= num_notes <= 12:
        raise ValueError(f"num_notes must be in [1, 12], got {num_notes}.")
    shares = chroma(waveform, sampling_rate)
    strongest = np.sort(shares, axis=0)[-num_notes:].sum(axis=0)
    return float(np.median(strongest[_is_loud(_band_power(waveform, sampling_rate))]))


def chroma_agreement(decoded: torch.Tensor, reference: torch.Tensor, sampling_rate: int) -> float:
    """Correlation over the twelve pitch classes, in [-1, 1]; the reference determines the frames that count.

    A frame in which all classes are equally loud, as in silence, has a correlation of 0 with any other.

    Args:
        decoded: `(channels, num_samples)`.
        reference: the same shape.
        sampling_rate: Hz, greater than 2000.

    Raises:
        ValueError: see `partial_share`; or the shapes differ.
    """
    if decoded.shape != reference.shape:
        raise ValueError(f"Both must have one shape, got {tuple(decoded.shape)} and {tuple(reference.shape)}.")
    ours, theirs = (chroma(waveform, sampling_rate) - 1 / 12 for waveform in (decoded, reference))
    norms = np.linalg.norm(ours, axis=0) * np.linalg.norm(theirs, axis=0)
    agreement = _divide((ours * theirs).sum(axis=0), norms, otherwise=0.0)
    return float(np.median(agreement[_is_loud(_band_power(reference, sampling_rate))]))


def chroma(waveform: torch.Tensor, sampling_rate: int) -> np.ndarray:
    """Shares of the power by pitch class, C first: `(12, num_frames)`; each frame has sum 1, all equal in silence.

    Args:
        waveform: `(channels, num_samples)`.
        sampling_rate: Hz, greater than 2000.

    Raises:
        ValueError: see `partial_share`.
    """
    frequencies, power = _spectrum(waveform, sampling_rate)
    is_inside = _is_inside(frequencies)
    semitones = np.round(12 * np.log2(frequencies[is_inside] / CONCERT_PITCH_IN_HZ)).astype(int)
    classes = (semitones + CONCERT_PITCH_CLASS) % 12
    shares = np.stack([power[is_inside][classes == number].sum(axis=0) for number in range(12)])
    return _divide(shares, shares.sum(axis=0), otherwise=1 / 12)


def _spectrum(waveform: torch.Tensor, sampling_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies in Hz `(num_bins,)` and power `(num_bins, num_frames)` of the mean of the channels."""
    frame_length = 2 * round(FRAME_IN_S * sampling_rate / 2)
    if sampling_rate <= 2 * BAND_IN_HZ[1]:
        raise ValueError(f"sampling_rate must be greater than {2 * BAND_IN_HZ[1]:.0f} Hz, got {sampling_rate}.")
    if waveform.ndim != 2 or waveform.shape[1] < frame_length:
        raise ValueError(f"waveform must be (channels, num_samples >= {frame_length}), got {tuple(waveform.shape)}.")
    if not waveform.isfinite().all():
        raise ValueError("waveform must be finite.")
    mono = waveform.double().mean(dim=0).cpu().numpy()
    frequencies, _, spectrum = scipy.signal.stft(mono, sampling_rate, nperseg=frame_length)
    top = np.searchsorted(frequencies, BAND_IN_HZ[1]) + NOISE_WIDTH
    return frequencies[:top], np.abs(spectrum[:top]) ** 2


def _divide(numerator: np.ndarray, denominator: np.ndarray, otherwise: float) -> np.ndarray:
    """The ratio, or `otherwise` where the denominator is almost zero."""
    return np.divide(numerator, denominator, out=np.full_like(numerator, otherwise), where=denominator > FLOOR)


def _is_inside(frequencies: np.ndarray) -> np.ndarray:
    """Which frequencies are in the band."""
    return (frequencies > BAND_IN_HZ[0]) & (frequencies < BAND_IN_HZ[1])


def _band_power(waveform: torch.Tensor, sampling_rate: int) -> np.ndarray:
    """The power in the band `(num_bins, num_frames)`."""
    frequencies, power = _spectrum(waveform, sampling_rate)
    return power[_is_inside(frequencies)]


def _is_loud(power: np.ndarray) -> np.ndarray:
    """Which frames of `(num_bins, num_frames)` are not among the quietest."""
    energy = power.sum(axis=0)
    return energy >= np.quantile(energy, QUIET_QUANTILE)
