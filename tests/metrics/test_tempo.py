"""Tempo: clicks at known rates, octaves, silence."""

import numpy as np
import pytest

from stable_longform.metrics.tempo import SAMPLING_RATE, estimate_tempo, tempo_relation


def clicks(bpm: float, duration_in_s: float = 12.0, offset_in_s: float = 0.1) -> np.ndarray:
    """Short bursts of noise at a steady rate."""
    rng = np.random.default_rng(0)
    samples = 1e-4 * rng.standard_normal(round(duration_in_s * SAMPLING_RATE))
    burst = rng.standard_normal(800) * np.exp(-np.arange(800) / 150)
    for time in np.arange(offset_in_s, duration_in_s - 0.1, 60 / bpm):
        start = round(time * SAMPLING_RATE)
        samples[start : start + 800] += burst
    return samples.astype(np.float32)


@pytest.mark.parametrize("bpm", (63, 97, 122, 173))
def test_a_steady_beat_is_heard(bpm):
    assert tempo_relation(estimate_tempo(clicks(bpm)), bpm) == "exact"


def test_silence_has_no_tempo():
    assert estimate_tempo(np.zeros(5 * SAMPLING_RATE, dtype=np.float32)) is None
    assert tempo_relation(None, 120.0) == "other"


@pytest.mark.parametrize(
    ("heard", "relation"),
    [
        (120, "exact"), (124.7, "exact"), (125, "other"), (115.3, "exact"), (115, "other"), (60, "octave"),
        (240, "octave"), (40, "octave"), (370, "octave"), (80, "other"), (180, "other"),
    ],
)  # fmt: skip
def test_relations(heard, relation):
    assert tempo_relation(heard, 120.0) == relation
