"""Autoencoder and discriminator in turn: who is trained, on what, and how often."""

import functools

import pytest
import torch
from tiny_training import AUTOENCODER

from stable_longform.losses.stft import stereo_stft_loss
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.discriminator_stft import MultiScaleSTFTDiscriminator
from stable_longform.training_utils.adversarial_steps import (
    choose_turn,
    discriminator_step_losses,
    generator_step_losses,
)

spectral_losses = functools.partial(stereo_stft_loss, sampling_rate=44100, fft_sizes=(512, 128))


@pytest.mark.parametrize("first", [0, 1, 2, 5])
def test_each_network_counts_its_own_steps(first):
    counts = {"autoencoder": 0, "discriminator": 0}
    for step in range(20):
        is_judged, _, own_step = choose_turn(step, first)
        name = "discriminator" if is_judged and step % 2 else "autoencoder"
        assert is_judged == (step >= first) and own_step == counts[name]
        counts[name] += 1
    assert abs(counts["autoencoder"] - first - counts["discriminator"]) <= 1


@pytest.fixture
def networks():
    torch.manual_seed(0)
    return AutoencoderOobleck(**AUTOENCODER["model"]), MultiScaleSTFTDiscriminator(**AUTOENCODER["discriminator"])


def test_generator_step_trains_the_generator_only(networks, make_audio):
    model, discriminator = networks
    losses = generator_step_losses(model, discriminator, make_audio(4096)[None], spectral_losses)
    losses["adversarial"].backward(retain_graph=True)
    decoder = model.decoder.conv2.weight_v.grad.clone()
    losses["feature_matching"].backward()
    assert decoder.abs().max() > 0 and not torch.equal(model.decoder.conv2.weight_v.grad, decoder)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in discriminator.parameters())


def test_the_decoder_is_trained_on_draws_from_the_posterior(networks, make_audio):
    """Its loss depends on the draw, and asks the encoder for another deviation."""
    model, _ = networks
    waveform = make_audio(4096)[None]
    first, again, other = (
        generator_step_losses(model, None, waveform, spectral_losses, torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert first["l1"] == again["l1"] != other["l1"]
    first["l1"].backward()
    _, of_scales = model.encoder.conv2.weight_v.grad.chunk(2)
    assert of_scales.abs().max() > 0


def test_discriminator_step_trains_the_discriminator_only(networks, make_audio):
    model, discriminator = networks
    losses = discriminator_step_losses(model, discriminator, make_audio(4096)[None])
    assert set(losses) == {"discriminator"}
    losses["discriminator"].backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.grad is not None for parameter in discriminator.parameters())
    assert 0 < losses["discriminator"].item() < 3 * len(AUTOENCODER["discriminator"]["fft_sizes"])


def test_losses_are_in_float32_when_the_networks_are_not(networks, make_audio):
    """Under autocast the outputs are in bfloat16, but every loss has the precision of float32."""
    model, discriminator = networks
    with torch.autocast("cpu", torch.bfloat16):
        losses = generator_step_losses(model, discriminator, make_audio(4096)[None], spectral_losses)
        losses |= discriminator_step_losses(model, discriminator, make_audio(4096)[None])
        assert discriminator(make_audio(4096)[None])[0][0].dtype == torch.bfloat16
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    rounded = {name: loss.bfloat16().float() for name, loss in losses.items()}
    assert all(loss != rounded[name] for name, loss in losses.items())
