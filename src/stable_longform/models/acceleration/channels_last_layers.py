"""The layers of an Oobleck network on a CPU, in the memory layout in which convolutions are fastest.

Hidden states are `(1, channels, 1, length)` in channels-last format: the channels of one time step are adjacent in
memory. A convolution then needs no conversion, and a transposed convolution becomes a convolution with two taps whose
output channels are consecutive time steps. The results equal those of the layers up to rounding.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from stable_longform.models.acceleration.folded_layers import FoldedLayers
from stable_longform.models.oobleck_layers import Snake1d, WeightNormConv1d, WeightNormConvTranspose1d

ROW = 2048  # values, or more: the constants of a Snake are repeated to rows of this length, for long inner loops


class ChannelsLastLayers(FoldedLayers):
    """The layers of a network, with all constants prepared.

    Args:
        network: encoder or decoder; its parameters must not change while this object is in use.
        convolution_dtype: dtype of the inputs, weights and outputs of convolutions. Sums within a convolution and
            everything outside of convolutions stay in the network's dtype. None: the network's dtype.
    """

    def __init__(self, network: nn.Module, convolution_dtype: torch.dtype | None = None):
        super().__init__(network)
        self._dtype = next(network.parameters()).dtype
        self._convolution_dtype = convolution_dtype or self._dtype
        self._biases: dict[nn.Module, torch.Tensor | None] = {}
        self._rows: dict[Snake1d, tuple[torch.Tensor, ...]] = {}
        for layer, weight in self._weights.items():
            bias = layer.bias
            if isinstance(layer, WeightNormConvTranspose1d):
                weight = two_taps(weight, layer.stride[0])
                bias = None if bias is None else bias.repeat(layer.stride[0])
            weight = weight[:, :, None].to(self._convolution_dtype)
            self._weights[layer] = weight.contiguous(memory_format=torch.channels_last)
            self._biases[layer] = None if bias is None else bias.to(self._convolution_dtype)
        for snake in network.modules():
            if isinstance(snake, Snake1d):
                repeats = -(-ROW // snake.alpha.shape[1])
                self._rows[snake] = tuple(constant.flatten().repeat(repeats) for constant in snake.constants())

    def enter(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Converts `(1, channels, length)` to the layout of this module."""
        return hidden_states[:, :, None].contiguous(memory_format=torch.channels_last)

    def leave(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The reverse of `enter`."""
        return hidden_states[:, :, 0]

    def conv(self, conv: WeightNormConv1d, hidden_states: torch.Tensor) -> torch.Tensor:
        """`WeightNormConv1d`."""
        return self._convolve(conv, hidden_states, (1, *conv.stride), (0, *conv.padding), (1, *conv.dilation))

    def conv_transpose(self, conv: WeightNormConvTranspose1d, hidden_states: torch.Tensor) -> torch.Tensor:
        """`WeightNormConvTranspose1d` with a kernel of two strides."""
        start, length = conv.padding[0], hidden_states.shape[-1] * conv.stride[0]
        with self._one_copy_at_a_time(conv):
            phases = self._convolve(conv, hidden_states, (1, 1), (0, 1), (1, 1))
        return _from_values(_values(phases), conv.out_channels)[..., start : start + length]

    def snake(self, snake: Snake1d, hidden_states: torch.Tensor) -> torch.Tensor:
        """`Snake1d`, with one new tensor."""
        values = _values(hidden_states)
        output = torch.empty_like(values)
        alpha, inverse = self._rows[snake]
        _row_by_row(torch.mul, alpha, values, out=output)
        if output.dtype == torch.float32:
            np.sin(output.numpy(), out=output.numpy())  # in half of torch's time
        else:
            output.sin_()
        _row_by_row(torch.addcmul, inverse, values, output.mul_(output), out=output)
        return _from_values(output, hidden_states.shape[1])

    def _convolve(self, conv, hidden_states, stride, padding, dilation) -> torch.Tensor:
        hidden_states, weight = hidden_states.to(self._convolution_dtype), self._weights[conv]
        return F.conv2d(hidden_states, weight, self._biases[conv], stride, padding, dilation).to(self._dtype)


def two_taps(weight: torch.Tensor, stride: int) -> torch.Tensor:
    """Turns a transposed convolution into one with two taps that returns `stride` time steps as channels.

    Args:
        weight: `(in_channels, out_channels, 2 * stride)`.
        stride: of the transposed convolution.

    Returns:
        The weight `(stride * out_channels, in_channels, 2)` in channels-last format; the earlier input comes first.
    """
    in_channels, out_channels, _ = weight.shape
    rows = weight.flatten(1).t().contiguous()  # a plain transposition first, because torch has a fast kernel for it
    later, earlier = rows.view(out_channels, 2, stride, in_channels).transpose(0, 2).unbind(1)
    taps = weight.new_empty(stride, out_channels, 2, in_channels)
    taps[:, :, 0], taps[:, :, 1] = earlier, later
    return taps.flatten(0, 1).transpose(1, 2)


def _row_by_row(function, row: torch.Tensor, *inputs: torch.Tensor, out: torch.Tensor) -> None:
    """`function(inputs[0], row, *inputs[1:], out=out)` with `row` repeated to the inputs' length."""
    whole = len(out) // len(row) * len(row)
    for start, stop, length in ((0, whole, len(row)), (whole, len(out), len(out) - whole)):
        if start < stop:
            first, *others, output = (values[start:stop].view(-1, length) for values in (*inputs, out))
            function(first, row[:length], *others, out=output)


def _values(hidden_states: torch.Tensor) -> torch.Tensor:
    """All values in memory order: time step by time step, channel by channel."""
    return hidden_states.permute(0, 2, 3, 1).reshape(-1)


def _from_values(values: torch.Tensor, channels: int) -> torch.Tensor:
    """The reverse of `_values`."""
    return values.view(1, 1, -1, channels).permute(0, 3, 1, 2)
