"""LoRA adapters of the transformer, for `load_lora_weights` and its relatives.

Formats: diffusers' `pytorch_lora_weights.safetensors`, written by `save_lora_weights` or by a model's
`save_lora_adapter`, and the folder that peft's `save_pretrained` writes. The matrices may also be called `lora_down`
and `lora_up`, with the scale of each module under `.alpha`, as in the files of other trainers.

Reference: Hu et al., "LoRA: Low-rank adaptation of large language models", arXiv 2106.09685.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from diffusers.loaders.lora_pipeline import CogVideoXLoraLoaderMixin
from safetensors import SafetensorError

# Other names of the two matrices, B A x.
MATRIX_NAMES = {re.compile(r"\.lora[._]down\."): ".lora_A.", re.compile(r"\.lora[._]up\."): ".lora_B."}
PEFT_CONFIG, PEFT_WEIGHTS, PEFT_PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."


class LongFormMusicLoraLoaderMixin(CogVideoXLoraLoaderMixin):
    """Loads, scales, fuses, unloads and saves LoRA adapters of `pipe.transformer`.

    diffusers has a mixin for each of its models; CogVideoX's is the one whose keys need no conversion.
    """

    _scales_before_fusing: dict[str, dict[str, float]] = {}  # layer -> adapter -> scale
    _adapters_lost_in_weights: frozenset[str] = frozenset()  # unloaded while they were fused

    @classmethod
    def lora_state_dict(cls, pretrained_model_name_or_path_or_dict, **kwargs):
        """Reads an adapter; its keys come back with the prefix "transformer.".

        Args:
            pretrained_model_name_or_path_or_dict: a folder, a file, a Hub id, or the state dict itself.
            kwargs: as in diffusers. A pickled file is read only with `use_safetensors=False`.

        Returns:
            The state dict, or with `return_lora_metadata=True` the state dict and the adapter's configuration or None.

        Raises:
            ValueError: the file is not a safetensors file or has no adapter weights; `adapter_config.json`, which
                holds the scale of weights written by peft, is missing; or weights have two scales.
        """
        source, wants_metadata = pretrained_model_name_or_path_or_dict, kwargs.pop("return_lora_metadata", False)
        peft_config = None if isinstance(source, dict) else _read_peft_config(source)
        if peft_config is not None and Path(source).is_dir():
            kwargs = {"weight_name": PEFT_WEIGHTS, **kwargs}
        kwargs = {"use_safetensors": True, **kwargs, "return_lora_metadata": True}
        if "weight_name" not in kwargs and not isinstance(source, dict):
            _check_single(Path(source))
        try:
            state_dict, metadata = super().lora_state_dict(source, **kwargs)
        except SafetensorError as error:
            raise ValueError(f"{source} cannot be read as safetensors: {error}.") from error
        if not (metadata is None or isinstance(metadata, dict)):
            raise ValueError(f"{source}: its metadata must be an object, got {type(metadata).__name__}.")
        if not state_dict:
            raise ValueError(f"The adapter is empty: {source} holds no tensors.")
        is_of_peft = any(key.startswith(PEFT_PREFIX) for key in state_dict)
        if is_of_peft:
            metadata = peft_config or metadata
            if metadata is None:
                raise ValueError(f"{source} was written by peft, but there is no {PEFT_CONFIG} beside it.")
        state_dict = _rename_matrices(state_dict)
        if any(key.endswith(".alpha") for key in state_dict):
            if metadata is not None:
                raise ValueError(f"{source} has two scales: `.alpha` of its modules, and that of its metadata.")
            state_dict = _apply_alphas(state_dict)
        prefix = f"{cls.transformer_name}."
        if is_of_peft or not any(key.startswith(prefix) for key in state_dict):
            state_dict = {prefix + key.removeprefix(PEFT_PREFIX): tensor for key, tensor in state_dict.items()}
            metadata = {prefix + key: value for key, value in (metadata or {}).items()} or None
        return (state_dict, metadata) if wants_metadata else state_dict

    @classmethod
    def load_lora_into_transformer(cls, state_dict: dict, transformer: torch.nn.Module, **kwargs) -> None:
        """Adds an adapter to the transformer; arguments as in diffusers.

        Raises:
            ValueError: the adapter is incomplete or for another model, or the transformer's projections are fused.
        """
        if any(getattr(module, "fused_projections", False) for module in transformer.modules()):
            raise ValueError(
                "An adapter would have no effect on fused projections: call unfuse_qkv_projections() first."
            )
        _check_weights(state_dict, transformer, f"{cls.transformer_name}.")
        try:
            super().load_lora_into_transformer(state_dict, transformer=transformer, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except (KeyError, TypeError, RuntimeError) as error:  # peft's
            reason = " ".join(str(error).split())[:500]
            raise ValueError(
                f"The adapter's configuration cannot be used: {type(error).__name__}: {reason}"
            ) from error

    def fuse_lora(self, *args, **kwargs) -> None:
        """Adds the adapters to the weights; arguments as in diffusers."""
        before = self._scales_before_fusing
        scales = {name: dict(layer.scaling) | before.get(name, {}) for name, layer in self._adapter_layers()}
        super().fuse_lora(*args, **kwargs)
        self._scales_before_fusing = scales

    def unfuse_lora(self, *args, **kwargs) -> None:
        """Removes fused adapters from the weights; each gets back the scale that it had before it was fused.

        Raises:
            ValueError: an adapter was unloaded while it was fused. It stays in the weights; the others are removed.
        """
        super().unfuse_lora(*args, **kwargs)
        for name, layer in self._adapter_layers():
            layer.scaling.update(self._scales_before_fusing.get(name, {}))
        self._scales_before_fusing = {}
        if self._adapters_lost_in_weights:
            names = ", ".join(sorted(self._adapters_lost_in_weights))
            raise ValueError(
                f"Adapters that were unloaded while they were fused cannot be removed from the weights: {names}. "
                "Load the model again, or call unfuse_lora before unload_lora_weights."
            )

    def unload_lora_weights(self) -> None:
        """Removes all adapters. Fused ones stay in the weights for good."""
        self._adapters_lost_in_weights = self._adapters_lost_in_weights | self._fused_adapters()
        super().unload_lora_weights()

    def delete_adapters(self, adapter_names: list[str] | str) -> None:
        """Removes adapters by name.

        Raises:
            ValueError: one of them is fused.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        self._refuse_if_fused("delete_adapters", set(names))
        super().delete_adapters(adapter_names)

    def set_adapters(self, adapter_names: list[str] | str, adapter_weights=None) -> None:
        """Selects and scales adapters; arguments as in diffusers.

        Raises:
            ValueError: an adapter is fused, so its scale in the weights would not change.
        """
        self._refuse_if_fused("set_adapters", self._fused_adapters())
        super().set_adapters(adapter_names, adapter_weights)

    def _adapter_layers(self) -> list[tuple[str, Any]]:
        """The transformer's layers with adapters, by name."""
        modules = [] if self.transformer is None else self.transformer.named_modules()
        return [(name, module) for name, module in modules if hasattr(module, "lora_A")]

    def _fused_adapters(self) -> frozenset[str]:
        """Names of the adapters that are in the weights and can be removed."""
        return frozenset(name for _, layer in self._adapter_layers() for name in layer.merged_adapters)

    def _refuse_if_fused(self, method: str, names: set[str] | frozenset[str]) -> None:
        """Raises a ValueError if one of these adapters is fused."""
        fused = sorted(names & self._fused_adapters())
        if fused:
            raise ValueError(
                f"{method} would not change the weights of {', '.join(fused)}, which are fused: call unfuse_lora()."
            )


