"""The posterior of the variational autoencoder.

Conventions: latents are `(batch_size, latent_channels, latent_length)`. The names are those of diffusers' posterior.
"""

import torch
import torch.nn.functional as F
from diffusers.utils.torch_utils import randn_tensor


class DiagonalGaussian:
    """The posterior of the VAE: an independent Gaussian for each latent value.

    Args:
        parameters: `(batch_size, 2 * latent_channels, latent_length)`: the means, then the scales before softplus.
    """

    def __init__(self, parameters: torch.Tensor):
        self.parameters = parameters
        self.mean, self.scale = parameters.chunk(2, dim=1)
        self.std = F.softplus(self.scale) + 1e-4

    @property
    def var(self) -> torch.Tensor:
        """The variance, `std²`."""
        return self.std.square()

    @property
    def logvar(self) -> torch.Tensor:
        """The logarithm of the variance."""
        return self.var.log()

    def sample(self, generator: torch.Generator | list[torch.Generator] | None = None) -> torch.Tensor:
        """Draws latents `(batch_size, latent_channels, latent_length)`; a list has a generator for each item."""
        noise = randn_tensor(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + self.std * noise

    def mode(self) -> torch.Tensor:
        """The most likely latents, which are the means."""
        return self.mean

    def kl(self) -> torch.Tensor:
        """Twice the divergence from a standard normal, summed over channels and averaged over batch and frames.

        As in the paper's code, the factor ½ is left out; the loss weight 1e-4 follows this convention.
        """
        mean, var = self.mean.float(), self.std.float().square()
        return (mean.square() + var - var.log() - 1).sum(dim=1).mean()
