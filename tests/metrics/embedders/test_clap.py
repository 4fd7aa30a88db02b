"""CLAP with tiny random models: the same audio has the same embedding, fusion, agreement with transformers, files."""

import numpy as np
import pytest
import torch
from tiny_pipeline import tiny_tokenizer
from transformers import ClapAudioConfig, ClapConfig, ClapFeatureExtractor, ClapModel, ClapTextConfig

from stable_longform.metrics.clap_score import clap_scores
from stable_longform.metrics.embedders.clap import ClapEmbedder

RATE = 16000


def tiny_clap(is_fused):
    """An embedder with views of 1 s."""
    torch.manual_seed(0)
    audio = ClapAudioConfig(
        spec_size=256,
        num_mel_bins=64,  # the extractor's shrunk view has as many, whatever it is told
        patch_stride=[4, 4],
        window_size=8,
        patch_embeds_hidden_size=8,
        hidden_size=16,
        depths=[1, 1],
        num_attention_heads=[1, 2],
        enable_fusion=is_fused,
        fusion_type="aff_2d" if is_fused else None,
    )
    text = ClapTextConfig(
        vocab_size=280, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=130, projection_dim=8,
    )  # fmt: skip
    model = ClapModel(ClapConfig(audio_config=audio.to_dict(), text_config=text.to_dict(), projection_dim=8))
    extractor = ClapFeatureExtractor(
        feature_size=64, sampling_rate=RATE, hop_length=160, max_length_s=1, fft_window_size=512, frequency_max=8000,
        truncation="fusion" if is_fused else "rand_trunc", padding="repeatpad",
    )  # fmt: skip
    return ClapEmbedder(model, extractor, tiny_tokenizer(), "clap", "tiny")


@pytest.fixture(params=(True, False), ids=("fused", "plain"))
def embedder(request):
    """With and without fusion."""
    return tiny_clap(request.param)


def test_the_same_audio_has_the_same_embedding(embedder, make_audio):
    waveform = make_audio(3 * RATE, 1, RATE)
    np.random.seed(1)
    first = embedder(waveform).embeddings
    expected = np.random.rand()
    np.random.seed(1)
    assert np.random.rand() == expected  # numpy's generator is left as it was
    np.random.seed(2)
    np.testing.assert_array_equal(embedder(waveform).embeddings, first)
    assert first.shape == (1, 8) and np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
    assert not np.array_equal(embedder(-0.5 * waveform.flip(1)).embeddings, first)


def test_long_audio_alone_is_fused(make_audio, monkeypatch):
    embedder, flags = tiny_clap(True), []
    original = embedder.model.get_audio_features
    monkeypatch.setattr(
        embedder.model, "get_audio_features", lambda **k: flags.append(bool(k["is_longer"])) or original(**k)
    )
    for seconds in (0.5, 1.0, 1.5):
        embedder(make_audio(round(seconds * RATE), 1, RATE))
    assert flags == [False, False, True]


@torch.no_grad()
def test_agrees_with_transformers(embedder, make_audio):
    waveform = (make_audio(RATE // 2, 1, RATE) * 32767).trunc() / 32767
    inputs = embedder.feature_extractor(waveform[0].numpy(), sampling_rate=RATE, return_tensors="pt")
    tokens = embedder.tokenizer("solo piano", return_tensors="pt")
    output = embedder.model(
        input_ids=tokens["input_ids"],
        attention_mask=tokens["attention_mask"],
        input_features=inputs["input_features"].float(),
        is_longer=torch.tensor([[False]]),
    )
    np.testing.assert_allclose(embedder(waveform).embeddings, output.audio_embeds, atol=1e-5)
    text = embedder.embed_text(["drums", "solo piano"])
    np.testing.assert_allclose(text[1:], output.text_embeds, atol=1e-5)
    score = clap_scores(embedder(waveform).embeddings, text[1:])
    assert score == pytest.approx(float(output.audio_embeds[0] @ output.text_embeds[0]), abs=1e-5)


def test_long_prompts_are_cut(embedder):
    words = "deep house, 120 BPM, " * 60
    assert embedder.embed_text([words]).shape == (1, 8)


def test_saved_and_opened(embedder, make_audio, tmp_path):
    embedder.model.save_pretrained(tmp_path)
    embedder.feature_extractor.save_pretrained(tmp_path)
    embedder.tokenizer.save_pretrained(tmp_path)
    opened = ClapEmbedder.from_pretrained(tmp_path, "clap")
    waveform = make_audio(2 * RATE, 1, RATE)
    np.testing.assert_allclose(opened(waveform).embeddings, embedder(waveform).embeddings, atol=1e-6)
    assert opened.protocol["weights_sha256"] == embedder.protocol["weights_sha256"]
