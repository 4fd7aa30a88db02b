"""diffusers' caches on the transformer, through whole generations: exact when told so, bounded when not."""

import pytest
import torch
from common import relative_error
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
from diffusers.hooks import SeaCacheConfig, TextKVCacheConfig
from tiny_pipeline import generate, tiny_pipeline

from stable_longform.schedulers.scheduling import make_scheduler, set_timesteps

STEPS = 12
ATTENTION = [r"transformer_blocks\.\d+\.attn[12]"]


def sound(pipe, **arguments) -> torch.Tensor:
    return generate(pipe, output_type="latent", num_inference_steps=STEPS, **arguments)


def first_block(pipe, threshold):
    return FirstBlockCacheConfig(threshold=threshold)


def pyramid(pipe, skip_range):
    return PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=skip_range,
        cross_attention_block_skip_range=skip_range,
        spatial_attention_timestep_skip_range=(0.1, 0.9),
        cross_attention_timestep_skip_range=(0.1, 0.9),
        current_timestep_callback=lambda: pipe.current_timestep,
    )


def taylor(pipe, interval):
    return TaylorSeerCacheConfig(interval, cache_identifiers=ATTENTION, taylor_factors_dtype=torch.float32)


def magnitude(pipe, threshold):
    return MagCacheConfig(mag_ratios=[1.0] * STEPS, num_inference_steps=STEPS, threshold=threshold, max_skip_steps=1)


def enable(pipe, make_config, value) -> list:
    """Enables a cache; returns a list that gets an entry for each self-attention of the last block computed."""
    pipe.transformer.enable_cache(make_config(pipe, value))
    calls = []
    pipe.transformer.transformer_blocks[-1].attn1.to_q.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize(("make_config", "value"), [(first_block, 0.0), (pyramid, 1), (taylor, 1), (magnitude, -1.0)])
def test_exact_where_nothing_may_be_reused(make_config, value):
    pipe = tiny_pipeline()
    expected = [sound(pipe), sound(pipe, guidance_interval=(0.3, 0.8))]
    calls = enable(pipe, make_config, value)
    assert torch.equal(sound(pipe), expected[0]) and len(calls) == STEPS
    assert torch.equal(sound(pipe, guidance_interval=(0.3, 0.8)), expected[1])


@pytest.mark.parametrize(
    ("make_config", "value", "bound"),
    [(first_block, 0.12, 0.3), (pyramid, 2, 0.3), (taylor, 2, 0.4), (magnitude, 0.01, 0.5)],
)
def test_reuse_saves_work_deviates_boundedly_and_leaves_no_trace(make_config, value, bound):
    pipe = tiny_pipeline()
    expected = sound(pipe)
    calls = enable(pipe, make_config, value)
    first = sound(pipe)
    assert STEPS / 3 < len(calls) < STEPS
    assert 0 < relative_error(first, expected) < bound
    sound(pipe, generator=torch.Generator().manual_seed(5))
    assert torch.equal(sound(pipe), first)  # the state ends with its generation
    interval = sound(pipe, guidance_interval=(0.3, 0.8))  # batches of two, of four, of two items
    assert interval.shape == expected.shape and interval.isfinite().all()
    pipe.transformer.disable_cache()
    assert torch.equal(sound(pipe), expected)


def test_the_time_is_known_only_while_sampling():
    pipe = tiny_pipeline()
    seen = []
    generate(pipe, callback_on_step_end=lambda pipe, step, t, tensors: seen.append(pipe.current_timestep))
    assert seen == set_timesteps(make_scheduler(), 4).tolist() and pipe.current_timestep is None


@pytest.mark.parametrize("config", [TextKVCacheConfig(), SeaCacheConfig()])
def test_caches_made_for_other_models_do_nothing(config):
    pipe = tiny_pipeline()
    expected = sound(pipe)
    pipe.transformer.enable_cache(config)
    assert torch.equal(sound(pipe), expected)


@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")
def test_a_cache_made_for_images_fails_loudly():
    """FasterCache takes two-dimensional spectra, and splits a batch whose timing tokens it does not know."""
    pipe = tiny_pipeline()
    config = FasterCacheConfig(
        tensor_format="BCHW",
        unconditional_batch_timestep_skip_range=(-1, 1),
        current_timestep_callback=lambda: pipe.current_timestep,
    )
    pipe.transformer.enable_cache(config)
    with pytest.raises(ValueError, match="unpack"):
        sound(pipe)
