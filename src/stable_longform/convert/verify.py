"""Compares our components with those of the other tool on the same random inputs.

Each function returns the largest difference for each component, relative to the largest value of the other tool's
result. In float32 it is about 1e-6.
"""

import copy
import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import StableAudioPipeline
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from transformers import ClapModel, RobertaConfig, RobertaModel

from stable_longform.convert.laion_clap import TEXT_BRANCH
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.stable_audio_tools_keys import CONDITIONER_PREFIX
from stable_longform.models.timing_conditioner import TimingConditioner
from stable_longform.models.transformer_dit_1d import DiTTransformer1D
from stable_longform.pipelines.guidance import guide
from stable_longform.pipelines.pipeline_longform_music import LongFormMusicPipeline

TIMES = (0.05, 0.5, 0.95)
GUIDANCE_SCALE = 7.0
NUM_FRAMES, NUM_TEXT_TOKENS = 24, 9
SECONDS_START, SECONDS_TOTAL = (0.0, 0.11), (0.83, 0.4)  # relative to the largest value


def check_stable_audio_tools() -> None:
    """Raises a ValueError unless stable-audio-tools is installed."""
    if importlib.util.find_spec("stable_audio_tools") is None:
        raise ValueError("Verifying needs stable-audio-tools, which is not installed.")


