"""MusicGen's long-form mode, with tiny random models: lengths, continuity of the tokens, seeds."""

import pytest
import torch
from transformers import (
    EncodecConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
)

from stable_longform.evaluation.musicgen import MusicGen

FRAME_RATE = 50


def tiny_musicgen(channels=1, **kwargs):
    """MusicGen with random weights; four codebooks for each channel."""
    torch.manual_seed(0)
    codec = EncodecConfig(
        sampling_rate=800,
        target_bandwidths=[1.2],
        num_filters=2,
        upsampling_ratios=[4, 4],
        hidden_size=8,
        codebook_size=64,
        codebook_dim=8,
        num_lstm_layers=1,
        norm_type="weight_norm",
    )
    text = T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    decoder = MusicgenDecoderConfig(
        vocab_size=64,
        num_codebooks=4 * channels,
        audio_channels=channels,
        hidden_size=16,
        ffn_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
        pad_token_id=64,
        bos_token_id=64,
    )
    config = MusicgenConfig(text_encoder=text.to_dict(), audio_encoder=codec.to_dict(), decoder=decoder.to_dict())
    model = MusicgenForConditionalGeneration(config)
    with torch.no_grad():
        for name, codes in model.audio_encoder.named_buffers():
            if name.endswith("codebook.embed"):  # zero unless trained
                codes.normal_()
        for weight in model.decoder.parameters():
            if weight.ndim > 1:
                weight.mul_(8)  # so that past tokens change what is sampled
    model.generation_config.update(
        decoder_start_token_id=64, pad_token_id=64, bos_token_id=64, guidance_scale=3.0, do_sample=True
    )
    return MusicGen(model, _Words(), **{"window_in_s": 1.0, "stride_in_s": 0.6} | kwargs)


class _Words:
    """A tokenizer that takes any text."""

    def __new__(cls):
        from tokenizers import Tokenizer, models, pre_tokenizers

        tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "piano": 2}, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")


@pytest.fixture(params=(1, 2), ids=("mono", "stereo"))
def musicgen(request):
    """A tiny model."""
    return tiny_musicgen(request.param)


def test_lengths_within_and_beyond_the_window(musicgen):
    for duration in (0.1, 1.0, 1.1, 2.0):
        waveform, rate = musicgen("piano", duration, seed=0)
        assert rate == 800 and waveform.shape == (musicgen.channels, round(duration * 800))
        assert waveform.isfinite().all()


def test_each_window_begins_with_the_end_of_what_there_is(musicgen, monkeypatch):
    calls = []
    extend = MusicGen._extend

    def record(self, text, context, num_frames):
        codes = extend(self, text, context, num_frames)
        calls.append((context, codes))
        return codes

    monkeypatch.setattr(MusicGen, "_extend", record)
    musicgen("piano", 2.0, seed=0)
    # 1 s, then 0.6 s more, then the 0.4 s that are left; each after 0.4 s of context.
    assert [codes.shape[1] for _, codes in calls] == [50, 50, 40]
    assert calls[0][0] is None
    whole = calls[0][1]
    for context, codes in calls[1:]:
        torch.testing.assert_close(context, whole[:, -20:], rtol=0, atol=0)
        torch.testing.assert_close(codes[:, :20], context, rtol=0, atol=0)
        whole = torch.cat([whole, codes[:, 20:]], dim=1)
    assert int(whole.min()) >= 0 and int(whole.max()) < 64


def test_one_window_is_what_transformers_generates(musicgen):
    text = musicgen.processor(text=["piano"], return_tensors="pt")
    torch.manual_seed(7)
    expected = musicgen.model.generate(**text, do_sample=True, guidance_scale=3.0, max_length=30 + 4)
    waveform, _ = musicgen("piano", 30 / FRAME_RATE, seed=7)
    torch.testing.assert_close(waveform, expected[0], rtol=1e-5, atol=1e-6)


def test_context_steers_the_continuation(musicgen):
    # With the same seed, another context gives another continuation: it is not dropped.
    text = musicgen.processor(text=["piano"], return_tensors="pt")
    results = []
    for value in (3, 40, 3):
        torch.manual_seed(0)
        context = torch.full((4 * musicgen.channels, 20), value)
        results.append(musicgen._extend(text, context, 40)[:, 20:])
    assert torch.equal(results[0], results[2]) and not torch.equal(results[0], results[1])


def test_seeds(musicgen):
    state = torch.get_rng_state()
    first, again, other = (musicgen("piano", 1.5, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_bad_input_is_named():
    for stride in (0.0, 1.0):
        with pytest.raises(ValueError, match=f"stride_in_s must be in .*got {stride}"):
            tiny_musicgen(stride_in_s=stride)
    with pytest.raises(ValueError, match="duration must be at least 0.02 seconds, got 0.001"):
        tiny_musicgen()("piano", 0.001, seed=0)
