"""Decides whether the engine computes a model's result instead of the model itself."""

import os
from typing import Any

import torch
from torch import nn

from stable_longform.models.acceleration.oobleck_engine import OobleckEngine
from stable_longform.models.acceleration.transformer_engine import TransformerEngine
from stable_longform.models.bfloat16_decoding import multiplies_bfloat16
from stable_longform.models.hooks import has_hooks
from stable_longform.models.oobleck_layers import OobleckDecoder, OobleckEncoder

SWITCH = "STABLE_LONGFORM_ACCELERATION"  # environment variable: "0" turns the engine off


def engine_for(
    module: nn.Module, device: torch.device, num_frames: int | None = None, use_bfloat16: bool = False
) -> Any:
    """Returns the `OobleckEngine` or `TransformerEngine` for a module, or None if it must be called directly.

    It must be called directly in training, under autocast and `torch.compile`, on unsupported devices (a transformer's
    engine runs on a CPU, an autoencoder's on a CPU or GPU), if acceleration is turned off, and, for an autoencoder, if
    its layers have hooks or were replaced.

    Args:
        module: `OobleckEncoder` or `OobleckDecoder`, for which an `OobleckEngine` is returned; or a transformer, whose
            calls are faster within the context of a `TransformerEngine`.
        device: of its inputs.
        num_frames: an autoencoder will compute, None if it is not known.
        use_bfloat16: run the convolutions of an autoencoder in bfloat16. Without effect if the CPU has no bfloat16
            instructions, since it would be slower then.

    Raises:
        ValueError: the environment variable is neither "0" nor "1".
    """
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or module.training or not _is_switched_on():
        return None
    is_compiled = any(part._compiled_call_impl is not None for part in module.modules())
    if device.type not in ("cpu", "cuda", "mps") or is_compiled or torch.is_autocast_enabled(device.type):
        return None
    if isinstance(module, (OobleckEncoder, OobleckDecoder)):
        if has_hooks(module) or not OobleckEngine.knows(module):
            return None
        convolution_dtype = torch.bfloat16 if use_bfloat16 and multiplies_bfloat16() else None
        return OobleckEngine(module, device, convolution_dtype, num_frames)
    return TransformerEngine(module) if device.type == "cpu" else None


def _is_switched_on() -> bool:
    """Reads the environment variable; the engine is on if it is not set."""
    value = os.environ.get(SWITCH, "1")
    if value not in ("0", "1"):
        raise ValueError(f"The environment variable {SWITCH} must be 0 or 1, got {value!r}.")
    return value == "1"
