"""The layers of an Oobleck network without gradients: weights are folded once, and memory is reused.

Each method returns the result of the layer of the same name, bit for bit.
"""

import contextlib
import threading

import torch
import torch.nn.functional as F
from torch import nn

from stable_longform.models.oobleck_layers import (
    OobleckDecoderBlock,
    OobleckEncoderBlock,
    OobleckResidualUnit,
    Snake1d,
    WeightNormConv1d,
    WeightNormConvTranspose1d,
)

LARGE_WEIGHT = 2**22  # values


class FoldedLayers:
    """The layers of a network, with the weights of all convolutions computed in advance.

    Args:
        network: encoder or decoder; its parameters must not change while this object is in use.
    """

    # A transposed convolution copies its weight into another layout, 134 MB in the paper's first block. This layer is
    # one hundredth of the work, so threads take turns there.
    _copying = threading.Lock()

    def __init__(self, network: nn.Module):
        self._weights: dict[WeightNormConv1d | WeightNormConvTranspose1d, torch.Tensor] = {
            layer: layer.normalized_weight()
            for layer in network.modules()
            if isinstance(layer, (WeightNormConv1d, WeightNormConvTranspose1d))
        }

    def enter(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Converts `(1, channels, length)` to the layout of these layers, which here is the same."""
        return hidden_states

    def leave(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The reverse of `enter`."""
        return hidden_states

    def conv(self, conv: WeightNormConv1d, hidden_states: torch.Tensor) -> torch.Tensor:
        """`WeightNormConv1d`."""
        weight = self._weights[conv]
        return F.conv1d(hidden_states, weight, conv.bias, conv.stride, conv.padding, conv.dilation)

    def conv_transpose(self, conv: WeightNormConvTranspose1d, hidden_states: torch.Tensor) -> torch.Tensor:
        """`WeightNormConvTranspose1d`."""
        weight = self._weights[conv]
        with self._one_copy_at_a_time(conv):
            return F.conv_transpose1d(hidden_states, weight, conv.bias, conv.stride, conv.padding, conv.output_padding)

    def snake(self, snake: Snake1d, hidden_states: torch.Tensor) -> torch.Tensor:
        """`Snake1d`, with one new tensor: fresh memory costs more than the arithmetic."""
        alpha, inverse = snake.constants()
        scaled = (alpha * hidden_states).sin_()
        return torch.addcmul(hidden_states, inverse, scaled.mul_(scaled), out=scaled)

    def residual_unit(self, unit: OobleckResidualUnit, hidden_states: torch.Tensor) -> torch.Tensor:
        """`OobleckResidualUnit`."""
        added = self.conv(unit.conv1, self.snake(unit.snake1, hidden_states))
        return self.conv(unit.conv2, self.snake(unit.snake2, added)).add_(hidden_states)

    def encoder_block(self, block: OobleckEncoderBlock, hidden_states: torch.Tensor) -> torch.Tensor:
        """`OobleckEncoderBlock`."""
        for unit in (block.res_unit1, block.res_unit2, block.res_unit3):
            hidden_states = self.residual_unit(unit, hidden_states)
        return self.conv(block.conv1, self.snake(block.snake1, hidden_states))

    def decoder_block(self, block: OobleckDecoderBlock, hidden_states: torch.Tensor) -> torch.Tensor:
        """`OobleckDecoderBlock`."""
        hidden_states = self.conv_transpose(block.conv_t1, self.snake(block.snake1, hidden_states))
        for unit in (block.res_unit1, block.res_unit2, block.res_unit3):
            hidden_states = self.residual_unit(unit, hidden_states)
        return hidden_states

    def _one_copy_at_a_time(self, conv: WeightNormConvTranspose1d) -> contextlib.AbstractContextManager:
        """A context in which no other thread copies a large weight."""
        return self._copying if self._weights[conv].numel() >= LARGE_WEIGHT else contextlib.nullcontext()
