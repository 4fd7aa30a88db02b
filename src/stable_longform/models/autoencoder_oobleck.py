"""The autoencoder between stereo waveforms and latents (Oobleck: strided convolutions, Snake, weight norm).

Paper: §2.1, figure 3 and table 1: 156 M parameters, 2048-fold downsampling, 64 latent channels, 21.5 latents a
second at 44.1 kHz. State-dict keys are those of diffusers' `AutoencoderOobleck`, so weights go both ways.

Conventions: waveforms are `(batch_size, audio_channels, num_samples)`, latents `(batch_size, latent_channels,
latent_length)`; one latent frame is `hop_length` samples. Long inputs are processed in chunks of whole frames that
carry the network's receptive field as context, which gives the same result as processing them whole.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from diffusers.utils.torch_utils import randn_tensor
from torch import nn

from stable_longform.models.single_file import SingleFileMixin

DILATIONS = (1, 3, 9)
RESIDUAL_OVERHANG = 3 * sum(DILATIONS)  # samples on each side that three 7-tap residual units look at


class DiagonalGaussian:
    """The posterior of the VAE: an independent Gaussian for each latent value.

    Args:
        parameters: `(batch_size, 2 * latent_channels, latent_length)`: means, then scales before softplus.
    """

    def __init__(self, parameters: torch.Tensor):
        self.mean, scale = parameters.chunk(2, dim=1)
        self.std = F.softplus(scale) + 1e-4

    def sample(self, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draws latents `(batch_size, latent_channels, latent_length)`."""
        noise = randn_tensor(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + self.std * noise

    def mode(self) -> torch.Tensor:
        """The most likely latents, which are the means."""
        return self.mean

    def kl(self) -> torch.Tensor:
        """Twice the divergence from a standard normal, summed over channels and averaged over batch and frames.

        The factor ½ is left out as in the code of the paper; the loss weight 1e-4 goes with this convention.
        """
        mean, var = self.mean.float(), self.std.float().square()
        return (mean.square() + var - var.log() - 1).sum(dim=1).mean()


@dataclass
class AutoencoderOobleckOutput(BaseOutput):
    """Output of `encode`: the posterior `latent_dist`."""

    latent_dist: DiagonalGaussian


@dataclass
class OobleckDecoderOutput(BaseOutput):
    """Output of `decode` and of the whole model.

    Args:
        sample: waveform `(batch_size, audio_channels, num_samples)`.
        posterior: of the encoder, when the model was called as a whole.
    """

    sample: torch.Tensor
    posterior: DiagonalGaussian | None = None


class WeightNormConv1d(nn.Conv1d):
    """`nn.Conv1d` whose weight is `weight_g · weight_v / ‖weight_v‖`, one norm for each output channel."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        split_weight(self)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(hidden_states, torch._weight_norm(self.weight_v, self.weight_g), self.bias)


class WeightNormConvTranspose1d(nn.ConvTranspose1d):
    """`nn.ConvTranspose1d` with weight normalisation, one norm for each input channel."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        split_weight(self)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        weight = torch._weight_norm(self.weight_v, self.weight_g)
        return F.conv_transpose1d(hidden_states, weight, self.bias, self.stride, self.padding, self.output_padding)


def split_weight(module: nn.Module) -> None:
    """Replaces the parameter `weight` by `weight_g`, its norm over all dimensions but the first, and `weight_v`."""
    weight = module.weight.detach()
    del module.weight
    module.weight_g = nn.Parameter(torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.ndim)), keepdim=True))
    module.weight_v = nn.Parameter(weight.clone())


