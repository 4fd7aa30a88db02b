"""What the pipeline shares with others of diffusers: callbacks, offloading, progress, saving, swapped components."""

import json

import pytest
import torch
from accelerate import cpu_offload, infer_auto_device_map
from accelerate.hooks import ModelHook, add_hook_to_module
from common import assert_all_equal, relative_error
from diffusers import CosineDPMSolverMultistepScheduler
from tiny_pipeline import (
    LATENT_CHANNELS,
    MAX_LENGTH,
    PROMPTS,
    SHORT,
    generate,
    record_transformer,
    seed,
    tiny_pipeline,
)
from torch._dynamo.testing import CompileCounter

from stable_longform.models.acceleration.engine import SWITCH
from stable_longform.models.transformer_dit_1d import DiTTransformer1D
from stable_longform.pipelines.pipeline_longform_music import LongFormMusicPipeline
from stable_longform.schedulers.scheduling import make_scheduler, set_timesteps


@pytest.fixture
def pipe():
    return tiny_pipeline()


def test_a_callback_sees_every_step_and_may_replace_tensors(pipe):
    """P14."""
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
    assert [t for _, t, _ in seen] == set_timesteps(make_scheduler(), 4).tolist()
    assert all(given == sorted(names) for _, _, given in seen)


def test_a_callback_may_change_the_prompt(pipe):
    other = pipe.encode_prompt(PROMPTS[1])[0]
    expected = generate(pipe, PROMPTS[1], output_type="latent", num_inference_steps=1)

    def swap(pipe, step, t, tensors):
        return {"prompt_embeds": other}

    calls = record_transformer(pipe)
    assert relative_error(generate(pipe, output_type="latent", callback_on_step_end=swap), expected) > 0
    texts = [call["encoder_hidden_states"][0, :MAX_LENGTH] for call in calls]
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
    """P9."""
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


NETWORKS = ("text_encoder", "timing_conditioner", "transformer", "vae")


def test_model_offload_changes_nothing():
    """Between two devices that are both the CPU; with a GPU the one is the GPU."""
    expected = generate(tiny_pipeline(), negative_prompt="rock")
    pipe = tiny_pipeline()
    pipe.enable_model_cpu_offload(device="cpu")
    assert all(hasattr(getattr(pipe, name), "_hf_hook") for name in NETWORKS)
    for _ in range(2):
        assert_all_equal(generate(pipe, negative_prompt="rock"), expected)


class RunCountingHook(ModelHook):
    """Counts how often the model is told to move to its device."""

    num_runs = 0

    def pre_forward(self, module, *args, **kwargs):
        self.num_runs += 1
        return args, kwargs


@pytest.mark.parametrize("name", NETWORKS)
def test_each_network_is_moved_to_its_device_before_it_runs(pipe, name):
    """As `enable_model_cpu_offload` does it."""
    hook = RunCountingHook()
    add_hook_to_module(getattr(pipe, name), hook)
    generate(pipe)
    assert hook.num_runs > 0


@pytest.fixture
def no_engine(monkeypatch):
    """Networks with hooks leave the CPU engine, which rounds otherwise: what is compared leaves it too."""
    monkeypatch.setenv(SWITCH, "0")


def test_sequential_offload_changes_nothing(no_engine):
    """V4. As `enable_sequential_cpu_offload` does it on a GPU: weights are there only while their layer runs."""
    expected = generate(tiny_pipeline(), negative_prompt="rock")
    pipe = tiny_pipeline()
    for name in NETWORKS:
        cpu_offload(getattr(pipe, name), "cpu")
        assert all(parameter.device.type == "meta" for parameter in getattr(pipe, name).parameters())
    assert_all_equal(generate(pipe, negative_prompt="rock"), expected)


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), "cpu:0"])
def test_sequential_offload_needs_an_accelerator(pipe, device):
    expected = generate(pipe)
    with pytest.raises(ValueError, match="from the CPU to an accelerator, got device="):
        pipe.enable_sequential_cpu_offload(device=device)
    assert_all_equal(generate(pipe), expected)  # and nothing was moved


