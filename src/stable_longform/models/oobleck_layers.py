"""Layers of the Oobleck autoencoder: weight-normalised convolutions, Snake, residual units, blocks, both networks.

Paper: §2.1 and figure 3. Conventions: hidden states are `(batch_size, channels, length)`. `receptive_field(start,
stop)` of a layer is the interval of inputs that its outputs `start` to `stop - 1` depend on. It may extend beyond the
ends of the sequence, where every layer sees zeros.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

DILATIONS = (1, 3, 9)
REACH_OF_RESIDUAL_UNITS = 3 * sum(DILATIONS)  # samples on each side that three 7-tap residual units look at

Interval = tuple[int, int]


def split_weight(module: Any) -> None:
    """Replaces the parameter `weight` by `weight_g`, its norm over all dimensions but the first, and `weight_v`."""
    weight = module.weight.detach()
    del module.weight
    if weight.is_meta:  # whose norm torch computes in Python, for a sixth of the time in which a pipeline is opened
        norm = weight.new_empty(len(weight), *[1] * (weight.ndim - 1))
    else:
        norm = torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.ndim)), keepdim=True)
    module.weight_g = nn.Parameter(norm)
    module.weight_v = nn.Parameter(weight.clone())


class _WeightNorm:
    """Computes the weight of a convolution from `weight_g` and `weight_v`."""

    weight_g: torch.Tensor
    weight_v: torch.Tensor

    def normalized_weight(self) -> torch.Tensor:
        """`weight_g · weight_v / ‖weight_v‖`, in the shape of `weight_v`."""
        return torch._weight_norm(self.weight_v, self.weight_g)


class WeightNormConv1d(nn.Conv1d, _WeightNorm):
    """`nn.Conv1d` with weight normalisation, one norm for each output channel."""

    padding: tuple[int, ...]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        split_weight(self)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(hidden_states, self.normalized_weight(), self.bias)

    def receptive_field(self, start: int, stop: int) -> Interval:
        """See the module. The kernel size is odd, and the convolution keeps the length."""
        reach = self.kernel_size[0] // 2 * self.dilation[0]
        return start - reach, stop + reach


class WeightNormConvTranspose1d(nn.ConvTranspose1d, _WeightNorm):
    """`nn.ConvTranspose1d` with weight normalisation, one norm for each input channel; it has no `output_size`."""

    padding: tuple[int, ...]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        split_weight(self)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        weight = self.normalized_weight()
        return F.conv_transpose1d(hidden_states, weight, self.bias, self.stride, self.padding, self.output_padding)


class _Snake(torch.autograd.Function):
    """`x + sin²(a x) / b` for `(B, C, L)` and a, b `(1, C, 1)`, in two thirds of autograd's time and half its memory.

    The gradient with respect to x is 1 + sin(2 a x) a / b.
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        squares = (a * x).sin_()
        squares.mul_(squares)
        ctx.save_for_backward(x, a, b, squares)
        return torch.addcmul(x, 1 / b, squares)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x, a, b, squares = ctx.saved_tensors
        slope = (2 * a * x).sin_().mul_(grad)
        grad_a = (slope * x).sum(dim=(0, 2), keepdim=True) / b
        grad_b = (grad * squares).sum(dim=(0, 2), keepdim=True) / -(b * b)
        return torch.addcmul(grad, a / b, slope), grad_a, grad_b


class Snake1d(nn.Module):
    """SnakeBeta: `x + sin²(e^α x) / (e^β + 1e-9)` with a learned α and β for each channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(1, channels, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return _Snake.apply(hidden_states, self.alpha.exp(), self.beta.exp() + 1e-9)
        alpha, inverse = self.constants()
        return torch.addcmul(hidden_states, inverse, torch.sin(alpha * hidden_states).square())

    def constants(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`e^α` and `1 / (e^β + 1e-9)`, `(1, channels, 1)`."""
        return self.alpha.exp(), 1.0 / (self.beta.exp() + 1e-9)


