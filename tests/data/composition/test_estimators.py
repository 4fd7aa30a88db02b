"""Tempo and key that are heard in rendered pieces are mostly those that are declared."""

import pytest
from soundfont import SOUNDFONT, needs_soundfont

from stable_longform.data.composition.compose import compose_piece
from stable_longform.data.composition.genres import GENRES
from stable_longform.data.composition.rendering import SAMPLING_RATE, render
from stable_longform.metrics import key, tempo
from stable_longform.utils.audio import resample

DURATION_IN_S = 40


@needs_soundfont
@pytest.mark.slow
def test_tempo_and_key_are_heard():
    pytest.importorskip("librosa")
    tempi, keys = [], []
    for seed, genre in enumerate(GENRES):
        piece = compose_piece(1000 + seed, DURATION_IN_S, genre)
        waveform = render(piece, SOUNDFONT, DURATION_IN_S).mean(dim=0, keepdim=True)
        samples = resample(waveform, SAMPLING_RATE, tempo.SAMPLING_RATE)[0].numpy()
        tempi.append(tempo.tempo_relation(tempo.estimate_tempo(samples), piece.bpm))
        keys.append(key.key_relation(key.estimate_key(samples), (piece.key.tonic, piece.key.mode)))
    assert tempi.count("other") <= 0.25 * len(tempi), tempi
    assert keys.count("exact") >= 0.65 * len(keys), keys
