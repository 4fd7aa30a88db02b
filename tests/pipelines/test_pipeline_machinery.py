"""What the pipeline shares with others of diffusers: callbacks, offloading, progress, saving, swapped components."""

import json

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from common import assert_all_equal, relative_error
from diffusers import CosineDPMSolverMultistepScheduler
from tiny_pipeline import LATENT_CHANNELS, MAX_LENGTH, PROMPTS, generate, record_transformer, seed, tiny_pipeline

from stable_longform.pipelines.pipeline_longform_music import LongFormMusicPipeline


@pytest.fixture
def pipe():
    return tiny_pipeline()


def test_a_callback_sees_every_step_and_may_replace_tensors(pipe):
    seen = []

    def replace(pipe, step, t, tensors):
        seen.append((step, float(t), sorted(tensors)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    names = ("latents", "prompt_embeds", "negative_prompt_embeds")
    latents = generate(
        pipe, callback_on_step_end=replace, callback_on_step_end_tensor_inputs=names, output_type="latent"
    )
    assert not latents.any()
    assert [step for step, _, _ in seen] == [0, 1, 2, 3]
    assert [t for _, t, _ in seen] == pipe.scheduler.timesteps.tolist()
    assert all(given == sorted(names) for _, _, given in seen)


def test_a_callback_may_change_the_prompt(pipe):
    other = pipe.encode_prompt(PROMPTS[1])[0]
    expected = generate(pipe, PROMPTS[1], output_type="latent", num_inference_steps=1)

    def swap(pipe, step, t, tensors):
        return {"prompt_embeds": other}

    calls = record_transformer(pipe)
    assert relative_error(generate(pipe, output_type="latent", callback_on_step_end=swap), expected) > 0
    texts = [call["encoder_hidden_states"][1, :MAX_LENGTH] for call in calls]
    assert not torch.equal(texts[0], other[0])
    assert all(torch.equal(text, other[0]) for text in texts[1:])


def test_a_callback_may_stop_the_sampling(pipe):
    calls = record_transformer(pipe)

    def stop(pipe, step, t, tensors):
        pipe._interrupt = step == 1

    assert generate(pipe, duration=0.1, num_inference_steps=6, callback_on_step_end=stop)[0].shape == (2, 800)
    assert len(calls) == 2 and pipe.interrupt
    generate(pipe)
    assert len(calls) == 6 and not pipe.interrupt


class HookCountingPipeline(LongFormMusicPipeline):
    """Counts how often the offloading hooks are freed."""

    num_freed = 0

    def maybe_free_model_hooks(self):
        self.num_freed += 1
        super().maybe_free_model_hooks()


def test_offloading_hooks_are_freed_on_every_path():
    pipe = tiny_pipeline(HookCountingPipeline)

    def fail(pipe, step, t, tensors):
        raise RuntimeError("stop here")

    for output_type in ("pt", "np", "latent"):
        pipe.num_freed = 0
        generate(pipe, output_type=output_type)
        assert pipe.num_freed == 1
    pipe.num_freed = 0
    with pytest.raises(RuntimeError, match="stop here"):
        generate(pipe, callback_on_step_end=fail)
    assert pipe.num_freed == 1
    assert generate(pipe)[0].isfinite().all()


class RunCountingHook(ModelHook):
    """Counts how often the model is told to move to its device."""

    num_runs = 0

    def pre_forward(self, module, *args, **kwargs):
        self.num_runs += 1
        return args, kwargs


@pytest.mark.parametrize("name", ["text_encoder", "timing_conditioner", "transformer", "vae"])
def test_each_network_is_moved_to_its_device_before_it_runs(pipe, name):
    """As `enable_model_cpu_offload` does it, which needs an accelerator."""
    hook = RunCountingHook()
    add_hook_to_module(getattr(pipe, name), hook)
    generate(pipe)
    assert hook.num_runs > 0


def test_progress_can_be_shown_and_hidden(pipe, capsys):
    generate(pipe)
    assert capsys.readouterr().err == ""
    pipe.set_progress_bar_config(disable=False)
    generate(pipe)
    assert "4/4" in capsys.readouterr().err


@pytest.mark.parametrize("mask_text_padding", [False, True])
def test_saved_and_loaded_it_sounds_the_same(tmp_path, mask_text_padding):
    pipe = tiny_pipeline(mask_text_padding=mask_text_padding)
    pipe.save_pretrained(tmp_path)
    loaded = LongFormMusicPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.config.mask_text_padding == mask_text_padding
    arguments = {"negative_prompt": "rock", "num_waveforms_per_prompt": 2, "duration": 0.1}
    assert_all_equal(generate(loaded, **arguments), generate(pipe, **arguments))
    half = LongFormMusicPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    assert half.transformer.dtype == half.vae.dtype == half.text_encoder.dtype == torch.bfloat16
    assert generate(half, **arguments)[0].isfinite().all()


def test_module_paths_in_saved_pipelines_stay_what_they_are(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "LongFormMusicPipeline"
    assert index["vae"] == ["stable_longform.models.autoencoder_oobleck", "AutoencoderOobleck"]
    assert index["text_encoder"] == ["stable_longform.models.clap_text_encoder", "ClapTextEncoder"]
    assert index["timing_conditioner"] == ["stable_longform.models.timing_conditioner", "TimingConditioner"]
    assert index["transformer"] == ["stable_longform.models.transformer_dit_1d", "DiTTransformer1D"]
    assert index["scheduler"] == ["diffusers", "DPMSolverMultistepScheduler"]
    assert index["mask_text_padding"] is False


def test_components_make_another_pipeline():
    pipe = tiny_pipeline(mask_text_padding=True)
    expected = generate(pipe)
    again = LongFormMusicPipeline.from_pipe(pipe)
    again.set_progress_bar_config(disable=True)
    assert again.config.mask_text_padding and again.transformer is pipe.transformer
    assert_all_equal(generate(again), expected)
    assert set(pipe.components) == {
        "vae",
        "text_encoder",
        "tokenizer",
        "timing_conditioner",
        "transformer",
        "scheduler",
    }


def test_the_cosine_scheduler_works_too(pipe):
    pytest.importorskip("torchsde")
    pipe.scheduler = CosineDPMSolverMultistepScheduler(sigma_min=0.3, sigma_max=500.0)
    calls = record_transformer(pipe)
    first = generate(pipe, num_inference_steps=10, output_type="latent")
    assert first.isfinite().all() and first.std() < 20
    noise = torch.randn(LATENT_CHANNELS, 64, generator=seed(0))
    torch.testing.assert_close(calls[0]["latents"][0], noise, rtol=1e-5, atol=1e-6)  # of unit variance, as in training
    assert torch.equal(generate(pipe, num_inference_steps=10, output_type="latent"), first)
