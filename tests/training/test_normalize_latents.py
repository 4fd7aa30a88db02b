"""The script leaves reconstructions alone and gives each channel unit power."""

import runpy

import pytest
import torch
from launch import ROOT, check_script

from stable_longform.data.audio_crops import CropMaker
from stable_longform.data.sources import open_source
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck

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
    divide_latents = runpy.run_path(ROOT / "training" / "normalize_latents.py")["divide_latents"]
    vae = AutoencoderOobleck(**tiny_autoencoder_config)
    with pytest.raises(ValueError, match="positive"):
        divide_latents(vae, torch.tensor([1.0, 1.0, 0.0, 1.0]))
    with pytest.raises(ValueError, match="4 positive"):
        divide_latents(vae, torch.ones(3))