class OobleckResidualUnit(nn.Module):
    """Snake, dilated 7-tap convolution, Snake, 1-tap convolution, and a skip connection."""

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
        self.stride, self.channels = stride, in_channels
        self.res_unit1, self.res_unit2, self.res_unit3 = (OobleckResidualUnit(in_channels, d) for d in DILATIONS)
        self.snake1 = Snake1d(in_channels)
        self.conv1 = WeightNormConv1d(
            in_channels, out_channels, kernel_size=2 * stride, stride=stride, padding=math.ceil(stride / 2)
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.res_unit3(self.res_unit2(self.res_unit1(hidden_states)))
        return self.conv1(self.snake1(hidden_states))

    def receptive_field(self, start: int, stop: int) -> Interval:
        """See the module."""
        first, last = start * self.stride, (stop + 1) * self.stride  # a kernel of two strides
        padding = math.ceil(self.stride / 2)
        return first - padding - REACH_OF_RESIDUAL_UNITS, last - padding + REACH_OF_RESIDUAL_UNITS


class OobleckDecoderBlock(nn.Module):
    """A transposed convolution that multiplies the rate by `stride`, then three residual units."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.stride, self.channels = stride, out_channels
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

    def receptive_field(self, start: int, stop: int) -> Interval:
        """See the module."""
        padding = math.ceil(self.stride / 2)
        first, last = start - REACH_OF_RESIDUAL_UNITS + padding, stop - 1 + REACH_OF_RESIDUAL_UNITS + padding
        return math.ceil((first + 1) / self.stride) - 2, last // self.stride + 1


Block = TypeVar("Block", bound=OobleckEncoderBlock | OobleckDecoderBlock)


class OobleckNetwork(nn.Module, Generic[Block]):
    """What encoder and decoder share: `conv1`, the blocks in order, `snake1`, `conv2`."""

    conv1: WeightNormConv1d
    block: nn.ModuleList
    snake1: Snake1d
    conv2: WeightNormConv1d
    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable[..., torch.Tensor]

    @property
    def blocks(self) -> list[Block]:
        """`block` as a list whose type says what is in it."""
        return cast(list[Block], list(self.block))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.conv1(hidden_states)
        for block in self.block:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                hidden_states = self._gradient_checkpointing_func(block, hidden_states)
            else:
                hidden_states = block(hidden_states)
        return self.conv2(self.snake1(hidden_states))

    def receptive_field(self, start: int, stop: int) -> Interval:
        """See the module."""
        start, stop = self.conv2.receptive_field(start, stop)
        for block in reversed(self.blocks):
            start, stop = block.receptive_field(start, stop)
        return self.conv1.receptive_field(start, stop)


class OobleckEncoder(OobleckNetwork[OobleckEncoderBlock]):
    """Waveform `(B, audio_channels, N)` to posterior parameters `(B, 2 * latent_channels, N / hop_length)`."""

    def __init__(self, audio_channels: int, widths: Sequence[int], strides: Sequence[int], out_channels: int):
        super().__init__()
        self.conv1 = WeightNormConv1d(audio_channels, widths[0], kernel_size=7, padding=3)
        self.block = nn.ModuleList(
            OobleckEncoderBlock(widths[i], widths[i + 1], stride) for i, stride in enumerate(strides)
        )
        self.snake1 = Snake1d(widths[-1])
        self.conv2 = WeightNormConv1d(widths[-1], out_channels, kernel_size=3, padding=1)

    def context(self, hop_length: int) -> int:
        """Number of neighbouring frames on each side that the latent of a frame (`hop_length` samples) depends on."""
        start, stop = self.receptive_field(0, 1)
        return max(math.ceil(-start / hop_length), math.ceil((stop - hop_length) / hop_length))


class OobleckDecoder(OobleckNetwork[OobleckDecoderBlock]):
    """Latents `(B, latent_channels, L)` to a waveform `(B, audio_channels, L * hop_length)`."""

    def __init__(self, latent_channels: int, widths: Sequence[int], strides: Sequence[int], audio_channels: int):
        super().__init__()
        self.conv1 = WeightNormConv1d(latent_channels, widths[-1], kernel_size=7, padding=3)
        self.block = nn.ModuleList(
            OobleckDecoderBlock(widths[i + 1], widths[i], strides[i]) for i in reversed(range(len(strides)))
        )
        self.snake1 = Snake1d(widths[0])
        self.conv2 = WeightNormConv1d(widths[0], audio_channels, kernel_size=7, padding=3, bias=False)

    def context(self, hop_length: int) -> int:
        """Number of neighbouring latents on each side that the `hop_length` samples of a latent depend on."""
        start, stop = self.receptive_field(0, hop_length)
        return max(-start, stop - 1)