def _rename_matrices(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The matrices under peft's names, `lora_A` and `lora_B`."""
    renamed = {}
    for key, tensor in state_dict.items():
        for pattern, name in MATRIX_NAMES.items():
            key = pattern.sub(name, key)
        renamed[key] = tensor
    return renamed


def _apply_alphas(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Multiplies each module's B by its alpha / r, so that the scale is 1."""
    alphas = {key.removesuffix(".alpha"): tensor for key, tensor in state_dict.items() if key.endswith(".alpha")}
    scaled = {key: tensor for key, tensor in state_dict.items() if not key.endswith(".alpha")}
    for module, alpha in alphas.items():
        up = f"{module}.lora_B.weight"
        if up not in scaled:
            raise ValueError(f"The adapter is incomplete: {module}.alpha has no {up}.")
        scaled[up] = scaled[up] * (alpha.item() / scaled[up].shape[1])
    return scaled


def _check_weights(state_dict: dict[str, torch.Tensor], transformer: torch.nn.Module, prefix: str) -> None:
    """Raises a ValueError unless every layer of the adapter has both matrices, finite and of the right size."""
    layers = dict(transformer.named_modules())
    keys = {key.removeprefix(prefix): tensor for key, tensor in state_dict.items()}
    unknown = sorted({re.split(r"\.lora[._]", key)[0] for key in keys} - layers.keys())
    if unknown:
        raise ValueError(f"The adapter is not one of this transformer, which has no {', '.join(unknown[:5])}.")
    for target in {key.split(".lora_")[0] for key in keys if re.search(r"\.lora_[AB]\.", key)}:
        names = f"{target}.lora_A.weight", f"{target}.lora_B.weight"
        missing = [name for name in names if name not in keys]
        if missing:
            raise ValueError(f"The adapter is incomplete: it has no {missing[0]}.")
        down, up = (keys[name] for name in names)
        layer, rank = layers[target], down.shape[0]
        if not isinstance(layer.get_base_layer() if hasattr(layer, "lora_A") else layer, torch.nn.Linear):
            raise ValueError(f"The adapter changes {target}, which is not a linear layer.")
        if rank == 0:
            raise ValueError(f"The adapter changes {target} by matrices of rank 0.")
        expected = (rank, layer.in_features), (layer.out_features, rank)
        for name, tensor, shape in zip(names, (down, up), expected, strict=True):
            if tensor.shape != shape:
                raise ValueError(f"{name} of the adapter must have shape {shape}, got {tuple(tensor.shape)}.")
            if not tensor.is_floating_point():
                raise ValueError(f"{name} of the adapter must hold floating-point numbers, got {tensor.dtype}.")
            if not tensor.isfinite().all():
                raise ValueError(f"{name} of the adapter is not finite.")


def _check_single(folder: Path) -> None:
    """Raises a ValueError for a folder of several files, of which diffusers would take the first."""
    names = sorted(file.name for file in folder.glob("*.safetensors")) if folder.is_dir() else []
    if len(names) > 1 and LORA_WEIGHT_NAME_SAFE not in names:
        raise ValueError(f"{folder} holds several adapters, {', '.join(names[:5])}: name the file of one.")


def _read_peft_config(source: str | os.PathLike) -> dict | None:
    """Reads the configuration that peft wrote into the folder of an adapter, or beside its file."""
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    file = folder / PEFT_CONFIG
    return json.loads(file.read_text(encoding="utf-8")) if Path(source).exists() and file.is_file() else None
