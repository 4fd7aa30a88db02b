import math

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDiagonalGaussianDistribution

from stable_longform.models.diagonal_gaussian import DiagonalGaussian


def test_equals_diffusers_posterior():
    parameters = torch.randn(2, 6, 5)
    ours, theirs = DiagonalGaussian(parameters), OobleckDiagonalGaussianDistribution(parameters)
    for name in ("parameters", "mean", "scale", "std", "var", "logvar"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))
    torch.testing.assert_close(ours.kl(), theirs.kl())
    drawn = [posterior.sample(torch.Generator().manual_seed(3)) for posterior in (ours, theirs)]
    torch.testing.assert_close(*drawn)


def test_kl_closed_form():
    """V3."""

    def posterior(mean, std):
        """Two channels, three frames, whose softplus scale gives exactly `std`."""
        scale = torch.full((1, 2, 3), math.log(math.expm1(std - 1e-4)))
        return DiagonalGaussian(torch.cat([torch.full((1, 2, 3), mean), scale], dim=1))

    assert float(posterior(0.0, 1.0).kl()) == pytest.approx(0, abs=1e-6)
    # twice the divergence, summed over two channels: 2 · (1.5² + 0.5² − ln 0.5² − 1)
    assert float(posterior(1.5, 0.5).kl()) == pytest.approx(2 * (2.25 + 0.25 + 2 * math.log(2) - 1), rel=1e-6)


def test_kl_averages_over_batch_and_frames_and_equals_torch():
    parameters = torch.randn(3, 8, 5)
    posterior = DiagonalGaussian(parameters)
    normal = torch.distributions.Normal(posterior.mean, posterior.std)
    divergence = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(posterior.kl(), 2 * divergence.sum(dim=1).mean())


def test_posterior_splits_channels_and_floors_the_deviation():
    parameters = torch.cat([torch.full((1, 1, 2), 0.7), torch.full((1, 1, 2), -100.0)], dim=1)
    posterior = DiagonalGaussian(parameters)
    assert torch.equal(posterior.mode(), torch.full((1, 1, 2), 0.7))
    torch.testing.assert_close(posterior.std, torch.full((1, 1, 2), 1e-4))


def test_samples_have_the_mean_and_deviation():
    parameters = torch.tensor([0.5, -2.0, 1.0, -1.0])[None, :, None].expand(1, 4, 40_000)
    posterior = DiagonalGaussian(parameters)
    samples = posterior.sample(torch.Generator().manual_seed(0))
    error = samples.mean(dim=-1) - posterior.mean[..., 0]
    assert (error.abs() < 4 * posterior.std[..., 0] / 200).all()
    torch.testing.assert_close(samples.std(dim=-1), posterior.std[..., 0], rtol=0.02, atol=0)
