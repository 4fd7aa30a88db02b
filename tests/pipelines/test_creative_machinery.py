"""diffusers' machinery on the pipelines that start from audio: caches, offloading, adapters, threads of one model."""

import pytest
import torch
from accelerate import cpu_offload
from common import assert_all_equal, relative_error
from diffusers import FirstBlockCacheConfig, TaylorSeerCacheConfig
from peft import LoraConfig
from tiny_pipeline import PROMPTS, SHORT, seed, tiny_pipeline

from stable_longform import LongFormMusicAudioToAudioPipeline, LongFormMusicInpaintPipeline

RATE = 8000
CALLS = {
    "edit": (LongFormMusicAudioToAudioPipeline, {"method": "edit", "source_prompt": PROMPTS[1], "strength": 0.95}),
    "invert": (LongFormMusicAudioToAudioPipeline, {"method": "invert", "strength": 0.95}),
    "windows": (LongFormMusicInpaintPipeline, {"extend_to": 0.4, "num_repeats": 1}),
    "sections": (LongFormMusicInpaintPipeline, {"prompt": [(0, SHORT), (0.1, PROMPTS[1])], "regions": [(0.1, 0.15)]}),
}


@pytest.fixture(params=CALLS)
def call(request, make_audio):
    """The pipeline's class, and a function that runs one on audio of 0.2 s."""
    pipeline_class, arguments = CALLS[request.param]
    audio = make_audio(1600, sampling_rate=RATE)

    def run(pipe):
        pipe.set_progress_bar_config(disable=True)
        defaults = {"prompt": SHORT, "num_inference_steps": 4, "generator": seed(0), "output_type": "latent"}
        return pipe(audio=audio, **defaults | arguments).audios

    return pipeline_class, run


def test_caches_keep_source_target_and_windows_apart(call):
    """Were their states mixed up, what is reused would be another's. What is reused of the same is rounded."""
    pipeline_class, run = call
    expected = run(tiny_pipeline(pipeline_class))
    names = [r"transformer_blocks\.\d+\.attn[12]"]
    for config in (
        FirstBlockCacheConfig(threshold=0.0),
        TaylorSeerCacheConfig(1, cache_identifiers=names, taylor_factors_dtype=torch.float32),
    ):
        pipe = tiny_pipeline(pipeline_class)
        pipe.transformer.enable_cache(config)
        assert relative_error(torch.stack(list(run(pipe))), torch.stack(list(expected))) < 1e-5


def test_offloading_changes_nothing(call):
    pipeline_class, run = call
    expected = run(tiny_pipeline(pipeline_class))
    pipe = tiny_pipeline(pipeline_class)
    pipe.enable_model_cpu_offload(device="cpu")
    assert_all_equal(list(run(pipe)), list(expected))
    pipe = tiny_pipeline(pipeline_class)
    for name in ("vae", "text_encoder", "timing_conditioner", "transformer"):
        cpu_offload(getattr(pipe, name), "cpu")
    assert relative_error(torch.stack(list(run(pipe))), torch.stack(list(expected))) < 1e-5


def test_an_adapter_of_text_to_music_is_heard(call):
    pipeline_class, run = call
    music = tiny_pipeline()
    expected = run(pipeline_class.from_pipe(music))
    music.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    adapted = run(pipeline_class.from_pipe(music))
    assert relative_error(torch.stack(list(adapted)), torch.stack(list(expected))) > 1e-3
