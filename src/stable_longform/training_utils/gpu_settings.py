"""Settings that make training fast on GPUs, with no or almost no effect on the result."""

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

from stable_longform.models.transformer_dit_1d import DiTTransformer1D
from stable_longform.training_utils.run_options import RunOptions


def set_kernels(options: RunOptions) -> None:
    """Sets the precision and the choice of kernels for matrix products and convolutions on GPUs."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.allow_tf32
    torch.backends.cudnn.benchmark = options.cudnn_benchmark


def is_fused(options: RunOptions, device: torch.device) -> bool | None:
    """The `fused` argument of Adam: True on GPUs if the options say so, otherwise None, torch's own choice."""
    return True if options.fused_optimizer and device.type == "cuda" else None


def set_attention_backend(transformer: DiTTransformer1D, name: str, device: torch.device, precision: str) -> None:
    """Sets one of diffusers' attention backends, after a trial on a device.

    Args:
        transformer: that is to be trained.
        name: of the backend.
        device: of the training.
        precision: "no", "bf16" or "fp16", as in accelerate.

    Raises:
        ValueError: the backend does not exist, is not installed, or cannot be trained with on this device.
    """
    names = [backend.value for backend in AttentionBackendName]
    if name not in names:
        raise ValueError(f"attention_backend must be one of {', '.join(names)}, got {name!r}.")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    head_dim = transformer.config.attention_head_dim
    query = torch.zeros(1, 16, 1, head_dim, device=device, dtype=dtype, requires_grad=True)
    try:
        transformer.set_attention_backend(name)
        dispatch_attention_fn(query, query, query, backend=AttentionBackendName(name)).sum().backward()
    except Exception as error:  # backends raise errors of many kinds
        raise ValueError(f"attention_backend={name} cannot be used for training here: {error}") from error


def compile_networks(options: RunOptions, *networks: torch.nn.Module) -> None:
    """Compiles networks in place with the backend in the options; the weights keep their names and values.

    Of a network with repeated blocks, only these are compiled: once for all of them, in seconds instead of minutes.
    """
    if options.compile_backend is None:
        return
    for network in networks:
        method = "compile_repeated_blocks" if hasattr(network, "_repeated_blocks") else "compile"
        getattr(network, method)(backend=options.compile_backend)
