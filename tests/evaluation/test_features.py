"""Features of files: what the cache returns is what the embedder computed."""

import numpy as np
import soundfile
import torch

from stable_longform.evaluation.audio_files import ReadingSettings
from stable_longform.evaluation.features import each_file_features
from stable_longform.metrics.embedders.chroma import ChromaEmbedder
from stable_longform.metrics.embedders.features import AudioFeatures

RATE = 44100


class Transposed(ChromaEmbedder):
    """Returns the same numbers in another order in memory."""

    def __call__(self, waveform):
        return AudioFeatures(np.asfortranarray(super().__call__(waveform).embeddings))


def test_the_cache_keeps_values_whatever_their_order_in_memory(tmp_path):
    noise = np.random.default_rng(0).standard_normal(4 * RATE).astype(np.float32) * 0.1
    soundfile.write(tmp_path / "a.wav", noise, RATE, subtype="FLOAT")
    embedder, settings = Transposed(2.0, 0.1), ReadingSettings(peak_in_db=None)
    expected = embedder(torch.from_numpy(noise)[None]).embeddings
    for _ in range(2):
        ((_, features, _),) = each_file_features({"a": tmp_path / "a.wav"}, [embedder], settings, tmp_path / "c", "a")
        np.testing.assert_array_equal(features["chroma"].embeddings, expected)
