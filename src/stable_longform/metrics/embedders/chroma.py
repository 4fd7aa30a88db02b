"""Which notes begin and end when, in windows of a few seconds: tells copies from music that sounds alike. Not learned.

A window is divided into tenths of a second. For each of them, the embedding has the amplitudes of the twelve pitch
classes, beginning with A, of low notes (55 to 220 Hz) and of high ones (220 to 1760 Hz). Each row's mean over the
window is subtracted, so that it matters when notes sound, not which notes are frequent: those are the same in all
music in one key. Level, most of the timbre, lossy coding and an autoencoder change the embedding little. Other notes,
another rhythm or tempo, or a shift of more than a twentieth of a second change it a lot. So windows of a copy are
recognised if they begin at the same moments of the music.

Conventions: mono at 44.1 kHz; the rest at the end that fills no window is left out.

References: Fujishima, "Realtime chord recognition of musical sound" (1999) for pitch classes; Serrà, Gómez, Herrera
and Serra, "Chroma binary similarity and local alignment applied to cover song identification" (IEEE TASLP, 2008) for
comparing their sequences.
"""

import functools

import numpy as np
import torch

from stable_longform.metrics.embedders.features import HAS_NO_WEIGHTS, AudioFeatures, check_waveform

SAMPLING_RATE, FFT_SIZE, HOP_LENGTH = 44100, 8192, 2205
NUM_POOLED = 2  # spectra in a part
PART_IN_S = NUM_POOLED * HOP_LENGTH / SAMPLING_RATE
LOWEST_IN_HZ, NUM_CLASSES, REGISTERS = 55.0, 12, ((0, 2), (2, 5))  # registers in octaves above the lowest note
SILENCE = 1e-4  # amplitude of a tone that counts as silence


class ChromaEmbedder:
    """Embeddings `(num_windows, 24 * parts)` of mono audio at 44.1 kHz, unit rows, zero in silence; `name` "chroma".

    Args:
        window_in_s: length of the windows, at least 1 s; rounded to tenths.
        hop_in_s: from the start of a window to the start of the next one; rounded to tenths, at least one.
    """

    name, sampling_rate, num_channels = "chroma", SAMPLING_RATE, 1
    metrics = ("fd",)

    def __init__(self, window_in_s: float = 5.0, hop_in_s: float = 5.0):
        if not window_in_s >= 1:
            raise ValueError(f"The windows of chroma must have at least 1 s, got {window_in_s:g}.")
        self.num_parts, self.num_hop_parts = round(window_in_s / PART_IN_S), max(1, round(hop_in_s / PART_IN_S))
        self.hop_in_s = self.num_hop_parts * PART_IN_S
        self.protocol = {
            "network": "chroma",
            "version": 2,
            "weights_sha256": HAS_NO_WEIGHTS,
            "window_in_s": self.num_parts * PART_IN_S,
            "hop_in_s": self.hop_in_s,
            "sampling_rate": SAMPLING_RATE,
            "channels": "mono",
        }

    def __call__(self, waveform: torch.Tensor) -> AudioFeatures:
        """Features of `(1, num_samples)`, at least one window.

        Raises:
            ValueError: the waveform has another shape, is too short, not finite, or silent.
        """
        size = NUM_POOLED * HOP_LENGTH
        check_waveform(waveform, 1, self.num_parts * size)
        spectrum = torch.stft(
            waveform[0, : waveform.shape[1] // size * size].float(),
            FFT_SIZE,
            HOP_LENGTH,
            window=torch.hann_window(FFT_SIZE),
            pad_mode="constant",
            return_complex=True,
        )
        amplitudes = (_pitch_classes() @ spectrum.abs().square()[:, :-1]).sqrt() * (4 / FFT_SIZE)
        amplitudes = torch.where(amplitudes.amax(dim=0) < SILENCE, 0.0, amplitudes)
        parts = torch.nn.functional.avg_pool1d(amplitudes[None], NUM_POOLED)[0]
        windows = parts.unfold(1, self.num_parts, self.num_hop_parts).permute(1, 0, 2).contiguous()
        rows = (windows - windows.mean(dim=2, keepdim=True)).flatten(1)
        lengths = rows.norm(dim=1, keepdim=True)
        if not (lengths > SILENCE).any():
            raise ValueError("silent, or without any change of notes")
        return AudioFeatures(torch.where(lengths > SILENCE, rows / lengths, 0.0).numpy())


@functools.cache
def _pitch_classes() -> torch.Tensor:
    """A matrix `(24, FFT_SIZE / 2 + 1)` that sums the power of each pitch class, low register first."""
    frequencies = np.fft.rfftfreq(FFT_SIZE, 1 / SAMPLING_RATE)
    matrix = np.zeros((len(REGISTERS) * NUM_CLASSES, len(frequencies)), dtype=np.float32)
    semitones = np.round(NUM_CLASSES * np.log2(np.maximum(frequencies, 1) / LOWEST_IN_HZ)).astype(int)
    for number, (first, last) in enumerate(REGISTERS):
        bins = np.flatnonzero((semitones >= NUM_CLASSES * first) & (semitones < NUM_CLASSES * last))
        matrix[number * NUM_CLASSES + semitones[bins] % NUM_CLASSES, bins] = 1
    return torch.from_numpy(matrix)
