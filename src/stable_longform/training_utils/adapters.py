"""LoRA adapters of the transformer in training: adding, checkpointing and saving them.

Reference: Hu et al., "LoRA: Low-rank adaptation of large language models", arXiv 2106.09685.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.loaders.lora_pipeline import CogVideoXLoraLoaderMixin
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict

from stable_longform.models.transformer_dit_1d import DiTTransformer1D
from stable_longform.utils.files import atomic_path

WEIGHT_NAME = "pytorch_lora_weights.safetensors"


class AdapterState:
    """The part of the model in a checkpoint: the adapter, without the frozen weights."""

    def __init__(self, transformer: torch.nn.Module):
        self.transformer = transformer

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The adapter's weights."""
        return get_peft_model_state_dict(self.transformer)

    def load_state_dict(self, state_dict: dict[str, torch.Tensor]) -> None:
        """Loads the adapter's weights."""
        set_peft_model_state_dict(self.transformer, state_dict)


def checkpoint_adapter_only(accelerator: Accelerator, transformer: torch.nn.Module) -> None:
    """Makes checkpoints hold the adapter instead of the whole model."""
    accelerator.register_for_checkpointing(AdapterState(transformer))
    accelerator.register_save_state_pre_hook(lambda models, weights, folder: weights.clear())
    accelerator.register_load_state_pre_hook(lambda models, folder: models.clear())


def add_adapter(transformer: DiTTransformer1D, rank: int, alpha: float, target_modules: Sequence[str]) -> None:
    """Adds a new adapter, which at first changes nothing; only its weights are trained, in float32.

    Args:
        transformer: with frozen weights.
        rank: of the matrices, at least 1.
        alpha: the adapter is scaled by `alpha / rank`.
        target_modules: the linear layers that get an adapter, by the ends of their names.

    Raises:
        ValueError: `rank` is below 1, or the transformer does not have one of the target modules.
    """
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}.")
    check_target_modules(transformer, target_modules)
    transformer.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(target_modules)))


def check_target_modules(transformer: DiTTransformer1D, target_modules: Sequence[str]) -> None:
    """Raises a ValueError unless the transformer has a linear layer for each of these ends of names."""
    names = [name for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)]
    for target in target_modules:
        if not any(f".{name}".endswith(f".{target}") for name in names):
            raise ValueError(f"target_modules: the transformer has no linear layer whose name ends in {target!r}.")


def save_adapter(transformer: DiTTransformer1D, directory: Path, dtype: torch.dtype = torch.float32) -> None:
    """Writes the adapter, in this precision, and its configuration for `load_lora_weights`, atomically."""
    with atomic_path(directory / WEIGHT_NAME) as temporary:
        CogVideoXLoraLoaderMixin.save_lora_weights(  # our pipelines inherit this mixin
            directory,
            {name: tensor.to(dtype) for name, tensor in get_peft_model_state_dict(transformer).items()},
            weight_name=temporary.name,
            transformer_lora_adapter_metadata=transformer.peft_config["default"].to_dict(),
        )
