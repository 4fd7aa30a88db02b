"""Weights of stable-audio-tools to ours and back.

Contents: `from_stable_audio_tools` and `autoencoder_from_stable_audio_tools`; `to_stable_audio_tools` and
`autoencoder_to_stable_audio_tools`. Text encoders are not in these checkpoints. Where each tensor goes is said in
`utils/key_maps.py`.
"""

from collections.abc import Mapping

import torch

from stable_longform.convert.model_config import TIMING_IDS, ModelConfig
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.timing_conditioner import TimingConditioner
from stable_longform.models.transformer_dit_1d import DiTTransformer1D
from stable_longform.utils import key_maps

# What stands before a component's keys in a checkpoint of a diffusion model.
VAE_PREFIX = "pretransform.model."
TRANSFORMER_PREFIX = "model.model."
CONDITIONER_PREFIX = "conditioner.conditioners."


def from_stable_audio_tools(
    state_dict: Mapping[str, torch.Tensor], config: ModelConfig
) -> dict[str, AutoencoderOobleck | DiTTransformer1D | TimingConditioner]:
    """Builds "vae", "transformer" and "timing_conditioner" from the checkpoint of a diffusion model.

    Args:
        state_dict: as exported, see `checkpoints.unwrap_training`.
        config: its configuration.

    Raises:
        ValueError: listing every key that is missing, unknown or has another shape.
    """
    with torch.device("meta"):
        models = {
            "vae": AutoencoderOobleck(**config.autoencoder),
            "transformer": DiTTransformer1D(**config.transformer),
            "timing_conditioner": TimingConditioner(**config.timing),
        }
    rules = component_rules(**models, text_id=config.text["id"])
    constants = _transformer_constants(models["transformer"])
    return _load(state_dict, models, rules, constants)


def autoencoder_from_stable_audio_tools(
    state_dict: Mapping[str, torch.Tensor], config: ModelConfig
) -> AutoencoderOobleck:
    """Builds the autoencoder from its own checkpoint, or from that of a diffusion model, whose other keys are left.

    Raises:
        ValueError: listing every key that is missing, unknown or has another shape.
    """
    if any(key.startswith(VAE_PREFIX) for key in state_dict):
        state_dict = {
            key.removeprefix(VAE_PREFIX): tensor for key, tensor in state_dict.items() if key.startswith(VAE_PREFIX)
        }
    with torch.device("meta"):
        model = AutoencoderOobleck(**config.autoencoder)
    rules = key_maps.autoencoder_rules(len(model.config.downsampling_ratios))
    return _load(state_dict, {"vae": model}, {"vae": rules}, {})["vae"]


def to_stable_audio_tools(
    vae: AutoencoderOobleck,
    transformer: DiTTransformer1D,
    timing_conditioner: TimingConditioner,
    text_id: str = "prompt",
) -> dict[str, torch.Tensor]:
    """The state dict of stable-audio-tools' diffusion model, tensor by tensor that from which ours came."""
    models = {"vae": vae, "transformer": transformer, "timing_conditioner": timing_conditioner}
    theirs = {}
    for name, rules in component_rules(**models, text_id=text_id).items():
        theirs |= key_maps.to_theirs(rules, models[name].state_dict())
    return theirs | _transformer_constants(transformer)


def autoencoder_to_stable_audio_tools(vae: AutoencoderOobleck) -> dict[str, torch.Tensor]:
    """The state dict of stable-audio-tools' autoencoder alone."""
    return key_maps.to_theirs(key_maps.autoencoder_rules(len(vae.config.downsampling_ratios)), vae.state_dict())


def component_rules(
    vae: AutoencoderOobleck, transformer: DiTTransformer1D, timing_conditioner: TimingConditioner, text_id: str
) -> dict[str, list[key_maps.Rule]]:
    """The rules of each component, with the prefixes of a diffusion model's checkpoint."""
    config = transformer.config
    numbers = {ours: theirs for theirs, ours in TIMING_IDS.items() if getattr(timing_conditioner, ours) is not None}
    text_id = text_id if timing_conditioner.text_projection is not None else None
    return {
        "vae": key_maps.autoencoder_rules(len(vae.config.downsampling_ratios), VAE_PREFIX),
        "transformer": key_maps.transformer_rules(config.num_layers, config.norm_bias, TRANSFORMER_PREFIX),
        "timing_conditioner": key_maps.timing_rules(numbers, text_id, CONDITIONER_PREFIX),
    }


def _transformer_constants(transformer: DiTTransformer1D) -> dict[str, torch.Tensor]:
    """Tensors of their transformer that hold nothing learned."""
    config = transformer.config
    inner_dim = config.num_attention_heads * config.attention_head_dim
    return key_maps.transformer_constants(
        config.num_layers, inner_dim, config.attention_head_dim, config.norm_bias, TRANSFORMER_PREFIX
    )


def _load(
    state_dict: Mapping[str, torch.Tensor],
    models: Mapping[str, torch.nn.Module],
    rules: Mapping[str, list[key_maps.Rule]],
    constants: Mapping[str, torch.Tensor],
) -> dict[str, torch.nn.Module]:
    """Gives the models, which are on the meta device, their weights in the checkpoint's precision."""
    known = {rule.theirs for component in rules.values() for rule in component} | set(constants)
    problems = [f"unknown {key}" for key in state_dict if key not in known]
    problems += key_maps.check_constants(constants, state_dict)
    for name, model in models.items():
        shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
        weights, found = key_maps.to_ours(rules[name], state_dict, shapes)
        problems += found
        if not found:
            model.load_state_dict(weights, assign=True)
            model.eval()
    if problems:
        raise ValueError(f"{len(problems)} keys do not fit the configuration: {'; '.join(problems)}.")
    return dict(models)
