"""Table 5: real tiny codecs of transformers and ours, exact where they are, mono and stereo, resuming."""

import json

import pytest
import soundfile
import torch
from tiny_pipeline import tiny_vae
from transformers import BertConfig, BertModel, DacConfig, DacModel, EncodecConfig, EncodecModel

from stable_longform.evaluation import codecs
from stable_longform.evaluation.audio_files import Audio, ReadingSettings, list_audio
from stable_longform.evaluation.codecs import (
    Codec,
    codec_of_autoencoder,
    codec_of_transformers,
    reconstruct_stereo,
    score_reconstructions,
)

RATE = 44100


def identity(num_channels=2, sampling_rate=RATE, function=lambda waveform: waveform):
    """A codec that loses nothing, or what the function loses."""
    return Codec("identity", sampling_rate, num_channels, function, {})


@pytest.fixture
def folder(tmp_path, make_audio):
    """Three recordings, one of them mono at another rate."""
    path = tmp_path / "audio"
    path.mkdir()
    for number, (rate, channels) in enumerate(((RATE, 2), (RATE, 2), (22050, 1))):
        soundfile.write(path / f"{number}.wav", make_audio(rate // 2, channels, rate, number).T.numpy(), rate)
    return path


def test_identity_is_perfect_for_mono_and_stereo_codecs(make_audio):
    audio = Audio(make_audio(20000), RATE)
    for num_channels in (1, 2):
        decoded, original = reconstruct_stereo(identity(num_channels), audio)
        torch.testing.assert_close(decoded, original, rtol=0, atol=0)
        torch.testing.assert_close(original, audio.waveform, rtol=0, atol=0)


def test_mono_codecs_get_left_and_right_one_after_the_other(make_audio):
    shapes = []

    def half(waveform):
        shapes.append(tuple(waveform.shape))
        return 0.5 * waveform

    audio = Audio(make_audio(20000), RATE)
    decoded, original = reconstruct_stereo(identity(1, RATE, half), audio)
    assert shapes == [(2, 1, 20000)]
    torch.testing.assert_close(decoded, 0.5 * original)


def test_other_rates_are_converted_there_and_back(make_audio):
    low = torch.nn.functional.interpolate(make_audio(2000)[None], 20000, mode="linear")[0]  # little above 2 kHz
    decoded, original = reconstruct_stereo(identity(2, 32000), Audio(low, RATE))
    assert decoded.shape == original.shape == (2, 20000)
    assert float((decoded - original)[:, 500:-500].norm() / original.norm()) < 0.01


def test_score_is_the_mean_over_files_and_resumes(folder, tmp_path, monkeypatch):
    codec = identity(2, RATE, lambda waveform: 0.5 * waveform)
    result = score_reconstructions(codec, list_audio(folder), ReadingSettings(peak_in_db=None), tmp_path / "cache")
    assert set(result["per_file"]) == {"0", "1", "2"} and not result["skipped"]
    for metric in (*codecs.METRICS, *codecs.MORE_METRICS):
        assert result[metric] == pytest.approx(sum(row[metric] for row in result["per_file"].values()) / 3)
    assert result["si_sdr"] > 60 and result["joint_si_sdr"] > 60  # a gain is no distortion
    assert result["chroma_agreement"] == pytest.approx(1, abs=1e-3)
    for metric in ("partial_share", "note_share"):
        assert result[metric] == pytest.approx(result[f"reference_{metric}"], abs=1e-3)
    stored = sorted((tmp_path / "cache").iterdir())
    stored[0].unlink()
    calls = []
    score_file = codecs._score_file
    monkeypatch.setattr(codecs, "_score_file", lambda *args: calls.append(args) or score_file(*args))
    again = score_reconstructions(codec, list_audio(folder), ReadingSettings(peak_in_db=None), tmp_path / "cache")
    assert again == result
    assert len(calls) == 1


def test_one_silent_channel_is_noted_and_costs_nothing(folder, tmp_path, make_audio):
    samples = make_audio(RATE).numpy()
    samples[1] = 0
    soundfile.write(folder / "half.wav", samples.T, RATE)
    codec = identity(2, RATE, lambda waveform: waveform + 1e-3 * torch.sin(torch.arange(waveform.shape[-1])))
    result = score_reconstructions(codec, list_audio(folder), ReadingSettings(peak_in_db=None), tmp_path / "cache")
    assert result["notes"] == {"2": ["mono"], "half": ["one silent channel"]}
    assert result["per_file"]["half"]["si_sdr"] > 30
    again = score_reconstructions(codec, list_audio(folder), ReadingSettings(peak_in_db=None), tmp_path / "cache")
    assert again == result


def test_silent_and_damaged_files_are_left_out(folder, tmp_path):
    soundfile.write(folder / "silent.wav", torch.zeros(RATE, 2).numpy(), RATE)
    soundfile.write(folder / "short.wav", torch.full((500, 2), 0.1).numpy(), RATE)
    (folder / "damaged.wav").write_bytes(b"no audio")
    result = score_reconstructions(identity(), list_audio(folder), ReadingSettings(), tmp_path / "cache")
    assert set(result["per_file"]) == {"0", "1", "2"}
    assert {name: reason.split(":")[0] for name, reason in result["skipped"].items()} == {
        "silent": "silent", "short": "identity", "damaged": "unreadable"
    }  # fmt: skip
    broken = identity(2, RATE, lambda waveform: waveform * torch.nan)
    result = score_reconstructions(broken, list_audio(folder), ReadingSettings(), tmp_path / "other")
    assert not result["per_file"] and result["si_sdr"] is None and json.dumps(result)


@torch.no_grad()
def test_codec_of_our_autoencoder_equals_its_forward(make_audio):
    vae = tiny_vae(sampling_rate=RATE)
    codec = codec_of_autoencoder(vae, "tiny", {})
    waveform = make_audio(10 * vae.hop_length)[None]
    torch.testing.assert_close(codec.reconstruct(waveform), vae(waveform).sample)
    assert codec.reconstruct(waveform[..., :-7]).shape == (1, 2, 10 * vae.hop_length - 7)


def tiny_codecs():
    """EnCodec in mono and stereo, and DAC, with random weights."""
    torch.manual_seed(0)
    encodec = {"num_filters": 2, "upsampling_ratios": [4, 4], "hidden_size": 8, "codebook_size": 16, "codebook_dim": 8}
    encodec |= {"num_lstm_layers": 1, "sampling_rate": 16000, "target_bandwidths": [8.0]}
    dac = DacConfig(
        encoder_hidden_size=4, downsampling_ratios=[2, 4], decoder_hidden_size=16, upsampling_ratios=[4, 2],
        n_codebooks=2, codebook_size=16, codebook_dim=4, sampling_rate=44100,
    )  # fmt: skip
    yield EncodecModel(EncodecConfig(**encodec, audio_channels=1)), 16000, 1
    yield EncodecModel(EncodecConfig(**encodec, audio_channels=2, norm_type="weight_norm")), 16000, 2
    yield DacModel(dac), 44100, 1


def test_codecs_of_transformers(make_audio):
    for model, rate, channels in tiny_codecs():
        codec = codec_of_transformers(model.eval(), "tiny", {})
        assert (codec.sampling_rate, codec.num_channels) == (rate, channels)
        decoded, original = reconstruct_stereo(codec, Audio(make_audio(20011), RATE))
        assert decoded.shape == original.shape == (2, 20011) and decoded.isfinite().all()
        waveform = make_audio(800, channels)[None]
        with torch.no_grad():
            expected = model(waveform).audio_values.reshape(1, channels, -1)[..., :800]
            torch.testing.assert_close(codec.reconstruct(waveform)[..., : expected.shape[-1]], expected)


def test_other_models_are_no_codecs():
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    with pytest.raises(ValueError, match="x is not an audio codec"):
        codec_of_transformers(BertModel(config), "x", {})