@pytest.mark.parametrize("kind", ["leaf_level", "block_level"])
def test_group_offload_changes_nothing(no_engine, tmp_path, kind):
    """V4. Weights lie on disk except while their group runs."""
    expected = generate(tiny_pipeline(), negative_prompt="rock")
    pipe = tiny_pipeline()
    options = {"num_blocks_per_group": 1} if kind == "block_level" else {}
    for name in NETWORKS:
        getattr(pipe, name).enable_group_offload(
            torch.device("cpu"), offload_type=kind, offload_to_disk_path=str(tmp_path / name), **options
        )
    assert_all_equal(generate(pipe, negative_prompt="rock"), expected)
    audio = pipe.vae.encode(expected[0][None]).latent_dist.mode()
    assert_all_equal([audio], [tiny_pipeline().vae.encode(expected[0][None]).latent_dist.mode()])


@pytest.mark.parametrize("name", ["text_encoder", "transformer", "vae"])
def test_layerwise_casting_rounds_the_stored_weights(no_engine, name):
    """V4. Weights in eight bits, arithmetic in float32: as with weights that were rounded once."""
    pipe, rounded = tiny_pipeline(), tiny_pipeline()
    getattr(pipe, name).enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    stored = getattr(pipe, name).state_dict()
    assert any(tensor.dtype == torch.float8_e4m3fn for tensor in stored.values())
    getattr(rounded, name).load_state_dict({key: tensor.float() for key, tensor in stored.items()})
    assert_all_equal(generate(pipe), generate(rounded))
    assert relative_error(generate(pipe)[0], generate(tiny_pipeline())[0]) > 1e-4


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


def test_shards_and_variant(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, variant="fp16", max_shard_size="20KB")
    files = sorted(path.name for path in (tmp_path / "transformer").glob("*.safetensors"))
    assert len(files) > 1 and files[0].startswith("diffusion_pytorch_model.fp16-00001-of-")
    assert all(path.stat().st_size < 40_000 for path in (tmp_path / "transformer").glob("*.safetensors"))
    loaded = LongFormMusicPipeline.from_pretrained(tmp_path, variant="fp16")
    loaded.set_progress_bar_config(disable=True)
    assert_all_equal(generate(loaded), generate(pipe))


def test_device_maps(pipe, tmp_path):
    """T5. A pipeline on one device by name, a transformer whose blocks are spread, none of them cut through."""
    expected = generate(pipe)
    pipe.save_pretrained(tmp_path / "pipe")
    mapped = LongFormMusicPipeline.from_pretrained(tmp_path / "pipe", device_map="cpu")
    mapped.set_progress_bar_config(disable=True)
    assert_all_equal(generate(mapped), expected)
    block_size = sum(4 * parameter.numel() for parameter in pipe.transformer.transformer_blocks[0].parameters())
    spread = infer_auto_device_map(
        pipe.transformer,
        max_memory={"cpu": 2 * block_size, "disk": 10**9},
        no_split_module_classes=pipe.transformer._no_split_modules,
    )
    assert set(spread.values()) == {"cpu", "disk"}
    assert not any(key.startswith("transformer_blocks.") and key.count(".") > 1 for key in spread)
    pipe.transformer = DiTTransformer1D.from_pretrained(
        tmp_path / "pipe" / "transformer", device_map=spread, offload_folder=str(tmp_path / "disk")
    )
    assert_all_equal(generate(pipe), expected)


def test_the_transformer_compiles_once_for_all_steps_and_durations(pipe):
    """Two graphs, with and without guidance, for any number of steps, any prompt and any duration."""
    arguments = {"guidance_interval": (0.5, 1.0), "output_type": "latent"}
    expected = generate(pipe, PROMPTS[1], duration=0.2, num_inference_steps=5, **arguments)
    torch.compiler.reset()
    counter = CompileCounter()
    pipe.transformer.compile(backend=counter, fullgraph=True, dynamic=False)
    for prompt, duration, steps in ((SHORT, 0.25, 4), (PROMPTS[1], 0.2, 5), (PROMPTS[2], 0.1, 7)):
        result = generate(pipe, prompt, duration=duration, num_inference_steps=steps, **arguments)
        if steps == 5:
            assert relative_error(result, expected) < 1e-5
    assert counter.frame_count == 2
    torch.compiler.reset()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_repeated_blocks_compile_to_one_graph(backend):
    """T5. One graph for all blocks; with `mask_text_padding`, a mask is in it."""
    pipe = tiny_pipeline(mask_text_padding=True)
    expected = generate(pipe, negative_prompt="rock")
    torch.compiler.reset()
    with torch._dynamo.config.patch(recompile_limit=1, fail_on_recompile_limit_hit=True):
        pipe.transformer.compile_repeated_blocks(backend=backend, fullgraph=True)
        assert relative_error(generate(pipe, negative_prompt="rock")[0], expected[0]) < 1e-4


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
