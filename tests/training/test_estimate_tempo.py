"""The tempo estimator that made the table's `bpm` column, on clicks of known tempo."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("librosa")
pytestmark = pytest.mark.slow  # librosa compiles its beat tracker at the first call

RATE = 22050
SCRIPT = Path(__file__).parents[2] / "training" / "corpus" / "estimate_tempo.py"


@pytest.fixture(scope="module")
def estimator():
    specification = importlib.util.spec_from_file_location("estimate_tempo", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def clicks(times: np.ndarray, duration_in_s: float) -> np.ndarray:
    """Decaying 1.75 kHz bursts at the given times over a faint noise."""
    samples = np.random.default_rng(0).standard_normal(round(RATE * duration_in_s)) * 1e-3
    burst = np.exp(-np.arange(1000) / 300) * np.sin(0.5 * np.arange(1000))
    for start in (times * RATE).astype(int):
        samples[start : start + 1000] += burst
    return samples.astype(np.float32)


@pytest.mark.parametrize("bpm", [72, 96, 120, 140, 174])
def test_steady_clicks(estimator, bpm):
    assert abs(estimator.estimate_bpm(clicks(np.arange(0, 59, 60 / bpm), 60), RATE) - bpm) <= 1


def test_a_tempo_that_changes_halfway_is_not_reported(estimator):
    times = np.concatenate([np.arange(0, 29.5, 60 / 90), np.arange(30, 59, 60 / 125)])
    assert estimator.estimate_bpm(clicks(times, 60), RATE) is None


def test_silence_has_no_tempo(estimator):
    assert estimator.estimate_bpm(np.zeros(60 * RATE, np.float32), RATE) is None
