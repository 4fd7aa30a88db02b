"""The features are those of transformers' extractor, and so is what is saved."""

import numpy as np
import pytest
from transformers import AutoFeatureExtractor, ClapFeatureExtractor

from stable_longform.data.clap_features import BlockwiseClapFeatureExtractor
from stable_longform.utils.seeding import seeded_numpy

RATE = 48000


def waveform(num_samples: int) -> np.ndarray:
    """Every second a loud tone that dies away, noise, and silence, in 16 bits."""
    seconds = np.arange(num_samples) / RATE % 1
    tone = 0.8 * np.sin(2 * np.pi * 440 * seconds) * np.exp(-3 * seconds)
    noise = np.random.default_rng(0).standard_normal(num_samples) * 0.05 * (seconds > 0.5)
    audio = np.where(seconds < 0.8, tone + noise, 0)
    return (np.trunc(audio.clip(-1, 1) * 32767) / 32767).astype(np.float32)


@pytest.mark.parametrize("truncation", ["fusion", "rand_trunc"])
@pytest.mark.parametrize("num_samples", [RATE // 3, RATE, RATE + 100, 3 * RATE])  # repeated, whole, cut
def test_features_are_those_of_transformers(truncation, num_samples):
    settings = {"max_length_s": 1, "frequency_min": 50, "truncation": truncation}
    results = []
    for extractor_class in (ClapFeatureExtractor, BlockwiseClapFeatureExtractor):
        with seeded_numpy(0):
            extractor = extractor_class(**settings)
            results.append(extractor(waveform(num_samples), sampling_rate=RATE, return_tensors="np"))
    expected, ours = (np.asarray(result["input_features"]) for result in results)
    assert expected.shape == ours.shape and expected.min() < -70 and expected.max() > 10
    np.testing.assert_allclose(ours, expected, atol=1e-4, rtol=0)
    assert np.array_equal(*(result["is_longer"] for result in results))


def test_transformers_calls_it(monkeypatch):
    """The method is private to transformers; were it renamed, the features would stay right and become slow."""
    extractor = BlockwiseClapFeatureExtractor(max_length_s=1, truncation="rand_trunc")
    monkeypatch.setattr("transformers.models.clap.feature_extraction_clap.spectrogram", None)
    features = extractor(waveform(RATE), sampling_rate=RATE)["input_features"]
    assert np.asarray(features).std() > 1


def test_saved_as_transformers_extractor(tmp_path):
    extractor = BlockwiseClapFeatureExtractor(max_length_s=1, frequency_min=50)
    extractor.save_pretrained(tmp_path)
    assert type(AutoFeatureExtractor.from_pretrained(tmp_path)) is ClapFeatureExtractor
    assert BlockwiseClapFeatureExtractor.from_pretrained(tmp_path).to_dict() == extractor.to_dict()
