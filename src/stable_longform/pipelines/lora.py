"""LoRA adapters of the transformer, for `load_lora_weights` and its relatives.

Formats: diffusers' `pytorch_lora_weights.safetensors`, written by `save_lora_weights` or by a model's
`save_lora_adapter`, and the folder that peft's `save_pretrained` writes.

Reference: Hu et al., "LoRA: Low-rank adaptation of large language models", arXiv 2106.09685.
"""

import json
import os
import re
from pathlib import Path

import torch
from diffusers.loaders.lora_pipeline import CogVideoXLoraLoaderMixin

PEFT_CONFIG, PEFT_WEIGHTS, PEFT_PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."


class LongFormMusicLoraLoaderMixin(CogVideoXLoraLoaderMixin):
    """Loads, scales, fuses, unloads and saves LoRA adapters of `pipe.transformer`.

    diffusers has a mixin for each of its models; that of CogVideoX is the one whose keys need no conversion.
    """

    @classmethod
    def lora_state_dict(cls, pretrained_model_name_or_path_or_dict, **kwargs):
        """Reads an adapter; its keys come back with the prefix "transformer.".

        Args:
            pretrained_model_name_or_path_or_dict: a folder, a file, a Hub id, or the state dict itself.
            kwargs: as in diffusers. A pickled file is read only with `use_safetensors=False`.

        Returns:
            The state dict, or with `return_lora_metadata=True` the state dict and the adapter's configuration or None.

        Raises:
            ValueError: weights written by peft without their `adapter_config.json`, which holds their scale.
        """
        source, wants_metadata = pretrained_model_name_or_path_or_dict, kwargs.pop("return_lora_metadata", False)
        peft_config = None if isinstance(source, dict) else _read_peft_config(source)
        if peft_config is not None and Path(source).is_dir():
            kwargs = {"weight_name": PEFT_WEIGHTS, **kwargs}
        kwargs = {"use_safetensors": True, **kwargs, "return_lora_metadata": True}
        state_dict, metadata = super().lora_state_dict(source, **kwargs)
        is_of_peft = any(key.startswith(PEFT_PREFIX) for key in state_dict)
        if is_of_peft:
            metadata = peft_config or metadata
            if metadata is None:
                raise ValueError(f"{source} was written by peft, but there is no {PEFT_CONFIG} beside it.")
        prefix = f"{cls.transformer_name}."
        if is_of_peft or not any(key.startswith(prefix) for key in state_dict):
            state_dict = {prefix + key.removeprefix(PEFT_PREFIX): tensor for key, tensor in state_dict.items()}
            metadata = {prefix + key: value for key, value in (metadata or {}).items()} or None
        return (state_dict, metadata) if wants_metadata else state_dict

    @classmethod
    def load_lora_into_transformer(cls, state_dict: dict, transformer: torch.nn.Module, **kwargs) -> None:
        """Adds an adapter to the transformer; arguments as in diffusers.

        Raises:
            ValueError: the adapter is of another model, or the transformer's projections are fused.
        """
        if any(getattr(module, "fused_projections", False) for module in transformer.modules()):
            raise ValueError("An adapter would not reach fused projections: call unfuse_qkv_projections() before.")
        known = {name for name, _ in transformer.named_modules()}
        targets = {re.split(r"\.lora[._]", key.removeprefix(f"{cls.transformer_name}."))[0] for key in state_dict}
        unknown = sorted(targets - known)
        if unknown:
            raise ValueError(f"The adapter is not one of this transformer, which has no {', '.join(unknown[:5])}.")
        super().load_lora_into_transformer(state_dict, transformer=transformer, **kwargs)


def _read_peft_config(source: str | os.PathLike) -> dict | None:
    """The configuration that peft wrote into the folder of an adapter, or beside its file."""
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    file = folder / PEFT_CONFIG
    return json.loads(file.read_text(encoding="utf-8")) if Path(source).exists() and file.is_file() else None
