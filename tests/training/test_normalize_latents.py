"""The script leaves reconstructions alone, gives each channel unit power and sets silence apart from music."""

import sys

import pytest
import torch
from launch import ROOT, check_script

from stable_longform.data.audio_crops import CropMaker
from stable_longform.data.sources import open_source
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck

sys.path.insert(0, str(ROOT / "training"))
from normalize_latents import divide_latents, encode, project, separate_silence  # noqa: E402

NUM_SAMPLES = 20 * 2048


def test_reconstruction_stays_and_power_becomes_one(tiny_manifest, tiny_autoencoder_config, tmp_path):
    torch.manual_seed(0)
    before = AutoencoderOobleck(**tiny_autoencoder_config)
    before.save_pretrained(tmp_path / "before")
    check_script("normalize_latents.py", "--autoencoder", tmp_path / "before", "--manifest", tiny_manifest,
                 "--output_dir", tmp_path / "after", "--num_crops", 4,
                 "--crop_duration_in_s", NUM_SAMPLES / 44100)  # fmt: skip
    after = AutoencoderOobleck.from_pretrained(tmp_path / "after")
    crops = open_source(tiny_manifest, "train").items(CropMaker(NUM_SAMPLES, 44100))
    waveform = torch.stack([crops[i]["waveform"] for i in range(4)])
    with torch.no_grad():
        expected, result = before(waveform), after(waveform)
        latents = after.encode(waveform).latent_dist.mean[:, :, 1:-1]  # frames whose neighbours are music
    assert torch.allclose(result.sample, expected.sample, rtol=1e-3, atol=1e-5 * expected.sample.abs().max())
    assert torch.allclose(latents.square().mean(dim=(0, 2)), torch.ones(4), rtol=1e-2)
    assert torch.allclose(result.posterior.std, expected.posterior.std)


def test_factors_must_be_positive(tiny_autoencoder_config):
    vae = AutoencoderOobleck(**tiny_autoencoder_config)
    with pytest.raises(ValueError, match="positive"):
        divide_latents(vae, torch.tensor([1.0, 1.0, 0.0, 1.0]))
    with pytest.raises(ValueError, match="4 positive"):
        divide_latents(vae, torch.ones(3))


def test_silence_is_set_apart_in_one_direction_that_the_decoder_does_not_see(tiny_manifest, tiny_autoencoder_config):
    torch.manual_seed(0)
    vae = AutoencoderOobleck(**tiny_autoencoder_config)
    crops = open_source(tiny_manifest, "train").items(CropMaker(NUM_SAMPLES, 44100))
    waveform = torch.stack([crops[i]["waveform"] for i in range(4)])
    silence = torch.zeros(1, 2, vae.hop_length * (2 * vae.encoder_context + 1))
    features = torch.cat([encode(vae, item) for item in waveform], dim=1)
    with torch.no_grad():
        before = vae.encode(waveform).latent_dist
        assert torch.allclose(project(vae, features), torch.cat([*before.mean[:, :, 1:-1]], dim=1), atol=1e-5)
        separate_silence(vae, features, 6.0)
        after = vae.encode(waveform).latent_dist
        change = (after.mean - before.mean).transpose(0, 1).flatten(1)
        direction, values, _ = torch.linalg.svd(change)
        assert values[1] < 1e-4 * values[0]
        direction = direction[:, 0] * (change.sum(dim=1) @ direction[:, 0]).sign()
        of_music = (direction @ project(vae, features)).mean()
        of_silence = direction @ vae.encode(silence).latent_dist.mean[0, :, vae.encoder_context]
        assert torch.allclose(of_music, torch.zeros(()), atol=1e-3)
        assert torch.allclose(of_silence.abs(), torch.tensor(6.0), rtol=1e-3)
        latents = torch.randn(1, 4, 5)
        moved = latents + 7 * direction[:, None]
        assert torch.allclose(vae.decode(moved).sample, vae.decode(latents).sample, atol=1e-5)
    assert torch.allclose(after.std, before.std)


def test_distance_must_be_positive_and_music_unlike_silence(tiny_autoencoder_config):
    vae = AutoencoderOobleck(**tiny_autoencoder_config)
    features = encode(vae, torch.zeros(2, 40 * vae.hop_length))
    with pytest.raises(ValueError, match="above 0, got -1"):
        separate_silence(vae, features, -1.0)
    with pytest.raises(ValueError, match="same features"):
        separate_silence(vae, features[:, 15:25], 6.0)
