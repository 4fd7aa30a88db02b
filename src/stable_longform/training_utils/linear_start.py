"""The linear start of an autoencoder: its convolutions alone, as one linear network. Not in the paper."""

import math
from collections.abc import Iterable

import torch

from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck, DiagonalGaussian
from stable_longform.models.oobleck_layers import (
    OobleckDecoder,
    OobleckEncoder,
    OobleckResidualUnit,
    Snake1d,
    WeightNormConv1d,
    WeightNormConvTranspose1d,
)

LOG_ALPHA = -2.0  # for each Snake, which then differs from x by less than e^(2 · LOG_ALPHA) x²
POSTERIOR_STD = 0.1  # in the first step
FLOOR = 1e-7  # a batch with a smaller mean square counts as silent


class LinearAutoencoder(torch.nn.Module):
    """An autoencoder without its residual units and Snakes.

    Args:
        vae: the autoencoder with which it shares its weights.
    """

    def __init__(self, vae: AutoencoderOobleck):
        super().__init__()
        self.vae = vae.requires_grad_(False)
        for layer in self.layers():
            layer.requires_grad_(True)

    def layers(self) -> list[WeightNormConv1d | WeightNormConvTranspose1d]:
        """Its convolutions, in order."""
        return [*encoder_layers(self.vae.encoder), *decoder_layers(self.vae.decoder)]

    def trained_parameters(self) -> list[torch.nn.Parameter]:
        """The parameters of its convolutions."""
        return [parameter for layer in self.layers() for parameter in layer.parameters()]

    def forward(
        self, waveform: torch.Tensor, generator: list[torch.Generator] | None = None
    ) -> tuple[torch.Tensor, DiagonalGaussian]:
        """Encodes and decodes `(B, audio_channels, N)`, N a multiple of the hop length.

        Args:
            waveform: as in `AutoencoderOobleck.encode`.
            generator: for samples from the posterior, one for each item; None decodes the posterior's mean.
        """
        posterior = DiagonalGaussian(apply(encoder_layers(self.vae.encoder), waveform))
        latents = posterior.mode() if generator is None else posterior.sample(generator)
        return apply(decoder_layers(self.vae.decoder), latents), posterior


def encoder_layers(encoder: OobleckEncoder) -> list[WeightNormConv1d]:
    """The encoder's convolutions outside residual units, in order."""
    return [encoder.conv1, *(block.conv1 for block in encoder.blocks), encoder.conv2]


def decoder_layers(decoder: OobleckDecoder) -> list[WeightNormConv1d | WeightNormConvTranspose1d]:
    """The decoder's convolutions outside residual units, in order."""
    return [decoder.conv1, *(block.conv_t1 for block in decoder.blocks), decoder.conv2]


def apply(layers: Iterable[torch.nn.Module], hidden_states: torch.Tensor) -> torch.Tensor:
    """Applies layers one after the other."""
    for layer in layers:
        hidden_states = layer(hidden_states)
    return hidden_states


@torch.no_grad()
def initialize(network: LinearAutoencoder, waveform: torch.Tensor) -> None:
    """Makes residual units the identity and Snakes almost the identity, and scales the other convolutions.

    On the waveform, each convolution's output then has a standard deviation of 1, and the last one's has that of the
    waveform. Biases are 0. Salimans and Kingma, "Weight normalization" (2016), §3.

    Args:
        network: a new network.
        waveform: real audio `(B, audio_channels, N)`.
    """
    for module in network.vae.modules():
        if isinstance(module, OobleckResidualUnit):
            module.conv2.weight_g.zero_()
            assert module.conv2.bias is not None
            module.conv2.bias.zero_()
        elif isinstance(module, Snake1d):
            module.alpha.fill_(LOG_ALPHA)
    to_latents, to_waveform = network.vae.encoder.conv2, network.vae.decoder.conv2
    hidden_states = waveform
    for layer in network.layers():
        if layer.bias is not None:
            layer.bias.zero_()
        target = waveform.std() if layer is to_waveform else 1.0
        layer.weight_g *= target / layer(hidden_states).std()
        hidden_states = layer(hidden_states)
        if layer is to_latents:
            hidden_states, _ = hidden_states.chunk(2, dim=1)  # the means
    scales = slice(network.vae.config.decoder_input_channels, None)
    to_latents.weight_g[scales] *= 0.1
    to_latents.bias[scales] = math.log(math.expm1(POSTERIOR_STD))  # the inverse of softplus


def relative_error(decoded: torch.Tensor, waveform: torch.Tensor, edge_num_samples: int) -> torch.Tensor:
    """Squared error over the energy of a batch `(B, C, N)`, without the ends; 1 for a silent reconstruction."""
    inside = slice(edge_num_samples, waveform.shape[-1] - edge_num_samples)
    error = (decoded - waveform)[..., inside].square().mean()
    return error / waveform[..., inside].square().mean().clamp(min=FLOOR)
