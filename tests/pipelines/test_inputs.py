import math

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from tiny_pipeline import LATENT_CHANNELS, MAX_LENGTH, WIDTH, generate, tiny_pipeline

EMBEDS = torch.ones(1, MAX_LENGTH, WIDTH)
MASK = torch.ones(1, MAX_LENGTH, dtype=torch.bool)
WRONG = [
    # prompts
    ({"prompt": []}, "prompt .* none"),
    ({"prompt": "piano \ud800"}, r"prompt must be valid Unicode, without lone surrogates, got 'piano \\ud800'"),
    ({"negative_prompt": ["\udfff"]}, "negative_prompt must be valid Unicode"),
    ({"prompt": ["piano", 3]}, "prompt .* 3"),
    ({"prompt": 3}, "prompt .* 3"),
    ({"prompt": None}, "either prompt or prompt_embeds"),
    ({"prompt_embeds": EMBEDS}, "either prompt or prompt_embeds"),
    ({"negative_prompt": 3}, "negative_prompt .* 3"),
    ({"negative_prompt": ["rock", "pop"]}, "negative_prompt must be one or 1, one for each prompt, got 2"),
    ({"negative_prompt": "rock", "negative_prompt_embeds": EMBEDS}, "not both"),
    ({"prompt": None, "prompt_embeds": EMBEDS[0]}, "prompt_embeds .* shape"),
    ({"prompt": None, "prompt_embeds": EMBEDS.numpy()}, "prompt_embeds must be a torch.Tensor, got ndarray"),
    ({"prompt": None, "prompt_embeds": EMBEDS / 0}, "prompt_embeds must be finite"),
    ({"negative_prompt_embeds": EMBEDS * math.nan}, "negative_prompt_embeds must be finite"),
    ({"prompt": None, "prompt_embeds": EMBEDS, "prompt_attention_mask": [[True]]}, r"boolean tensor .* got \[\[True"),
    ({"prompt": None, "prompt_embeds": EMBEDS[..., 1:]}, f"prompt_embeds .* {WIDTH}"),
    ({"prompt": None, "prompt_embeds": EMBEDS[:0]}, "prompt_embeds .* shape"),
    ({"prompt": None, "prompt_embeds": EMBEDS.long()}, "prompt_embeds .*int64"),
    ({"prompt": None, "prompt_embeds": EMBEDS.to(torch.complex64)}, "prompt_embeds .*complex64"),
    ({"prompt_attention_mask": MASK}, "prompt_attention_mask needs prompt_embeds"),
    (
        {"prompt": None, "prompt_embeds": EMBEDS, "prompt_attention_mask": MASK.long()},
        "prompt_attention_mask .*int64",
    ),
    (
        {"prompt": None, "prompt_embeds": EMBEDS, "prompt_attention_mask": MASK[:, 1:]},
        "prompt_attention_mask .* shape",
    ),
    ({"negative_prompt_embeds": EMBEDS.repeat(2, 1, 1)}, "negative_prompt_embeds .* shape"),
    ({"negative_prompt_embeds": EMBEDS[:, 1:]}, f"got {MAX_LENGTH} and {MAX_LENGTH - 1}"),
    (
        {"prompt": None, "prompt_embeds": EMBEDS[:, 1:], "negative_prompt": "rock"},
        f"{MAX_LENGTH - 1} and {MAX_LENGTH}",
    ),
    ({"negative_prompt_attention_mask": MASK}, "negative_prompt_attention_mask needs negative_prompt_embeds"),
    (
        {"negative_prompt_embeds": EMBEDS, "negative_prompt_attention_mask": MASK.float()},
        "negative_prompt_attention_mask .*float32",
    ),
    # times
    ({"duration": 0}, "duration .* got 0"),
    ({"duration": -1.0}, "duration .* -1.0"),
    ({"duration": 0.257}, r"duration must be in \[1/8000, 0.256\] seconds, got 0.257"),
    ({"duration": 1e-9}, r"duration must be in \[1/8000, 0.256\] seconds, got 1e-09"),
    ({"audio_end_in_s": 1e-9}, "duration .* got 1e-09"),
    ({"duration": math.nan}, "duration .* nan"),
    ({"duration": np.float32("nan")}, "duration .* nan"),
    ({"duration": [0.1, 0.1]}, "duration must be one number or 1, .* got 2"),
    ({"duration": []}, "duration .* got 0"),
    ({"duration": "0.1"}, "duration must be a number"),
    ({"duration": True}, "duration must be a number"),
    ({"duration": ["0.1"]}, "duration must be a number"),
    ({"duration": np.full((1, 1), 0.1)}, "duration must be a number"),
    ({"seconds_start": -0.1}, "seconds_start .* -0.1"),
    ({"seconds_start": math.nan}, "seconds_start .* nan"),
    ({"seconds_start": 513}, "seconds_start .* 513"),
    ({"seconds_start": None}, "seconds_start must be a number"),
    ({"seconds_start": 512}, "seconds_total .* 512.256"),
    ({"seconds_total": 0}, "seconds_total .* got 0"),
    ({"seconds_total": 512.5}, "seconds_total .* 512.5"),
    ({"seconds_total": math.inf}, "seconds_total .* inf"),
    ({"seconds_total": [1, 2]}, "seconds_total .* got 2"),
    ({"seconds_start": 30.0, "seconds_total": 20.0}, "seconds_start must be before seconds_total=20.0 .* got 30.0"),
    ({"seconds_start": 20.0, "seconds_total": 20.0}, "seconds_start must be before"),
    ({"window_in_s": 0.3}, r"window_in_s must be in \(0, 0.256\] seconds, got 0.3"),
    ({"window_in_s": 0}, r"window_in_s .* got 0"),
    ({"window_in_s": "1"}, "window_in_s must be a number, got '1'"),
    ({"window_in_s": 0.1, "duration": 0.2}, r"duration must be in \[1/8000, 0.100\] seconds, got 0.2"),
    ({"window_in_s": 0.1, "latents": torch.zeros(1, LATENT_CHANNELS, 64)}, "has 25 frames, the latents have 64"),
    ({"latents": torch.zeros(1, LATENT_CHANNELS, 32), "duration": 0.2}, r"duration must be in \[1/8000, 0.128\]"),
    ({"audio_end_in_s": 0.1, "duration": 0.1}, "duration or audio_end_in_s, not both"),
    ({"audio_start_in_s": 1.0, "seconds_start": 1.0}, "seconds_start or audio_start_in_s, not both"),
    ({"audio_start_in_s": 1.0, "audio_end_in_s": 1.0}, "audio_end_in_s must be after audio_start_in_s=1.0, got 1.0"),
    ({"audio_end_in_s": "1"}, "audio_end_in_s must be a number"),
    # settings
    ({"num_inference_steps": 10**6}, r"num_inference_steps must be an integer in \[1, 1000\], got 1000000"),
    ({"num_inference_steps": True}, "num_inference_steps .* True"),
    ({"num_waveforms_per_prompt": 10**9}, r"num_waveforms_per_prompt must be an integer in \[1, 1024\], got 10"),
    ({"prompt": ["a"] * 3, "num_waveforms_per_prompt": 512}, "at most 1024 results in one call, got 3 prompts"),
    ({"guidance_scale": 1e30}, r"guidance_scale must be in \[-100, 100\], got 1e\+30"),
    ({"guidance_scale": "7"}, "guidance_scale must be a number, got '7'"),
    ({"guidance_scale": 7j}, "guidance_scale must be a number"),
    ({"guidance_rescale": "0.5"}, "guidance_rescale must be a number, got '0.5'"),
    ({"guidance_interval": 0.5}, "guidance_interval must be two rising times in .* got 0.5"),
    ({"guidance_interval": ("0", "1")}, "guidance_interval .* got .'0', '1'"),
    ({"guidance_interval": None, "output_type": None}, "output_type .* None"),
    ({"callback_on_step_end": 5}, "callback_on_step_end must be callable, got 5"),
    ({"callback_on_step_end_tensor_inputs": "latents"}, "callback_on_step_end_tensor_inputs must be a list of names"),
    ({"num_inference_steps": 0}, "num_inference_steps .* 0"),
    ({"num_inference_steps": 2.5}, "num_inference_steps .* 2.5"),
    ({"num_waveforms_per_prompt": 0}, "num_waveforms_per_prompt .* 0"),
    ({"num_waveforms_per_prompt": 1.0}, "num_waveforms_per_prompt .* 1.0"),
    ({"guidance_scale": math.nan}, "guidance_scale .* nan"),
    ({"guidance_scale": math.inf}, "guidance_scale .* inf"),
    ({"guidance_rescale": 2}, "guidance_rescale .* 2"),
    ({"guidance_rescale": -0.1}, "guidance_rescale .* -0.1"),
    ({"guidance_interval": (0.8, 0.4)}, "guidance_interval .*0.8, 0.4"),
    ({"guidance_interval": (0.0, 1.5)}, "guidance_interval .*1.5"),
    ({"guidance_interval": (0.5,)}, "guidance_interval .*0.5"),
    ({"guidance_interval": (math.nan, 1.0)}, "guidance_interval .*nan"),
    ({"output_type": "wav"}, "output_type .* 'wav'"),
    ({"callback_on_step_end_tensor_inputs": ["latents", "vae"]}, "callback_on_step_end_tensor_inputs .* got vae"),
    # noise
    (
        {"latents": torch.zeros(1, LATENT_CHANNELS, 65)},
        r"latents must have shape \(1, 4, L\) with L in \[1, 64\], got \(1, 4, 65\)",
    ),
    ({"latents": torch.zeros(1, LATENT_CHANNELS, 0)}, r"got \(1, 4, 0\)"),
    ({"latents": torch.zeros(LATENT_CHANNELS, 64)}, r"got \(4, 64\)"),
    ({"latents": np.zeros((1, LATENT_CHANNELS, 64))}, "latents must be a torch.Tensor, got ndarray"),
    ({"latents": [[[0.0]]]}, "latents must be a torch.Tensor, got list"),
    ({"latents": torch.zeros(1, LATENT_CHANNELS, 64, dtype=torch.complex64)}, "latents .*floating-point.*complex64"),
    ({"latents": torch.zeros(1, LATENT_CHANNELS, 64).long()}, "latents .*floating-point.*int64"),
    ({"latents": torch.zeros(1, LATENT_CHANNELS, 64, device="meta")}, "latents must be a dense tensor .* meta device"),
    ({"latents": torch.zeros(1, LATENT_CHANNELS, 64).to_sparse()}, "latents must be a dense tensor .* sparse"),
    ({"latents": torch.zeros(1, LATENT_CHANNELS, 64).to(torch.float8_e4m3fn)}, "latents .*16 bits.*float8_e4m3fn"),
    ({"duration": torch.tensor([0.1], device="meta")}, "duration must be numbers, got a tensor .* no values"),
    ({"duration": 10**400}, "duration must be finite, got an integer that is too large"),
    ({"audio_end_in_s": torch.tensor([0.1, 0.2])}, "duration must be one number or 1"),
    (
        {"guidance_interval": torch.tensor([0.1, 0.9], device="meta")},
        "guidance_interval must be numbers, got a tensor",
    ),
    ({"latents": torch.full((1, LATENT_CHANNELS, 64), math.nan)}, "latents must be finite, got 256 values that are"),
    ({"latents": torch.zeros(2, LATENT_CHANNELS, 64)}, "latents must have shape"),
    ({"generator": [torch.Generator()] * 2}, "generator must be one or a list of 1, got 2"),
    ({"generator": []}, "generator must be one or a list of 1, got 0"),
    ({"generator": 5}, "generator .*5"),
    ({"generator": [5]}, "generator .*5"),
]


