"""Snake as one Triton kernel on a GPU. PyTorch alone runs four kernels, each of which reads and writes all values."""

import torch

from stable_longform.models.acceleration.folded_layers import FoldedLayers
from stable_longform.models.oobleck_layers import Snake1d

try:  # comes with torch for GPUs
    import triton
    import triton.language as tl
except ImportError:
    triton = None

BLOCK = 1024  # values computed by one program
SUPPORTED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # the kernel computes in float32


class FusedSnakeLayers(FoldedLayers):
    """The layers of a network, with Snake as one kernel if Triton is installed."""

    def snake(self, snake: Snake1d, hidden_states: torch.Tensor) -> torch.Tensor:
        """`Snake1d`."""
        if triton is None or hidden_states.dtype not in SUPPORTED_DTYPES:
            return super().snake(snake, hidden_states)
        return fused_snake(hidden_states, *(constant.flatten() for constant in snake.constants()))


def fused_snake(hidden_states: torch.Tensor, alpha: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    """`x + inverse · sin²(alpha · x)` without gradients, computed in float32.

    Args:
        hidden_states: `(batch_size, channels, length)`, in one of `SUPPORTED_DTYPES`.
        alpha: `(channels,)`.
        inverse: `(channels,)`.
    """
    hidden_states = hidden_states.contiguous()
    output = torch.empty_like(hidden_states)
    batch_size, channels, length = hidden_states.shape
    grid = (triton.cdiv(length, BLOCK), batch_size * channels)
    with torch.cuda.device_of(hidden_states):
        _snake_kernel[grid](hidden_states, alpha, inverse, output, channels, length, BLOCK=BLOCK)
    return output


if triton is not None:

    @triton.jit
    def _snake_kernel(inputs, alpha, inverse, outputs, channels, length, BLOCK: tl.constexpr):
        """A block of one channel of one item; the grid is (blocks, batch_size · channels)."""
        row = tl.program_id(1)
        channel = row % channels
        positions = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        is_inside = positions < length
        offsets = row.to(tl.int64) * length + positions
        x = tl.load(inputs + offsets, mask=is_inside).to(tl.float32)
        sine = tl.sin(tl.load(alpha + channel).to(tl.float32) * x)
        y = x + tl.load(inverse + channel).to(tl.float32) * sine * sine
        tl.store(outputs + offsets, y.to(outputs.dtype.element_ty), mask=is_inside)
