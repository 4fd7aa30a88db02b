"""The estimated tempo of a recording, and its agreement with the requested tempo.

Conventions: beats per minute; samples are mono `(num_samples,)` at 22050 Hz. A tempo within 4 % of the requested one
is correct. Two or three times faster or slower counts as an octave error, on which listeners don't agree either.

Metrics: `estimate_tempo`, `tempo_relation`. They are "Accuracy 1" and, with octaves, "Accuracy 2" of the literature.

References: Gouyon et al., "An experimental comparison of audio tempo induction algorithms" (2006), §II.B; Ellis, "Beat
tracking by dynamic programming" (2007), as implemented in librosa. Not in the paper.
"""

import numpy as np

from stable_longform.utils.optional import require

SAMPLING_RATE = 22050
HOP_LENGTH = 256  # of the onset strength: with librosa's 512, a tempo of 180 BPM has a resolution of only 7 %
TOLERANCE = 0.04
OCTAVES = (2.0, 3.0, 1 / 2, 1 / 3)


def estimate_tempo(samples: np.ndarray) -> float | None:
    """Estimates the tempo of mono samples at 22050 Hz in beats per minute; None if there are no onsets.

    The onset strength is the median over bands of the rise in level, to which a melody alone does not contribute.
    """
    librosa = require("librosa", "eval")
    onsets = librosa.onset.onset_strength(y=samples, sr=SAMPLING_RATE, hop_length=HOP_LENGTH, aggregate=np.median)
    if not onsets.any():
        return None
    (tempo,) = librosa.feature.tempo(onset_envelope=onsets, sr=SAMPLING_RATE, hop_length=HOP_LENGTH)
    return float(tempo) if tempo > 0 else None


def tempo_relation(heard: float | None, asked: float) -> str:
    """Compares an estimated with a requested tempo, both in beats per minute: "exact", "octave" or "other"."""
    if heard is None:
        return "other"
    for name, factors in (("exact", (1.0,)), ("octave", OCTAVES)):
        if any(abs(heard / (factor * asked) - 1) <= TOLERANCE for factor in factors):
            return name
    return "other"
