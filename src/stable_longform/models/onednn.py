"""Large float32 linear maps through oneDNN, which torch keeps for its compiler and for half precision.

Its kernels are faster than those of MKL, torch's default, on CPUs that MKL has no code of its own for.
"""

import contextlib

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

MIN_PRODUCTS = 2**24  # multiplications of a linear map from which on the choice of kernel matters


class OneDnnLinear(TorchFunctionMode):
    """Within this context `F.linear` runs in oneDNN where it is large, in float32, on a CPU and without gradients."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Runs `function`, or oneDNN in its place."""
        kwargs = kwargs or {}
        if function is F.linear and not kwargs and _is_suitable(*args):
            hidden_states, weight, bias = (*args, None)[:3]
            return torch.ops.mkldnn._linear_pointwise(hidden_states, weight, bias, "none", [], "")
        return function(*args, **kwargs)


def fast_linear(module: torch.nn.Module, device: torch.device) -> contextlib.AbstractContextManager:
    """`OneDnnLinear` where it can serve `module`: on a CPU, not compiled; else a context that does nothing."""
    is_compiled = any(part._compiled_call_impl is not None for part in module.modules())
    is_available = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return OneDnnLinear() if device.type == "cpu" and is_available and not is_compiled else contextlib.nullcontext()


def _is_suitable(hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> bool:
    """Whether oneDNN may and should compute this linear map; subclasses of tensors are left alone."""
    is_plain = all(type(tensor) in (torch.Tensor, torch.nn.Parameter) for tensor in (hidden_states, weight))
    return (
        is_plain
        and hidden_states.dtype == weight.dtype == torch.float32
        and hidden_states.device.type == "cpu"
        and not (torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"))
        and hidden_states.numel() * weight.shape[0] >= MIN_PRODUCTS
    )
