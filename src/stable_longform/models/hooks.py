"""Detects hooks on modules: offloading, device maps, casting, caches, the user's own."""

from torch import nn

LIBRARY_HOOKS = {"_hf_hook", "_diffusers_hook"}  # attributes by which accelerate and diffusers replace `forward`


def has_hooks(module: nn.Module) -> bool:
    """Whether `module` or any module in it has hooks."""
    return any(
        part._forward_hooks or part._forward_pre_hooks or LIBRARY_HOOKS & vars(part).keys()
        for part in module.modules()
    )
