"""Settings that make training fast on GPUs, with no or almost no effect on the result."""

import torch

from stable_longform.training_utils.run_options import RunOptions


def set_kernels(options: RunOptions) -> None:
    """Sets the precision and the choice of kernels for matrix products and convolutions on GPUs."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.allow_tf32
    torch.backends.cudnn.benchmark = options.cudnn_benchmark


def is_fused(options: RunOptions, device: torch.device) -> bool | None:
    """The `fused` argument of Adam: True on GPUs if the options say so, otherwise None, torch's own choice."""
    return True if options.fused_optimizer and device.type == "cuda" else None


def compile_networks(options: RunOptions, *networks: torch.nn.Module) -> None:
    """Compiles networks in place with the backend in the options; the weights keep their names and values.

    Of a network with repeated blocks, only these are compiled: once for all of them, in seconds instead of minutes.

    Raises:
        ValueError: torch does not have the backend.
    """
    if options.compile_backend is None:
        return
    known = torch.compiler.list_backends(exclude_tags=())
    if options.compile_backend not in known:
        names = ", ".join(known)
        raise ValueError(f"compile_backend must be null or one of {names}, got {options.compile_backend!r}.")
    for network in networks:
        method = "compile_repeated_blocks" if hasattr(network, "_repeated_blocks") else "compile"
        getattr(network, method)(backend=options.compile_backend)
