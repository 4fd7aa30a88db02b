"""The linear network of an autoencoder's convolutions: that it is one, how it starts, what it is trained on."""

import pytest
import torch
from tiny_training import AUTOENCODER

from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.training_utils.linear_start import LinearAutoencoder, initialize, relative_error

MODEL = {**AUTOENCODER["model"], "downsampling_ratios": [2, 2], "channel_multiples": [1, 2]}


@pytest.fixture
def network(make_audio):
    """A fresh network, initialised, and the waveform that scaled it."""
    torch.manual_seed(0)
    network = LinearAutoencoder(AutoencoderOobleck(**MODEL))
    waveform = torch.stack([make_audio(4096, seed=seed) for seed in range(3)])
    initialize(network, waveform)
    return network, waveform


@torch.no_grad()
def test_the_first_network_is_linear_and_scaled(network):
    network, waveform = network
    decoded, posterior = network(waveform)
    assert posterior.mean.std().item() == pytest.approx(1, rel=0.5)  # with the scales it is 1
    assert posterior.std.mean().item() == pytest.approx(0.1, rel=0.2)
    assert decoded.std().item() == pytest.approx(waveform.std().item(), rel=1e-3)
    torch.testing.assert_close(network(2 * waveform - waveform.flip(0))[0], 2 * decoded - decoded.flip(0))


@torch.no_grad()
def test_residual_units_begin_as_the_identity_and_snakes_nearly_so(network):
    network, waveform = network
    hidden = torch.randn(1, 4, 50)
    assert torch.equal(network.vae.encoder.block[0].res_unit2(hidden), hidden)
    bent = network.vae.encoder.block[0].snake1(hidden)
    assert (bent - hidden).abs().max() < torch.e**-4 * hidden.square().max()
    decoded, whole = network(waveform)[0], network.vae(waveform).sample
    assert (whole - decoded).square().mean() < 0.2 * decoded.square().mean()


def test_only_the_convolutions_outside_residual_units_are_trained(network):
    network, waveform = network
    decoded, posterior = network(waveform, torch.Generator().manual_seed(0))
    (relative_error(decoded, waveform, 64) + posterior.kl()).backward()
    for name, parameter in network.vae.named_parameters():
        is_trained = "res_unit" not in name and "snake" not in name
        assert (parameter.grad is not None) == is_trained, name
    assert sum(p.numel() for p in network.trained_parameters()) == sum(
        p.numel() for p in network.vae.parameters() if p.grad is not None
    )


def test_error_of_gains_and_of_ends():
    waveform = torch.randn(2, 2, 100)
    for gain in (0.0, 0.5, 1.0, -1.0):
        assert relative_error(gain * waveform, waveform, 10).item() == pytest.approx((1 - gain) ** 2)
    wrong_ends = waveform.clone()
    wrong_ends[..., :10] = wrong_ends[..., -10:] = 5
    assert relative_error(wrong_ends, waveform, 10) == 0
    assert relative_error(torch.zeros(1, 2, 100), torch.zeros(1, 2, 100), 0) == 0
