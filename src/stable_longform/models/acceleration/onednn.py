"""Large float32 linear maps through oneDNN, which torch keeps for its compiler and for half precision.

Its kernels are faster than those of MKL, torch's default, on CPUs that MKL has no code of its own for.
"""

import torch

MIN_PRODUCTS = 2**24  # multiplications of a linear map from which on the choice of kernel matters
IS_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear_is_faster(hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> bool:
    """Whether `linear` may and should compute this map; subclasses of tensors are left alone."""
    is_plain = all(type(tensor) in (torch.Tensor, torch.nn.Parameter) for tensor in (hidden_states, weight))
    return (
        IS_AVAILABLE
        and is_plain
        and hidden_states.dtype == weight.dtype == torch.float32
        and hidden_states.device.type == "cpu"
        and hidden_states.numel() * weight.shape[0] >= MIN_PRODUCTS
    )


def linear(hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`F.linear` in oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(hidden_states, weight, bias, "none", [], "")
