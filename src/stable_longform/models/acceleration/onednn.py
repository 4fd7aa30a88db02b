"""Large float32 linear maps with oneDNN, which torch itself uses only when compiling and for half precision.

Its kernels are faster than those of MKL, torch's default, on CPUs for which MKL has no special code.
"""

import torch

MIN_PRODUCTS = 2**24  # multiplications in a linear map; below this the choice of kernel makes no difference
IS_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear_is_faster(hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> bool:
    """Whether `linear` should compute this map; never for subclasses of tensors."""
    is_plain = all(type(tensor) in (torch.Tensor, torch.nn.Parameter) for tensor in (hidden_states, weight))
    return (
        IS_AVAILABLE
        and is_plain
        and hidden_states.dtype == weight.dtype == torch.float32
        and hidden_states.device.type == "cpu"
        and hidden_states.numel() * weight.shape[0] >= MIN_PRODUCTS
    )


def linear(hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`F.linear`, computed by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(hidden_states, weight, bias, "none", [], "")
