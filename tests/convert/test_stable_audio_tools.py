"""Weights of stable-audio-tools: what the real tool computed, ours computes, and back they are what they were."""

import pytest
import torch
from common import relative_error
from formula_weights import formula_tensor
from golden import CASES, golden, model_config, state_dict
from make_golden_stable_audio_tools import (
    GUIDANCE_RESCALE,
    GUIDANCE_SCALE,
    PING_PONG_SEED,
    PING_PONG_STEPS,
    TIMES,
)

from stable_longform.convert.commands import sampling_settings
from stable_longform.convert.model_config import read_model_config
from stable_longform.convert.stable_audio_tools import (
    autoencoder_from_stable_audio_tools,
    autoencoder_to_stable_audio_tools,
    from_stable_audio_tools,
    to_stable_audio_tools,
)
from stable_longform.pipelines.guidance import guide
from stable_longform.pipelines.pipeline_longform_music import LongFormMusicPipeline

TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=CASES)
def converted(request):
    """A case and the components converted from its checkpoint."""
    config = read_model_config(model_config(request.param))
    return request.param, from_stable_audio_tools(state_dict(request.param), config)


@torch.no_grad()
def test_autoencoder_agrees_with_the_real_tool(converted):
    case, components = converted
    expected, vae = golden(case), components["vae"]
    waveform = 0.3 * formula_tensor("waveform", (2, 2, 64 * 9))
    assert relative_error(vae.encode(waveform).latent_dist.mean, expected["mean"]) < TOLERANCE
    latents = formula_tensor("latents", (2, vae.config.decoder_input_channels, 26))
    assert relative_error(vae.decode(latents).sample, expected["waveform"]) < TOLERANCE


def embed_timing(timing_conditioner):
    start = [0.0, 31.5] if timing_conditioner.config.use_seconds_start else [0.0, 0.0]
    return timing_conditioner(
        torch.tensor(start), torch.tensor([min(285.0, timing_conditioner.config.max_value), 97.25])
    )


@torch.no_grad()
def test_timing_agrees_with_the_real_tool(converted):
    case, components = converted
    names = [name for name in ("seconds_start", "seconds_total") if name in golden(case)]
    timing = embed_timing(components["timing_conditioner"]).encoder_hidden_states
    assert timing.shape[1] == len(names)
    for i, name in enumerate(names):
        assert relative_error(timing[:, i : i + 1], golden(case)[name]) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("time", TIMES)
def test_velocity_agrees_with_the_real_tool(converted, time):
    case, components = converted
    transformer, timing = components["transformer"], embed_timing(components["timing_conditioner"])
    latents = formula_tensor("latents", (2, transformer.config.in_channels, 26))
    width = transformer.config.cross_attention_input_dim

    def velocity(text: torch.Tensor | None) -> torch.Tensor:
        texts = torch.zeros(2, 7, width) if text is None else text
        tokens = torch.cat([texts, timing.encoder_hidden_states], dim=1)
        tokens = torch.zeros_like(tokens) if text is None else tokens
        t = torch.full((2,), time)
        return transformer(latents, t, tokens, timing.global_hidden_states).sample

    prompt, negative = (formula_tensor(name, (2, 7, width)) for name in ("prompt", "negative"))
    conditional = velocity(prompt)
    assert relative_error(conditional, golden(case)[f"v.{time}"]) < TOLERANCE
    for name, text in (("guided", None), ("negative", negative)):
        guided = guide(velocity(text), conditional, GUIDANCE_SCALE, GUIDANCE_RESCALE)
        assert relative_error(guided, golden(case)[f"{name}.{time}"]) < TOLERANCE
        assert relative_error(conditional, golden(case)[f"{name}.{time}"]) > 0.05


def test_eight_steps_of_ping_pong_agree_with_the_real_tool():
    """The pipeline's own sampler, with their noise: torch's global generator draws what one of the same seed does."""
    case = "stable_audio_open_small"
    config = read_model_config(model_config(case))
    components = from_stable_audio_tools(state_dict(case), config)
    pipe = LongFormMusicPipeline(
        **components, text_encoder=None, tokenizer=None, **sampling_settings(config.objective)
    )
    pipe.set_progress_bar_config(disable=True)
    width = components["transformer"].config.cross_attention_input_dim
    latents = pipe(
        prompt_embeds=formula_tensor("prompt", (2, 7, width)),
        latents=formula_tensor("noise", (2, 6, 26)),
        duration=0.01,
        seconds_total=[256.0, 97.25],
        generator=torch.Generator().manual_seed(PING_PONG_SEED),
        output_type="latent",
    ).audios
    assert pipe.num_timesteps == PING_PONG_STEPS and pipe.guidance_scale == 1
    assert relative_error(latents, golden(case)["ping_pong"]) < TOLERANCE


def test_the_state_dict_comes_back_tensor_by_tensor(converted):
    case, components = converted
    expected, exported = state_dict(case), to_stable_audio_tools(**components)
    assert set(exported) == set(expected)
    for key, tensor in expected.items():
        assert exported[key].dtype == tensor.dtype and torch.equal(exported[key], tensor), key


@pytest.mark.parametrize("prefix", ["", "pretransform.model."])
def test_an_autoencoder_alone_has_a_prefix_or_none(prefix):
    case = CASES[0]
    config = read_model_config(model_config(case))
    full = state_dict(case)
    expected = from_stable_audio_tools(full, config)["vae"].state_dict()
    alone = {
        prefix + key.removeprefix("pretransform.model."): tensor
        for key, tensor in full.items()
        if key.startswith("pretransform.model.")
    }
    vae = autoencoder_from_stable_audio_tools(alone, config)
    assert all(torch.equal(tensor, expected[key]) for key, tensor in vae.state_dict().items())
    back = autoencoder_to_stable_audio_tools(vae)
    assert all(torch.equal(back[key.removeprefix(prefix)], tensor) for key, tensor in alone.items())


def test_every_key_that_does_not_fit_is_listed():
    weights = state_dict(CASES[0])
    del weights["model.model.to_timestep_embed.2.bias"]
    weights["model.model.transformer.memory_tokens"] = torch.zeros(4, 128)
    weights["pretransform.model.decoder.layers.4.alpha"] = torch.zeros(9)
    weights["model.model.transformer.layers.1.ff_norm.beta"] = torch.full((128,), 0.1)
    with pytest.raises(ValueError) as info:
        from_stable_audio_tools(weights, read_model_config(model_config(CASES[0])))
    message = str(info.value)
    assert message.startswith("4 keys do not fit the configuration: ")
    for problem in (
        "missing model.model.to_timestep_embed.2.bias",
        "unknown model.model.transformer.memory_tokens",
        "pretransform.model.decoder.layers.4.alpha has shape (9,) and not (6,)",
        "model.model.transformer.layers.1.ff_norm.beta holds values that our architecture does not have",
    ):
        assert problem in message


def test_precision_is_kept():
    halves = {key: tensor.half() for key, tensor in state_dict(CASES[0]).items()}
    components = from_stable_audio_tools(halves, read_model_config(model_config(CASES[0])))
    assert {component.dtype for component in components.values()} == {torch.float16}