@pytest.fixture(scope="module")
def pipe():
    """A pipeline whose networks may not run."""
    pipe = tiny_pipeline()

    def refuse(module, args):
        raise AssertionError("work before the inputs were checked")

    for network in (pipe.text_encoder, pipe.timing_conditioner, pipe.transformer, pipe.vae.decoder):
        network.register_forward_pre_hook(refuse)
    return pipe


@pytest.mark.parametrize("arguments, message", WRONG)
def test_what_is_wrong_is_named_before_any_work(pipe, arguments, message):
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=message):
        pipe(**{"prompt": "solo piano", "num_inference_steps": 1, **arguments})
    assert torch.equal(torch.get_rng_state(), state)


BAD_RESULTS = [
    (lambda tensors: {"latents": tensors["latents"] * math.nan}, "latents from callback_on_step_end must be finite"),
    (lambda tensors: {"latents": tensors["latents"][..., 1:]}, "latents from callback_on_step_end must have shape"),
    (lambda tensors: {"latents": tensors["latents"].numpy()}, "latents from .* must be a torch.Tensor, got ndarray"),
    (lambda tensors: {"noise": tensors["latents"]}, "may return latents, prompt_embeds, .* got noise"),
    (lambda tensors: {"prompt_embeds": EMBEDS / 0}, "prompt_embeds from callback_on_step_end must be finite"),
    (lambda tensors: tensors["latents"], "must return a dict or None, got Tensor"),
]


@pytest.mark.parametrize("make_result, message", BAD_RESULTS)
def test_what_is_wrong_in_a_callbacks_result_is_named(make_result, message):
    with pytest.raises(ValueError, match=message):
        generate(tiny_pipeline(), callback_on_step_end=lambda pipe, step, t, tensors: make_result(tensors))


def test_an_unknown_scheduler_is_named_before_any_work(pipe):
    known, pipe.scheduler = pipe.scheduler, EulerDiscreteScheduler(prediction_type="v_prediction")
    try:
        with pytest.raises(ValueError, match="EulerDiscreteScheduler"):
            pipe("solo piano")
    finally:
        pipe.scheduler = known


def test_encode_prompt_needs_a_prompt(pipe):
    with pytest.raises(ValueError, match="prompt must be a text"):
        pipe.encode_prompt()
