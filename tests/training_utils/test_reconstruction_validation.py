"""Validation of an autoencoder: crops that are the same at every call, and how latents bear noise."""

import pytest
import torch
from accelerate import Accelerator

from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.training_utils import reconstruction_validation
from stable_longform.training_utils.reconstruction_validation import (
    LATENT_NOISE_IN_DB,
    add_latent_noise,
    validate_reconstruction,
)


@pytest.fixture
def vae(tiny_autoencoder_config):
    torch.manual_seed(0)
    return AutoencoderOobleck(**tiny_autoencoder_config).eval()


def test_the_noise_has_its_level_is_white_and_the_same_at_every_call():
    latents = 3.0 * torch.randn(1, 64, 512, generator=torch.Generator().manual_seed(1))
    noise = add_latent_noise(latents) - latents
    level = 20 * torch.log10(noise.square().mean().sqrt() / latents.square().mean().sqrt())
    assert float(level) == pytest.approx(LATENT_NOISE_IN_DB, abs=0.05)
    assert abs(float((noise[..., 1:] * noise[..., :-1]).mean() / noise.square().mean())) < 0.02
    torch.testing.assert_close(add_latent_noise(latents), latents + noise)


def test_without_noise_the_noisy_share_is_the_plain_one(vae, make_audio, tmp_path, monkeypatch):
    waveform = torch.stack([make_audio(2 * 22528, seed=seed) for seed in range(2)])
    waveform = waveform[..., : waveform.shape[-1] // vae.hop_length * vae.hop_length]
    _, noisy = validate_reconstruction(vae, waveform, tmp_path, 0, Accelerator(cpu=True))
    monkeypatch.setattr(reconstruction_validation, "LATENT_NOISE_IN_DB", -300.0)
    _, plain = validate_reconstruction(vae, waveform, tmp_path, 0, Accelerator(cpu=True))
    assert plain["noisy_partial_share"] == pytest.approx(plain["partial_share"], abs=1e-6)
    assert noisy["noisy_partial_share"] != pytest.approx(plain["partial_share"], abs=1e-6)
    assert {name: value for name, value in noisy.items() if "noisy" not in name} == {
        name: value for name, value in plain.items() if "noisy" not in name
    }