class Snake1d(nn.Module):
    """SnakeBeta: `x + sin²(e^α x) / (e^β + 1e-9)` with a learned α and β for each channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(1, channels, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        inverse = 1.0 / (self.beta.exp() + 1e-9)
        return torch.addcmul(hidden_states, inverse, torch.sin(self.alpha.exp() * hidden_states).square())


class OobleckResidualUnit(nn.Module):
    """Snake, dilated 7-tap convolution, Snake, 1-tap convolution, and the skip."""

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.snake1 = Snake1d(channels)
        self.conv1 = WeightNormConv1d(channels, channels, kernel_size=7, dilation=dilation, padding=3 * dilation)
        self.snake2 = Snake1d(channels)
        self.conv2 = WeightNormConv1d(channels, channels, kernel_size=1)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states + self.conv2(self.snake2(self.conv1(self.snake1(hidden_states))))


class OobleckEncoderBlock(nn.Module):
    """Three residual units, then a convolution that divides the rate by `stride`."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.res_unit1, self.res_unit2, self.res_unit3 = (OobleckResidualUnit(in_channels, d) for d in DILATIONS)
        self.snake1 = Snake1d(in_channels)
        self.conv1 = WeightNormConv1d(
            in_channels, out_channels, kernel_size=2 * stride, stride=stride, padding=math.ceil(stride / 2)
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.res_unit3(self.res_unit2(self.res_unit1(hidden_states)))
        return self.conv1(self.snake1(hidden_states))


class OobleckDecoderBlock(nn.Module):
    """A transposed convolution that multiplies the rate by `stride`, then three residual units."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.snake1 = Snake1d(in_channels)
        self.conv_t1 = WeightNormConvTranspose1d(
            in_channels,
            out_channels,
            kernel_size=2 * stride,
            stride=stride,
            padding=math.ceil(stride / 2),
            output_padding=stride % 2,
        )
        self.res_unit1, self.res_unit2, self.res_unit3 = (OobleckResidualUnit(out_channels, d) for d in DILATIONS)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.conv_t1(self.snake1(hidden_states))
        return self.res_unit3(self.res_unit2(self.res_unit1(hidden_states)))


class _BlockStack(nn.Module):
    """Runs `self.block` in order, with gradient checkpointing when it is on."""

    gradient_checkpointing = False

    def _run_blocks(self, hidden_states: torch.Tensor) -> torch.Tensor:
        for block in self.block:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                hidden_states = self._gradient_checkpointing_func(block, hidden_states)
            else:
                hidden_states = block(hidden_states)
        return hidden_states


class OobleckEncoder(_BlockStack):
    """Waveform `(B, audio_channels, N)` to posterior parameters `(B, 2 * latent_channels, N / hop_length)`."""

    def __init__(self, audio_channels: int, widths: Sequence[int], strides: Sequence[int], out_channels: int):
        super().__init__()
        self.conv1 = WeightNormConv1d(audio_channels, widths[0], kernel_size=7, padding=3)
        self.block = nn.ModuleList(
            OobleckEncoderBlock(widths[i], widths[i + 1], stride) for i, stride in enumerate(strides)
        )
        self.snake1 = Snake1d(widths[-1])
        self.conv2 = WeightNormConv1d(widths[-1], out_channels, kernel_size=3, padding=1)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.snake1(self._run_blocks(self.conv1(waveform))))


class OobleckDecoder(_BlockStack):
    """Latents `(B, latent_channels, L)` to a waveform `(B, audio_channels, L * hop_length)`."""

    def __init__(self, latent_channels: int, widths: Sequence[int], strides: Sequence[int], audio_channels: int):
        super().__init__()
        self.conv1 = WeightNormConv1d(latent_channels, widths[-1], kernel_size=7, padding=3)
        self.block = nn.ModuleList(
            OobleckDecoderBlock(widths[i + 1], widths[i], strides[i]) for i in reversed(range(len(strides)))
        )
        self.snake1 = Snake1d(widths[0])
        self.conv2 = WeightNormConv1d(widths[0], audio_channels, kernel_size=7, padding=3, bias=False)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.snake1(self._run_blocks(self.conv1(latents))))


class AutoencoderOobleck(ModelMixin, ConfigMixin, SingleFileMixin):
    """The variational autoencoder of the paper. Paper: §2.1, figure 3, table 1 (157 M).

    Args:
        encoder_hidden_size: channels of the encoder at the full rate.
        downsampling_ratios: stride of each block, >= 2, from the waveform to the latents; product: `hop_length`.
        channel_multiples: width of each block's output, in units of `encoder_hidden_size` or `decoder_channels`.
        decoder_channels: channels of the decoder at the full rate.
        decoder_input_channels: latent channels. diffusers can only open `encoder_hidden_size` equal to twice this.
        audio_channels: 1 or 2.
        sampling_rate: Hz.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["OobleckEncoderBlock", "OobleckDecoderBlock"]
    _group_offload_block_modules = ["encoder", "decoder"]

    @register_to_config
    def __init__(
        self,
        encoder_hidden_size: int = 128,
        downsampling_ratios: Sequence[int] = (2, 4, 4, 8, 8),
        channel_multiples: Sequence[int] = (1, 2, 4, 8, 16),
        decoder_channels: int = 128,
        decoder_input_channels: int = 64,
        audio_channels: int = 2,
        sampling_rate: int = 44100,
    ):
        super().__init__()
        if len(downsampling_ratios) != len(channel_multiples):
            raise ValueError(
                "downsampling_ratios and channel_multiples must have the same length, "
                f"got {len(downsampling_ratios)} and {len(channel_multiples)}."
            )
        if min(downsampling_ratios) < 2:
            raise ValueError(f"downsampling_ratios must be at least 2, got {tuple(downsampling_ratios)}.")
        self.hop_length = math.prod(downsampling_ratios)
        multiples = (1, *channel_multiples)
        self.encoder = OobleckEncoder(
            audio_channels,
            [encoder_hidden_size * multiple for multiple in multiples],
            downsampling_ratios,
            2 * decoder_input_channels,
        )
        self.decoder = OobleckDecoder(
            decoder_input_channels,
            [decoder_channels * multiple for multiple in multiples],
            downsampling_ratios,
            audio_channels,
        )
        self.encoder_context = encoder_context(downsampling_ratios)
        self.decoder_context = decoder_context(downsampling_ratios)
        self.use_slicing = False
        self.use_tiling = True
        self.tile_latent_length = 128

    @property
    def latent_rate(self) -> float:
        """Latent frames a second (21.53 for the paper's model)."""
        return self.config.sampling_rate / self.hop_length

    def enable_tiling(self, tile_latent_length: int = 128) -> None:
        """Encodes and decodes in chunks of `tile_latent_length` frames, with the same result (this is the default).

        Raises:
            ValueError: `tile_latent_length` is less than 1.
        """
        if tile_latent_length < 1:
            raise ValueError(f"tile_latent_length must be at least 1 frame, got {tile_latent_length}.")
        self.use_tiling, self.tile_latent_length = True, tile_latent_length

    def disable_tiling(self) -> None:
        """Encodes and decodes each input whole, which takes memory in proportion to its length."""
        self.use_tiling = False

    def enable_slicing(self) -> None:
        """Processes a batch one item at a time, to save memory."""
        self.use_slicing = True

    def disable_slicing(self) -> None:
        """Processes a batch at once."""
        self.use_slicing = False

    @apply_forward_hook  # moves an offloaded model to its device
    def encode(
        self, waveform: torch.Tensor, sampling_rate: int | None = None, return_dict: bool = True
    ) -> AutoencoderOobleckOutput | tuple[DiagonalGaussian]:
        """Encodes a waveform.

        Args:
            waveform: `(batch_size, audio_channels, num_samples)`, in the model's dtype, values in [-1, 1]. A last
                partial frame is completed with silence.
            sampling_rate: the waveform's rate in Hz, checked against the model's when given.

        Returns:
            `AutoencoderOobleckOutput` with `latent_dist` over `ceil(num_samples / hop_length)` frames, or a tuple.

        Raises:
            ValueError: wrong number of dimensions or channels, no samples, another dtype or sampling rate.
        """
        self._check(waveform, "waveform", ("audio_channels", self.config.audio_channels), "num_samples")
        if sampling_rate is not None and sampling_rate != self.config.sampling_rate:
            raise ValueError(f"sampling_rate must be {self.config.sampling_rate} Hz, got {sampling_rate}: resample.")
        waveform = F.pad(waveform, (0, -waveform.shape[-1] % self.hop_length))
        parameters = torch.cat([torch.cat(list(self._encode_tiles(item)), dim=-1) for item in self._slices(waveform)])
        posterior = DiagonalGaussian(parameters)
        return AutoencoderOobleckOutput(posterior) if return_dict else (posterior,)

    @apply_forward_hook  # moves an offloaded model to its device
    def decode(
        self, latents: torch.Tensor, num_frames: int | None = None, return_dict: bool = True
    ) -> OobleckDecoderOutput | tuple[torch.Tensor]:
        """Decodes latents.

        Args:
            latents: `(batch_size, decoder_input_channels, latent_length)`, in the model's dtype.
            num_frames: decode only the first so many frames (with those behind them as context), in
                [1, `latent_length`]; None decodes all.

        Returns:
            `OobleckDecoderOutput` with `sample` `(batch_size, audio_channels, num_frames * hop_length)`, or a tuple.

        Raises:
            ValueError: wrong number of dimensions or channels, no frames, another dtype, `num_frames` out of range.
        """
        self._check_latents(latents)
        waveforms = [torch.cat(list(self.decode_chunks(item, num_frames)), dim=-1) for item in self._slices(latents)]
        waveform = torch.cat(waveforms)
        return OobleckDecoderOutput(waveform) if return_dict else (waveform,)

    @apply_forward_hook  # moves an offloaded model to its device
    def decode_chunks(self, latents: torch.Tensor, num_frames: int | None = None) -> Iterator[torch.Tensor]:
        """Decodes latents piece by piece, for a file writer or a stream.

        Args:
            latents: as in `decode`.
            num_frames: as in `decode`.

        Yields:
            consecutive waveforms `(batch_size, audio_channels, n)`; together they are what `decode` returns.
        """
        self._check_latents(latents)
        latent_length = latents.shape[-1]
        num_frames = latent_length if num_frames is None else num_frames
        if not 1 <= num_frames <= latent_length:
            raise ValueError(f"num_frames must be in [1, {latent_length}], got {num_frames}.")
        for start, stop, left, right in self._tiles(num_frames, latent_length, self.decoder_context):
            waveform = self.decoder(latents[..., left:right])
            yield waveform[..., (start - left) * self.hop_length : (stop - left) * self.hop_length]

    def forward(
        self,
        waveform: torch.Tensor,
        sample_posterior: bool = False,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> OobleckDecoderOutput | tuple[torch.Tensor, DiagonalGaussian]:
        """Encodes and decodes `(batch_size, audio_channels, num_samples)`; the result has the same shape.

        Args:
            waveform: as in `encode`.
            sample_posterior: decode a draw from the posterior (as in training) instead of its mean.
            generator: for that draw.
        """
        posterior = self.encode(waveform).latent_dist
        latents = posterior.sample(generator) if sample_posterior else posterior.mode()
        sample = self.decode(latents).sample[..., : waveform.shape[-1]]
        return OobleckDecoderOutput(sample, posterior) if return_dict else (sample, posterior)

    def _encode_tiles(self, waveform: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yields posterior parameters of consecutive chunks of whole frames."""
        latent_length = waveform.shape[-1] // self.hop_length
        for start, stop, left, right in self._tiles(latent_length, latent_length, self.encoder_context):
            parameters = self.encoder(waveform[..., left * self.hop_length : right * self.hop_length])
            yield parameters[..., start - left : stop - left]

    def _tiles(self, num_frames: int, latent_length: int, context: int) -> Iterator[tuple[int, int, int, int]]:
        """Yields `(start, stop, left, right)`: frames to keep, up to `num_frames`, and those to compute them from."""
        whole = torch.is_grad_enabled() or not self.use_tiling
        tile = num_frames if whole else self.tile_latent_length
        for start in range(0, num_frames, tile):
            stop = min(start + tile, num_frames)
            yield start, stop, max(start - context, 0), min(stop + context, latent_length)

    def _slices(self, batch: torch.Tensor) -> Sequence[torch.Tensor]:
        """The batch item by item when slicing is on."""
        return batch.split(1) if self.use_slicing else [batch]

    def _check_latents(self, latents: torch.Tensor) -> None:
        """Raises a ValueError unless the latents can be decoded."""
        channels = self.config.decoder_input_channels
        self._check(latents, "latents", ("decoder_input_channels", channels), "latent_length")

    def _check(self, tensor: torch.Tensor, name: str, channels: tuple[str, int], length_name: str) -> None:
        """Raises a ValueError unless the tensor is `(batch_size, channels, at least 1)` in the model's dtype."""
        if tensor.ndim != 3 or tensor.shape[1] != channels[1] or tensor.shape[2] < 1:
            raise ValueError(
                f"{name} must be (batch_size, {channels[0]}={channels[1]}, {length_name} >= 1), "
                f"got shape {tuple(tensor.shape)}."
            )
        if not torch.is_autocast_enabled(tensor.device.type) and tensor.dtype != self.dtype:
            raise ValueError(f"{name} must have the model's dtype {self.dtype}, got {tensor.dtype}.")


def encoder_context(strides: Sequence[int]) -> int:
    """Frames on each side that the encoder looks at to compute one latent frame (8 for the paper's strides)."""
    first, last = -1, 1  # the last convolution has 3 taps
    for stride in reversed(strides):
        padding = math.ceil(stride / 2)
        first, last = first * stride - padding, last * stride - padding + 2 * stride - 1
        first, last = first - RESIDUAL_OVERHANG, last + RESIDUAL_OVERHANG
    hop_length = math.prod(strides)
    return max(math.ceil((3 - first) / hop_length), math.ceil((last + 3 - hop_length + 1) / hop_length))


def decoder_context(strides: Sequence[int]) -> int:
    """Frames on each side that the decoder looks at to compute one frame of samples (10 for the paper's strides)."""
    first, last = -3, math.prod(strides) - 1 + 3  # the last convolution has 7 taps
    for stride in strides:
        first, last = first - RESIDUAL_OVERHANG, last + RESIDUAL_OVERHANG
        padding = math.ceil(stride / 2)
        first, last = math.ceil((first + padding - 2 * stride + 1) / stride), (last + padding) // stride
    return max(3 - first, last + 3)
