"""What makes a training fast on GPUs and changes nothing, or next to nothing, in what it learns."""

import torch

from stable_longform.training_utils.run_options import RunOptions


def set_kernels(options: RunOptions) -> None:
    """Sets what torch's matrix products and convolutions on GPUs may do; CPUs do not ask."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.allow_tf32
    torch.backends.cudnn.benchmark = options.cudnn_benchmark


def is_fused(options: RunOptions, device: torch.device) -> bool | None:
    """What to give Adam as `fused`: True on GPUs if the options say so; else None, which is torch's own choice."""
    return True if options.fused_optimizer and device.type == "cuda" else None


def compile_networks(options: RunOptions, *networks: torch.nn.Module) -> None:
    """Compiles networks in place with the backend that the options name; names and values of weights stay.

    Raises:
        ValueError: a backend that torch does not have.
    """
    if options.compile_backend is None:
        return
    known = torch.compiler.list_backends(exclude_tags=())
    if options.compile_backend not in known:
        names = ", ".join(known)
        raise ValueError(f"compile_backend must be null or one of {names}, got {options.compile_backend!r}.")
    for network in networks:
        network.compile(backend=options.compile_backend)
