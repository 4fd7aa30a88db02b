"""Opens a model from one safetensors file.

diffusers' own `from_single_file` only knows its own models, and it accepts missing weights.
"""

import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from stable_longform.utils.key_maps import KeyMap, Rule, to_ours, unknown_keys
from stable_longform.utils.text_files import list_some


class SingleFileMixin:
    """Adds the class method `from_single_file` to a diffusers model.

    The class has the attributes `stable_audio_tools_keys`, the function of `stable_audio_tools_keys.py` that maps the
    key names, and `stable_audio_tools_prefix`, the prefix of the model's keys in the checkpoint of a whole model.
    """

    stable_audio_tools_prefix: str
    stable_audio_tools_keys: Callable[[Mapping, str], KeyMap]
    config: Any  # this and the following are the model's
    load_config: Callable
    from_config: Callable
    state_dict: Callable

    @classmethod
    def from_single_file(
        cls,
        pretrained_model_link_or_path_or_dict: str | os.PathLike | Mapping[str, torch.Tensor],
        config: str | os.PathLike | Mapping | None = None,
        subfolder: str | None = None,
        torch_dtype: torch.dtype = torch.float32,
        **arguments,
    ):
        """Opens weights with the key names of this class, which are diffusers', or with those of stable-audio-tools.

        Args:
            pretrained_model_link_or_path_or_dict: a local safetensors file, or the state dict itself. If it holds a
                whole model of stable-audio-tools, only this component is taken from it. For training checkpoints and
                other files use `stable-longform convert`.
            config: location of `config.json` (a folder, a Hub id or the file itself), or its content. diffusers'
                configurations are accepted. None: the defaults of the class.
            subfolder: of `config`.
            torch_dtype: of the model.
            arguments: constructor arguments; they override those of `config`.

        Returns:
            The model, in evaluation mode.

        Raises:
            ValueError: the file is not a safetensors file, an argument is unknown, or the weights don't fit the
                configuration: keys are missing or unknown, or shapes differ.
        """
        source = pretrained_model_link_or_path_or_dict
        state_dict = dict(source) if isinstance(source, Mapping) else _read(Path(source))
        unknown = sorted(set(arguments) - set(inspect.signature(cls).parameters))
        if unknown:
            raise ValueError(f"{cls.__name__} has no argument {', '.join(unknown)}.")
        if config is not None and not isinstance(config, Mapping):
            config = cast(Mapping, cls.load_config(config, subfolder=subfolder))
        full_config = {**(config or {}), **arguments}
        full_config.pop("_use_default_values", None)  # diffusers' list of arguments that had their defaults
        with torch.device("meta"):  # the weights come from the file, so none are initialised
            model = cls.from_config(full_config)
        state_dict, problems = _to_ours(model, state_dict)
        if problems:
            raise ValueError(f"The weights don't fit this {cls.__name__}: {list_some(problems)}.")
        copies = {key: tensor.to(torch_dtype, copy=True) for key, tensor in state_dict.items()}
        model.load_state_dict(copies, assign=True)
        return model.eval()


def _read(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file."""
    if path.suffix != ".safetensors":
        raise ValueError(f"from_single_file opens .safetensors files, got {path.name}.")
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error


def _to_ours(model: SingleFileMixin, state_dict: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Returns the weights under our keys, and a description of each weight that doesn't fit the model."""
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
    key_map, prefix = KeyMap([Rule(key, (key,)) for key in shapes], {}), ""
    for candidate in ("", model.stable_audio_tools_prefix):
        candidate_map = model.stable_audio_tools_keys(model.config, candidate)
        if candidate_map.rules[0].theirs in state_dict:
            key_map, prefix = candidate_map, candidate
    theirs = {key: tensor for key, tensor in state_dict.items() if key.startswith(prefix)}
    ours, problems = to_ours(key_map, theirs, shapes)
    return ours, problems + unknown_keys(theirs, key_map)
