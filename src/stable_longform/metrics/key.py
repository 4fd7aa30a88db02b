"""The estimated key of a recording, and its relation to the requested key.

Conventions: a key is `(tonic, mode)` with the tonic's pitch class, 0 (C) to 11 (B), and the mode "major", "minor" or
"dorian". Only the first two are estimated; dorian counts as minor with the same tonic. Samples are mono
`(num_samples,)` at 22050 Hz.

Metrics: `estimate_key`, `key_relation`.

References: Krumhansl, "Cognitive foundations of musical pitch" (1990), chapter 4, for the method; Albrecht and
Shanahan, "The use of large corpora to train a new type of key-finding algorithm" (2013) for the profiles; librosa's
chroma of the constant-Q transform. Not in the paper.
"""

import numpy as np

from stable_longform.utils.optional import require

SAMPLING_RATE = 22050
PROFILES = {  # share of each pitch class, in semitones above the tonic
    "major": (0.238, 0.006, 0.111, 0.006, 0.137, 0.094, 0.016, 0.214, 0.009, 0.080, 0.008, 0.081),
    "minor": (0.220, 0.006, 0.104, 0.123, 0.019, 0.103, 0.012, 0.214, 0.062, 0.022, 0.061, 0.052),
}
# Semitones from the tonic of a mode to the tonic of the major scale with the same tones.
RELATIVE_MAJOR = {"major": 0, "minor": 3, "dorian": 10}
FIFTHS = (5, 7)  # semitones, down and up


def estimate_key(samples: np.ndarray) -> tuple[int, str] | None:
    """Estimates the key of mono samples at 22050 Hz; None for silence."""
    if not samples.any():
        return None
    chroma = require("librosa", "eval").feature.chroma_cqt(y=samples, sr=SAMPLING_RATE)  # (12, num_frames)
    return match_key(chroma.mean(axis=1))


def match_key(chroma: np.ndarray) -> tuple[int, str] | None:
    """The key whose profile correlates best with strengths `(12,)` of the pitch classes; None if they are equal."""
    chroma = np.asarray(chroma, dtype=np.float64)
    if not np.ptp(chroma) > 0:
        return None
    keys = [(tonic, mode) for mode in PROFILES for tonic in range(12)]
    return max(keys, key=lambda key: np.corrcoef(np.roll(PROFILES[key[1]], key[0]), chroma)[0, 1])


def key_relation(heard: tuple[int, str] | None, asked: tuple[int, str]) -> str:
    """Compares an estimated with a requested key.

    Returns:
        "exact": the same tonic and third; "relative": the same seven tones with another tonic; "fifth": a fifth apart
        in the same mode; otherwise "other".
    """
    if heard is None:
        return "other"
    mode = "minor" if asked[1] == "dorian" else asked[1]
    if heard == (asked[0], mode):
        return "exact"
    if (heard[0] + RELATIVE_MAJOR[heard[1]] - asked[0] - RELATIVE_MAJOR[asked[1]]) % 12 == 0:
        return "relative"
    return "fifth" if heard[1] == mode and (heard[0] - asked[0]) % 12 in FIFTHS else "other"
