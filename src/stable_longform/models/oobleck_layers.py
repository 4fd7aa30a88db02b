"""Layers of the Oobleck autoencoder: weight-normalised convolutions, Snake, residual units, blocks, both networks.

Paper: §2.1 and figure 3. Conventions: hidden states are `(batch_size, channels, length)`. In training every layer is
plain; without gradients Snake needs one new tensor, and folded weights are used where there are some
(`fuse_weight_norm`). `steps` describes each network to `tiles`, which runs it piece by piece.
"""

import contextlib
import math
import threading
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from stable_longform.models.tiles import Step

DILATIONS = (1, 3, 9)
LARGE_WEIGHT = 2**22  # values
RESIDUAL_OVERHANG = 3 * sum(DILATIONS)  # samples on each side that three 7-tap residual units look at


class _FoldedWeight:
    """Gives a weight-normalised convolution its weight: without gradients the folded one, if there is one."""

    def normalized_weight(self) -> torch.Tensor:
        """`weight_g · weight_v / ‖weight_v‖`, in the shape of `weight_v`."""
        folded = self.folded_weight
        if folded is None or torch.is_grad_enabled():
            return torch._weight_norm(self.weight_v, self.weight_g)
        return folded


class WeightNormConv1d(nn.Conv1d, _FoldedWeight):
    """`nn.Conv1d` with weight normalisation, one norm for each output channel."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        split_weight(self)
        self.register_buffer("folded_weight", None, persistent=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(hidden_states, self.normalized_weight(), self.bias)


class WeightNormConvTranspose1d(nn.ConvTranspose1d, _FoldedWeight):
    """`nn.ConvTranspose1d` with weight normalisation, one norm for each input channel.

    On a CPU each call copies the weight into another layout, 134 MB in the paper's first block. That layer is a
    hundredth of the work, so tiles that are computed in several threads wait for each other there.
    """

    _copying = threading.Lock()

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        split_weight(self)
        self.register_buffer("folded_weight", None, persistent=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        weight = self.normalized_weight()
        takes_turns = weight.numel() >= LARGE_WEIGHT and weight.device.type == "cpu" and not torch.is_grad_enabled()
        with self._copying if takes_turns and not torch.compiler.is_compiling() else contextlib.nullcontext():
            return F.conv_transpose1d(hidden_states, weight, self.bias, self.stride, self.padding, self.output_padding)


def split_weight(module: nn.Module) -> None:
    """Replaces the parameter `weight` by `weight_g`, its norm over all dimensions but the first, and `weight_v`."""
    weight = module.weight.detach()
    del module.weight
    module.weight_g = nn.Parameter(torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.ndim)), keepdim=True))
    module.weight_v = nn.Parameter(weight.clone())


@torch.no_grad()
def fuse_weight_norm(module: nn.Module) -> None:
    """Computes the weight of every convolution in `module` once, for use without gradients; parameters stay."""
    for layer in module.modules():
        if isinstance(layer, _FoldedWeight):
            layer.folded_weight = torch._weight_norm(layer.weight_v, layer.weight_g)


def is_weight_norm_fused(module: nn.Module) -> bool:
    """Whether any convolution in `module` has the weight that `fuse_weight_norm` computed."""
    return any(isinstance(layer, _FoldedWeight) and layer.folded_weight is not None for layer in module.modules())


def unfuse_weight_norm(module: nn.Module) -> None:
    """Drops the weights that `fuse_weight_norm` computed."""
    for layer in module.modules():
        if isinstance(layer, _FoldedWeight):
            layer.folded_weight = None


@contextlib.contextmanager
def weight_norm_fused(module: nn.Module) -> Iterator[None]:
    """Weights are fused within the context, if they weren't already."""
    if is_weight_norm_fused(module):
        yield
        return
    fuse_weight_norm(module)
    try:
        yield
    finally:
        unfuse_weight_norm(module)


class Snake1d(nn.Module):
    """SnakeBeta: `x + sin²(e^α x) / (e^β + 1e-9)` with a learned α and β for each channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(1, channels, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        inverse = 1.0 / (self.beta.exp() + 1e-9)
        scaled = self.alpha.exp() * hidden_states
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return torch.addcmul(hidden_states, inverse, torch.sin(scaled).square())
        scaled.sin_()  # in place, since fresh memory costs more than the arithmetic
        return torch.addcmul(hidden_states, inverse, scaled.mul_(scaled), out=scaled)


class OobleckResidualUnit(nn.Module):
    """Snake, dilated 7-tap convolution, Snake, 1-tap convolution, and the skip."""

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.snake1 = Snake1d(channels)
        self.conv1 = WeightNormConv1d(channels, channels, kernel_size=7, dilation=dilation, padding=3 * dilation)
        self.snake2 = Snake1d(channels)
        self.conv2 = WeightNormConv1d(channels, channels, kernel_size=1)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        added = self.conv2(self.snake2(self.conv1(self.snake1(hidden_states))))
        if torch.is_grad_enabled() or added.dtype != hidden_states.dtype:
            return hidden_states + added
        return added.add_(hidden_states)


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

    def step(self) -> Step:
        """This block for `tiles`."""
        return Step(self, self._inputs, self.channels, down=self.stride)

    def _inputs(self, start: int, stop: int) -> tuple[int, int]:
        """Inputs that outputs `(start, stop)` depend on."""
        first, last = start * self.stride, (stop + 1) * self.stride  # a kernel of two strides
        padding = math.ceil(self.stride / 2)
        return first - padding - RESIDUAL_OVERHANG, last - padding + RESIDUAL_OVERHANG


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

    def step(self) -> Step:
        """This block for `tiles`."""
        return Step(self, self._inputs, self.channels, up=self.stride)

    def _inputs(self, start: int, stop: int) -> tuple[int, int]:
        """Inputs that outputs `(start, stop)` depend on."""
        padding = math.ceil(self.stride / 2)
        first, last = start - RESIDUAL_OVERHANG + padding, stop - 1 + RESIDUAL_OVERHANG + padding
        return math.ceil((first + 1) / self.stride) - 2, last // self.stride + 1


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

    def steps(self) -> list[Step]:
        """The network for `tiles`."""
        return [_conv_step(self.conv1), *(block.step() for block in self.block), _conv_step(self.conv2, self.snake1)]


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

    def steps(self) -> list[Step]:
        """The network for `tiles`."""
        return [_conv_step(self.conv1), *(block.step() for block in self.block), _conv_step(self.conv2, self.snake1)]


def _conv_step(conv: WeightNormConv1d, snake: Snake1d | None = None) -> Step:
    """A convolution of odd kernel size that keeps the length, after Snake if given, for `tiles`."""
    overhang = conv.kernel_size[0] // 2
    run = conv if snake is None else lambda hidden: conv(snake(hidden))
    return Step(run, lambda start, stop: (start - overhang, stop + overhang), max(conv.in_channels, conv.out_channels))
