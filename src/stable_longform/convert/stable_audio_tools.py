"""Converts weights of stable-audio-tools to ours and back.

Contents: `from_stable_audio_tools` and `autoencoder_from_stable_audio_tools`; `to_stable_audio_tools` and
`autoencoder_to_stable_audio_tools`. Text encoders are not in these checkpoints. The names of the tensors are mapped in
`models/stable_audio_tools_keys.py`.
"""

from collections.abc import Mapping

import torch

from stable_longform.convert.model_config import DiffusionModelConfig, ModelConfig
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.stable_audio_tools_keys import (
    AUTOENCODER_PREFIX,
    CONDITIONER_PREFIX,
    TRANSFORMER_PREFIX,
    autoencoder_keys,
    timing_keys,
    transformer_keys,
)
from stable_longform.models.timing_conditioner import TimingConditioner
from stable_longform.models.transformer_dit_1d import DiTTransformer1D
from stable_longform.utils.key_maps import KeyMap, to_ours, to_theirs, unknown_keys


def from_stable_audio_tools(
    state_dict: Mapping[str, torch.Tensor], config: DiffusionModelConfig
) -> dict[str, torch.nn.Module]:
    """Builds "vae", "transformer" and "timing_conditioner" from the checkpoint of a diffusion model.

    Args:
        state_dict: as exported, see `state_dict_files.unwrap_training`.
        config: its configuration.

    Raises:
        ValueError: listing every key that is missing, unknown or has another shape.
    """
    with torch.device("meta"):
        vae = AutoencoderOobleck(**config.autoencoder)
        transformer = DiTTransformer1D(**config.transformer)
        timing_conditioner = TimingConditioner(**config.timing)
    models: dict[str, torch.nn.Module] = {
        "vae": vae,
        "transformer": transformer,
        "timing_conditioner": timing_conditioner,
    }
    _load(state_dict, models, component_keys(vae, transformer, timing_conditioner, config.text["id"]))
    return models


def autoencoder_from_stable_audio_tools(
    state_dict: Mapping[str, torch.Tensor], config: ModelConfig
) -> AutoencoderOobleck:
    """Builds the autoencoder from its own checkpoint, or from a diffusion model's, whose other keys are ignored.

    Raises:
        ValueError: listing every key that is missing, unknown or has another shape.
    """
    if any(key.startswith(AUTOENCODER_PREFIX) for key in state_dict):
        state_dict = {
            key.removeprefix(AUTOENCODER_PREFIX): tensor
            for key, tensor in state_dict.items()
            if key.startswith(AUTOENCODER_PREFIX)
        }
    with torch.device("meta"):
        model = AutoencoderOobleck(**config.autoencoder)
    _load(state_dict, {"vae": model}, {"vae": autoencoder_keys(model.config)})
    return model


def to_stable_audio_tools(
    vae: AutoencoderOobleck,
    transformer: DiTTransformer1D,
    timing_conditioner: TimingConditioner,
    text_id: str = "prompt",
) -> dict[str, torch.Tensor]:
    """The state dict of stable-audio-tools' diffusion model: the inverse of `from_stable_audio_tools`."""
    models: dict[str, torch.nn.Module] = {
        "vae": vae,
        "transformer": transformer,
        "timing_conditioner": timing_conditioner,
    }
    theirs: dict[str, torch.Tensor] = {}
    for name, key_map in component_keys(vae, transformer, timing_conditioner, text_id).items():
        theirs |= to_theirs(key_map, models[name].state_dict())
    return theirs


def autoencoder_to_stable_audio_tools(vae: AutoencoderOobleck) -> dict[str, torch.Tensor]:
    """The state dict of stable-audio-tools' autoencoder alone."""
    return to_theirs(autoencoder_keys(vae.config), vae.state_dict())


def component_keys(
    vae: AutoencoderOobleck, transformer: DiTTransformer1D, timing_conditioner: TimingConditioner, text_id: str
) -> dict[str, KeyMap]:
    """The keys of each component in a diffusion model's checkpoint."""
    return {
        "vae": autoencoder_keys(vae.config, AUTOENCODER_PREFIX),
        "transformer": transformer_keys(transformer.config, TRANSFORMER_PREFIX),
        "timing_conditioner": timing_keys(timing_conditioner.config, text_id, CONDITIONER_PREFIX),
    }


def _load(
    state_dict: Mapping[str, torch.Tensor], models: Mapping[str, torch.nn.Module], key_maps: Mapping[str, KeyMap]
) -> None:
    """Loads weights, in the checkpoint's precision, into models on the meta device."""
    problems = unknown_keys(state_dict, *key_maps.values())
    for name, model in models.items():
        shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
        weights, found = to_ours(key_maps[name], state_dict, shapes)
        problems += found
        if not found:
            model.load_state_dict(weights, assign=True)
            model.eval()
    if problems:
        raise ValueError(f"{len(problems)} keys do not fit the configuration: {'; '.join(problems)}.")