def relative_difference(result: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest absolute difference over the largest absolute expected value."""
    return float((result.double() - expected.double()).abs().max() / expected.double().abs().max())


@torch.no_grad()
def against_stable_audio_tools(
    vae: AutoencoderOobleck,
    transformer: DiTTransformer1D,
    timing_conditioner: TimingConditioner,
    state_dict: Mapping[str, torch.Tensor],
    config: Mapping,
) -> dict[str, float]:
    """Compares with stable-audio-tools' model, without the text encoder, which is not in its checkpoints.

    Args:
        vae: ours.
        transformer: ours.
        timing_conditioner: ours.
        state_dict: theirs, as exported.
        config: their `model_config.json`.

    Raises:
        ValueError: stable-audio-tools is not installed, or its model rejects the state dict.
    """
    config = copy.deepcopy(dict(config))
    conditioners = config["model"]["conditioning"]["configs"]
    numbers = [entry for entry in conditioners if entry["type"] == "number"]
    text_id = next(entry["id"] for entry in conditioners if entry["type"] != "number")
    config["model"]["conditioning"]["configs"] = numbers
    text_prefix = f"{CONDITIONER_PREFIX}{text_id}."
    theirs = _stable_audio_tools_model(
        config, {key: tensor.float() for key, tensor in state_dict.items() if not key.startswith(text_prefix)}
    )
    ours = {name: component.float() for name, component in (("vae", vae), ("transformer", transformer))}
    results = _compare_autoencoders(ours["vae"], theirs.pretransform.model)

    latest = timing_conditioner.config.max_value
    seconds = {"seconds_start": SECONDS_START, "seconds_total": SECONDS_TOTAL}
    names = [entry["id"] for entry in numbers]
    metadata = [{name: seconds[name][i] * latest for name in names} for i in range(2)]
    conditions = theirs.conditioner(metadata, "cpu")
    start, total = ([item.get(name, 0.0) for item in metadata] for name in seconds)
    timing = timing_conditioner.float()(torch.tensor(start), torch.tensor(total))
    expected = torch.cat([conditions[name][0] for name in theirs.global_cond_ids], dim=1)
    results["timing_conditioner"] = relative_difference(timing.encoder_hidden_states, expected)

    generator = torch.Generator().manual_seed(0)
    latents, text = _random_inputs(ours["transformer"], generator)
    inputs = theirs.get_conditioning_inputs(conditions | {text_id: [text, torch.ones(text.shape[:2])]})
    tokens = torch.cat([text, timing.encoder_hidden_states], dim=1)
    differences: dict[str, list[float]] = {"transformer": [], "transformer, guided": []}
    for value in TIMES:
        t = torch.full((2,), value)
        conditional = ours["transformer"](latents, t, tokens, timing.global_hidden_states).sample
        null = ours["transformer"](latents, t, torch.zeros_like(tokens), timing.global_hidden_states).sample
        guided = guide(null, conditional, GUIDANCE_SCALE)
        expected = theirs.model(latents, t, **inputs)
        differences["transformer"].append(relative_difference(conditional, expected))
        expected = theirs.model(latents, t, **inputs, cfg_scale=GUIDANCE_SCALE)
        differences["transformer, guided"].append(relative_difference(guided, expected))
    return results | {name: max(values) for name, values in differences.items()}


@torch.no_grad()
def autoencoder_against_stable_audio_tools(
    vae: AutoencoderOobleck, state_dict: Mapping[str, torch.Tensor], config: Mapping
) -> dict[str, float]:
    """Compares with stable-audio-tools' autoencoder; arguments and errors as in `against_stable_audio_tools`."""
    weights = {key: tensor.float() for key, tensor in state_dict.items()}
    return _compare_autoencoders(vae.float(), _stable_audio_tools_model(config, weights))


@torch.no_grad()
def against_stable_audio_pipeline(pipe: LongFormMusicPipeline, theirs: StableAudioPipeline) -> dict[str, float]:
    """Compares with diffusers' components."""
    generator = torch.Generator().manual_seed(0)
    hop_length, channels = pipe.vae.hop_length, pipe.vae.config.audio_channels
    waveform = torch.randn(2, channels, NUM_FRAMES * hop_length, generator=generator) * 0.3
    waveform = waveform.to(pipe.vae.dtype)
    latents, text = _random_inputs(pipe.transformer, generator)
    results = {
        "vae, encoded": relative_difference(
            pipe.vae.encode(waveform).latent_dist.mean, theirs.vae.encode(waveform).latent_dist.mean
        ),
        "vae, decoded": relative_difference(
            pipe.vae.decode(latents.to(pipe.vae.dtype)).sample, theirs.vae.decode(latents.to(pipe.vae.dtype)).sample
        ),
    }
    latest = pipe.timing_conditioner.config.max_value
    start, total = (torch.tensor(seconds) * latest for seconds in (SECONDS_START, SECONDS_TOTAL))
    timing = pipe.timing_conditioner(start, total)
    projected = theirs.projection_model(None, start, total)
    expected = torch.cat([projected.seconds_start_hidden_states, projected.seconds_end_hidden_states], dim=1)
    results["timing_conditioner"] = relative_difference(timing.encoder_hidden_states, expected)

    ids = torch.arange(2 * NUM_TEXT_TOKENS).reshape(2, -1) % pipe.text_encoder.config.vocab_size
    features, expected = (encoder(ids).last_hidden_state for encoder in (pipe.text_encoder, theirs.text_encoder))
    results["text_encoder"] = relative_difference(
        pipe.timing_conditioner.project_text(features), theirs.projection_model(expected).text_hidden_states
    )

    dtype = pipe.transformer.dtype
    tokens = torch.cat([text, timing.encoder_hidden_states.float()], dim=1).to(dtype)
    rotary_dim = pipe.transformer.config.attention_head_dim // 2
    rotary = get_1d_rotary_pos_embed(rotary_dim, 1 + latents.shape[-1], use_real=True, repeat_interleave_real=False)
    differences = []
    for value in TIMES:
        arguments = (latents.to(dtype), torch.full((2,), value), tokens, timing.global_hidden_states.to(dtype))
        expected = theirs.transformer(*arguments, rotary_embedding=rotary).sample
        differences.append(relative_difference(pipe.transformer(*arguments).sample, expected))
    return results | {"transformer": max(differences)}


@torch.no_grad()
def against_laion_clap(model: ClapModel, state_dict: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Compares with RoBERTa, LAION-CLAP's text branch, with the checkpoint's weights."""
    prefix = "module." if any(key.startswith("module.") for key in state_dict) else ""
    weights = {key.removeprefix(prefix + TEXT_BRANCH): tensor for key, tensor in state_dict.items()}
    fields = ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"]
    fields += ["max_position_embeddings", "type_vocab_size", "layer_norm_eps"]
    config = model.config.text_config
    theirs = RobertaModel(RobertaConfig(**{name: getattr(config, name) for name in fields})).eval()
    theirs.load_state_dict({key: tensor for key, tensor in weights.items() if key in theirs.state_dict()})
    ids = torch.arange(2, 2 + 2 * NUM_TEXT_TOKENS).reshape(2, -1) % config.vocab_size
    mask = torch.ones_like(ids)
    mask[1, NUM_TEXT_TOKENS // 2 :] = 0
    result, expected = (
        tower(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-2]
        for tower in (model.text_model, theirs)
    )
    return {"text_model, next-to-last layer": relative_difference(result, expected)}


def _stable_audio_tools_model(config: Mapping, state_dict: Mapping[str, torch.Tensor]) -> Any:
    """Their model with these weights, in evaluation mode."""
    check_stable_audio_tools()
    from stable_audio_tools.models.factory import create_model_from_config

    model = create_model_from_config(config)
    try:
        model.load_state_dict(state_dict)
    except RuntimeError as error:
        raise ValueError(f"stable-audio-tools does not accept the checkpoint: {error}") from error
    return model.eval()


def _compare_autoencoders(vae: AutoencoderOobleck, theirs: Any) -> dict[str, float]:
    """Compares the posteriors' means for random noise, and the waveforms for random latents."""
    generator = torch.Generator().manual_seed(0)
    waveform = torch.randn(2, vae.config.audio_channels, NUM_FRAMES * vae.hop_length, generator=generator) * 0.3
    latents = torch.randn(2, vae.config.decoder_input_channels, NUM_FRAMES, generator=generator)
    mean = theirs.encoder(waveform).chunk(2, dim=1)[0]
    return {
        "vae, encoded": relative_difference(vae.encode(waveform).latent_dist.mean, mean),
        "vae, decoded": relative_difference(vae.decode(latents).sample, theirs.decode(latents)),
    }


def _random_inputs(transformer: DiTTransformer1D, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents and text features for a batch of two."""
    config = transformer.config
    length = min(NUM_FRAMES * config.patch_size, config.sample_size)
    latents = torch.randn(2, config.in_channels, length, generator=generator)
    return latents, torch.randn(2, NUM_TEXT_TOKENS, config.cross_attention_input_dim, generator=generator)
