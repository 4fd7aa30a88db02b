"""The discriminator that trains the autoencoder: convolutions over complex spectrograms at several scales.

Paper: §2.1 (the five discriminators of EnCodec, with about four times the parameters of Stable Audio 1: 1.88 M). It is
used in training only. The architecture and the names of the weights are those of EnCodec's multi-scale STFT
discriminator.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from stable_longform.models.checked_loading import CheckedModelMixin, check_integer_lists, check_integers
from stable_longform.models.oobleck_layers import split_weight

LEAKY_SLOPE = 0.2


class WeightNormConv2d(nn.Conv2d):
    """`nn.Conv2d` with weight normalisation, one norm for each output channel."""

    weight_g: torch.Tensor
    weight_v: torch.Tensor

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        split_weight(self)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(hidden_states, torch._weight_norm(self.weight_v, self.weight_g), self.bias)


class STFTDiscriminatorLayer(nn.Module):
    """A weight-normalised convolution, `conv`, padded to keep the length at stride 1."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
    ):
        super().__init__()
        padding = tuple((size - 1) // 2 * step for size, step in zip(kernel, dilation, strict=True))
        self.conv = WeightNormConv2d(in_channels, out_channels, kernel, stride, padding, dilation)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.conv(hidden_states)


class STFTDiscriminator(nn.Module):
    """Maps one STFT `(B, 2 * audio_channels, num_frames, num_bins)` to scores and five feature maps."""

    window: torch.Tensor

    def __init__(self, fft_size: int, hop_length: int, audio_channels: int, filters: int, stride: int):
        super().__init__()
        self.fft_size, self.hop_length = fft_size, hop_length
        self.register_buffer("window", torch.hann_window(fft_size), persistent=False)
        convs = [STFTDiscriminatorLayer(2 * audio_channels, filters, (3, 9))]
        convs += [
            STFTDiscriminatorLayer(filters, filters, (3, 9), (1, stride), (dilation, 1)) for dilation in (1, 2, 4)
        ]
        convs += [STFTDiscriminatorLayer(filters, filters, (3, 3))]
        self.convs = nn.ModuleList(convs)
        self.conv_post = STFTDiscriminatorLayer(filters, 1, (3, 3))

    def forward(self, waveform: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        hidden_states = self.spectrogram(waveform)
        features = []
        for conv in self.convs:
            hidden_states = F.leaky_relu(conv(hidden_states), LEAKY_SLOPE)
            features.append(hidden_states)
        return self.conv_post(hidden_states), features

    def spectrogram(self, waveform: torch.Tensor) -> torch.Tensor:
        """The STFT of `(B, C, N)`: real, then imaginary parts `(B, 2C, num_frames, num_bins)` over √(Σ window²)."""
        spectrum = torch.stft(
            waveform.flatten(0, 1),
            self.fft_size,
            self.hop_length,
            window=self.window,
            center=False,
            return_complex=True,
        )
        spectrum = (spectrum / self.window.square().sum().sqrt()).unflatten(0, waveform.shape[:2])
        return torch.cat([spectrum.real, spectrum.imag], dim=1).transpose(2, 3)


class MultiScaleSTFTDiscriminator(CheckedModelMixin, ModelMixin, ConfigMixin):
    """One `STFTDiscriminator` for each FFT size. Paper: §2.1.

    Args:
        filters: channels of every layer.
        fft_sizes: in samples; the hop is a quarter of it.
        audio_channels: channels of the waveforms.
        stride: stride over frequency of the three dilated layers; 2 at the time of the paper.

    Raises:
        ValueError: a value is not a positive integer, or an FFT has fewer than 4 samples.
    """

    @register_to_config
    def __init__(
        self,
        filters: int = 64,
        fft_sizes: Sequence[int] = (2048, 1024, 512, 256, 128),
        audio_channels: int = 2,
        stride: int = 2,
    ):
        super().__init__()
        check_integers(self.config, "filters", "audio_channels", "stride")
        check_integer_lists(self.config, "fft_sizes", low=4, high=2**20)
        self.discriminators = nn.ModuleList(
            STFTDiscriminator(size, size // 4, audio_channels, filters, stride) for size in fft_sizes
        )

    def forward(self, waveform: torch.Tensor) -> tuple[list[torch.Tensor], list[list[torch.Tensor]]]:
        """Judges waveforms.

        Args:
            waveform: `(batch_size, audio_channels, num_samples)`, `num_samples` at least the largest FFT size.

        Returns:
            `(scores, features)`, with an entry for each scale: scores `(B, 1, num_frames, num_bins)` and five feature
            maps `(B, filters, num_frames, num_bins)`.

        Raises:
            ValueError: wrong shape or too few samples.
        """
        channels, shortest = self.config.audio_channels, max(self.config.fft_sizes)
        if waveform.ndim != 3 or waveform.shape[1] != channels or waveform.shape[2] < shortest:
            raise ValueError(
                f"waveform must be (batch_size, {channels}, num_samples >= {shortest}), got {tuple(waveform.shape)}."
            )
        scores, features = zip(*(discriminator(waveform) for discriminator in self.discriminators), strict=True)
        return list(scores), list(features)
