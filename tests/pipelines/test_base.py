"""What all pipelines have: parts left out, dtypes, threads, the state of a generation, results that are finite."""

import logging
import threading

import diffusers
import pytest
import torch
from common import assert_all_equal, relative_error
from diffusers import CosineDPMSolverMultistepScheduler, DiffusionPipeline
from diffusers.callbacks import PipelineCallback
from tiny_pipeline import (
    LATENT_CHANNELS,
    MAX_LENGTH,
    PROMPTS,
    SHORT,
    WIDTH,
    generate,
    record_transformer,
    seed,
    tiny_pipeline,
)

from stable_longform.pipelines.pipeline_longform_music import LongFormMusicPipeline


@pytest.fixture
def pipe():
    return tiny_pipeline()


@pytest.fixture
def folder(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "pipe")
    return tmp_path / "pipe"


def opened(folder, **arguments) -> LongFormMusicPipeline:
    pipe = LongFormMusicPipeline.from_pretrained(folder, **arguments)
    pipe.set_progress_bar_config(disable=True)
    return pipe


# --- no prompt


def test_a_blank_prompt_is_the_unconditional_branch(pipe):
    """In training a dropped condition loses text and timing tokens and keeps the global timing: so does ""."""
    expected = generate(pipe, SHORT, guidance_scale=0.0, output_type="latent")
    for guidance_scale in (1.0, 7.0):
        for blank in ("", " \n", [""]):
            result = generate(pipe, blank, guidance_scale=guidance_scale, output_type="latent")
            assert relative_error(result, expected) < 1e-5
    embeds = pipe.encode_prompt("")[0]
    assert embeds.shape == (1, MAX_LENGTH, WIDTH) and not embeds.any()
    result = generate(pipe, None, prompt_embeds=embeds, output_type="latent")
    assert relative_error(result, expected) < 1e-5


def test_a_blank_negative_prompt_is_none(pipe):
    expected = generate(pipe, output_type="latent")
    assert torch.equal(generate(pipe, negative_prompt="", output_type="latent"), expected)
    assert relative_error(generate(pipe, negative_prompt="rock", output_type="latent"), expected) > 1e-3


@pytest.mark.parametrize("mask_text_padding", [False, True])
@pytest.mark.parametrize("is_in_turn", [False, True])
def test_some_items_of_a_batch_may_be_blank(monkeypatch, mask_text_padding, is_in_turn):
    if is_in_turn:
        monkeypatch.setattr("stable_longform.pipelines.guidance.MIN_TOKENS_IN_TURN", 1)
    pipe = tiny_pipeline(mask_text_padding=mask_text_padding)
    prompts, negative = ["", SHORT, "", PROMPTS[1]], ["rock", "", "", "drums"]
    batch = generate(
        pipe, prompts, negative_prompt=negative, generator=[seed(n) for n in range(4)], output_type="latent"
    )
    for n in range(4):
        alone = generate(pipe, prompts[n], negative_prompt=negative[n], generator=seed(n), output_type="latent")
        assert relative_error(batch[n], alone[0]) < 1e-5


# --- parts left out


def test_a_pipeline_without_a_text_encoder_samples_from_embeddings(pipe, folder, tmp_path):
    embeds, negative = pipe.encode_prompt(SHORT)[0], pipe.encode_prompt("rock")[0]
    arguments = {"prompt_embeds": embeds, "negative_prompt_embeds": negative}
    expected = generate(pipe, None, **arguments)
    part = opened(folder, text_encoder=None, tokenizer=None)
    assert_all_equal(generate(part, None, **arguments), expected)
    part.save_pretrained(tmp_path / "part")
    assert not (tmp_path / "part" / "text_encoder").exists()
    assert_all_equal(generate(opened(tmp_path / "part"), None, **arguments), expected)
    for wrong in ({"prompt": SHORT}, {"prompt": None, "prompt_embeds": embeds, "negative_prompt": "rock"}):
        with pytest.raises(ValueError, match="A prompt needs a text_encoder, which this pipeline was opened without"):
            generate(part, **wrong)


def test_a_pipeline_that_only_encodes(pipe, folder):
    part = opened(folder, vae=None, transformer=None, scheduler=None)
    assert torch.equal(part.encode_prompt(PROMPTS[1])[0], pipe.encode_prompt(PROMPTS[1])[0])
    with pytest.raises(ValueError, match="Generating needs a transformer"):
        part(SHORT)
    assert part.sampling_rate is None


def test_a_pipeline_without_an_autoencoder_ends_with_latents(pipe, folder):
    part = opened(folder, vae=None)
    expected = generate(pipe, duration=0.1, output_type="latent")
    result = part(SHORT, 0.1, num_inference_steps=4, generator=seed(0), output_type="latent")
    assert torch.equal(result.audios, expected) and result.sampling_rate is None
    with pytest.raises(ValueError, match="output_type='pt' needs a vae"):
        part(SHORT, 0.1)
    with pytest.raises(ValueError, match="give duration, and not window_in_s"):
        part(SHORT, output_type="latent")
    for use in (lambda: part.max_duration_in_s, lambda: part.decode_latents(expected[0], 0.1)):
        with pytest.raises(ValueError, match="needs a vae"):
            use()


# --- opening


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_in_half_precision_the_autoencoder_stays_in_float32(pipe, folder, name):
    half = opened(folder, **{name: torch.bfloat16})
    networks = (half.transformer, half.text_encoder, half.timing_conditioner)
    assert {network.dtype for network in networks} == {torch.bfloat16} and half.vae.dtype == torch.float32
    latents = generate(pipe, output_type="latent")[0]
    assert torch.equal(half.decode_latents(latents, 0.2), pipe.decode_latents(latents, 0.2))
    assert generate(half)[0].dtype == torch.float32
    whole = opened(folder, **{name: {"default": torch.bfloat16}})
    assert whole.vae.dtype == whole.transformer.dtype == torch.bfloat16
    assert generate(whole)[0].isfinite().all()


def test_the_newer_name_of_the_dtype_does_not_warn(folder, recwarn):
    opened(folder, dtype=torch.float32)
    opened(folder, torch_dtype=torch.float32)
    assert not [warning for warning in recwarn if "torch_dtype" in str(warning.message)]


def test_diffusers_opens_our_folder(pipe, folder):
    loaded = DiffusionPipeline.from_pretrained(folder)
    assert type(loaded) is LongFormMusicPipeline is diffusers.LongFormMusicPipeline
    loaded.set_progress_bar_config(disable=True)
    assert_all_equal(generate(loaded), generate(pipe))


def test_a_pipeline_made_from_another_shares_it_as_it_is_and_says_nothing(folder, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    pipe = LongFormMusicPipeline(**opened(folder, dtype=torch.bfloat16).components, window_in_s=[0.1])
    with caplog.at_level(logging.WARNING):
        again = LongFormMusicPipeline.from_pipe(pipe, guidance_interval=(0.0, 0.5))
        assert again.to("cpu", torch.bfloat16).vae.dtype == torch.bfloat16
    assert not caplog.records
    assert again.transformer is pipe.transformer and again.transformer.dtype == torch.bfloat16
    assert list(again.config.window_in_s) == [0.1] and list(again.config.guidance_interval) == [0.0, 0.5]
    assert LongFormMusicPipeline.from_pipe(pipe, dtype=torch.float32).transformer.dtype == torch.float32
    assert LongFormMusicPipeline.from_pipe(pipe, vae=None).vae is None and pipe.vae is not None


def test_a_saved_pipeline_does_not_say_where_it_lay(folder, tmp_path):
    opened(folder).save_pretrained(tmp_path / "again")
    texts = [path.read_text() for path in (tmp_path / "again").rglob("*.json")]
    assert len(texts) > 6 and not any(str(tmp_path) in text for text in texts)


def test_the_default_dtype_of_torch_does_not_matter(pipe):
    expected = generate(pipe)
    torch.set_default_dtype(torch.float64)
    try:
        assert_all_equal(generate(pipe), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_names_of_diffusers_for_start_and_end(pipe):
    expected = generate(pipe, [SHORT, "rock"], duration=[0.1, 0.2], seconds_start=2.0)
    assert_all_equal(generate(pipe, [SHORT, "rock"], audio_start_in_s=2.0, audio_end_in_s=[2.1, 2.2]), expected)
    assert_all_equal(generate(pipe, audio_end_in_s=0.1), generate(pipe, duration=0.1))
    assert_all_equal(generate(pipe, audio_start_in_s=3.0), generate(pipe, seconds_start=3.0))


# --- the state of a generation


def test_guidance_may_change_while_it_runs(pipe):
    """Up to the second step with one scale, then with another: as by hand in two parts of a first-order sampling."""
    calls = record_transformer(pipe)
    seen = []

    def change(pipe, step, t, tensors):
        seen.append((pipe.guidance_scale, pipe.num_timesteps))
        if step == 1:
            pipe.guidance_scale = 1.0

    changed = generate(pipe, callback_on_step_end=change, output_type="latent")
    assert seen == [(7.0, 4), (7.0, 4), (1.0, 4), (1.0, 4)]
    assert [len(call["latents"]) for call in calls] == [2, 2, 1, 1]
    assert relative_error(changed, generate(pipe, output_type="latent")) > 1e-3
    assert pipe.guidance_scale == 7.0  # of the last generation
    with pytest.raises(ValueError, match=r"guidance_scale must be in \[-100, 100\], got 1000"):
        generate(pipe, callback_on_step_end=lambda pipe, *_: setattr(pipe, "guidance_scale", 1000))


class ScaleCallback(PipelineCallback):
    """As those of diffusers: brings its own tensor names and sets the private name."""

    tensor_inputs = ["prompt_embeds", "negative_prompt_embeds"]

    def callback_fn(self, pipeline, step_index, timesteps, callback_kwargs):
        assert sorted(callback_kwargs) == sorted(self.tensor_inputs)
        pipeline._guidance_scale = 1.0
        return callback_kwargs


def test_callbacks_of_diffusers_work(pipe):
    calls = record_transformer(pipe)
    generate(pipe, callback_on_step_end=ScaleCallback())
    assert [len(call["latents"]) for call in calls] == [2, 1, 1, 1]


def test_before_any_generation_the_state_says_so():
    pipe = tiny_pipeline()
    assert (pipe.num_timesteps, pipe.current_timestep, pipe.interrupt) == (0, None, False)


# --- threads


def in_threads(pipe, arguments: list[dict]) -> list[torch.Tensor]:
    """Generations that are all inside their sampling at the same time."""
    barrier, results = threading.Barrier(len(arguments), timeout=60), [None] * len(arguments)

    def wait(pipe, step, t, tensors):
        barrier.wait()

    def work(number):
        results[number] = generate(pipe, callback_on_step_end=wait, **arguments[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(arguments))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("is_stochastic", [False, True])
def test_threads_share_a_pipeline(pipe, is_stochastic):
    """Step by step side by side, with prompts, lengths, scales and seeds of their own: each as alone."""
    if is_stochastic:
        pytest.importorskip("torchsde")
        pipe.scheduler = CosineDPMSolverMultistepScheduler(sigma_min=0.3, sigma_max=500.0)
    arguments = [
        {"prompt": prompt, "duration": duration, "guidance_scale": scale, "generator": seed(number)}
        for number, (prompt, duration, scale) in enumerate(
            [(SHORT, 0.2, 7.0), ("rock", 0.1, 1.0), ("piano", 0.05, 3.0)]
        )
    ]
    together = in_threads(pipe, arguments)
    for number, own in enumerate(arguments):
        assert_all_equal(together[number], generate(pipe, **own | {"generator": seed(number)}))


def test_the_pipelines_own_scheduler_is_left_alone(pipe):
    before = vars(pipe.scheduler).copy()
    generate(pipe)
    assert vars(pipe.scheduler).keys() == before.keys()
    assert all(vars(pipe.scheduler)[name] is value for name, value in before.items())


def test_a_callback_stops_its_own_thread_and_another_thread_stops_all(pipe):
    barrier, steps = threading.Barrier(2, timeout=60), {"a": 0, "b": 0}

    def work(name):
        def count(pipe, step, t, tensors):
            steps[name] += 1
            barrier.wait()
            pipe._interrupt = name == "a" and step == 1
            if name == "a" and step == 1:
                barrier.abort()

        def count_alone(pipe, step, t, tensors):
            try:
                count(pipe, step, t, tensors)
            except threading.BrokenBarrierError:
                return

        generate(pipe, callback_on_step_end=count_alone, num_inference_steps=5)

    threads = [threading.Thread(target=work, args=(name,)) for name in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert steps == {"a": 2, "b": 5}

    started, stopped, calls = threading.Event(), threading.Event(), []

    def wait(pipe, step, t, tensors):
        calls.append(step)
        started.set()
        stopped.wait(60)

    thread = threading.Thread(target=lambda: generate(pipe, callback_on_step_end=wait))
    thread.start()
    started.wait(60)
    pipe._interrupt = True
    stopped.set()
    thread.join(60)
    assert calls == [0]


# --- results are finite


def test_what_is_not_finite_is_not_returned_and_the_cause_is_named(pipe):
    with torch.no_grad():
        pipe.transformer.proj_out.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="latents that are not finite.* DiTTransformer1D are not: proj_out"):
        generate(pipe)
    for part in ("text_encoder", "timing_conditioner"):
        pipe = tiny_pipeline()
        component = getattr(pipe, part)
        with torch.no_grad():
            next(component.parameters()).fill_(torch.nan)
        with pytest.raises(ValueError, match=f"latents that are not finite.* {type(component).__name__} are not: "):
            generate(pipe)
    pipe = tiny_pipeline()
    latents = generate(pipe, output_type="latent")[0]
    with torch.no_grad():
        pipe.vae.decoder.conv1.bias[0] = torch.inf
    for decode in (pipe.decode_latents, lambda *arguments: list(pipe.stream_latents(*arguments))):
        with pytest.raises(ValueError, match="audio that is not finite.* are not: decoder.conv1.bias"):
            decode(latents, 0.1)


def test_numbers_that_overflow_are_named_as_the_cause(pipe):
    latents = torch.full((1, LATENT_CHANNELS, 64), 1e38)
    with pytest.raises(ValueError, match="guidance_scale=100, latents or embeddings are too large"):
        generate(pipe, latents=latents, guidance_scale=100.0)
    pipe.vae.decoder.conv2.weight_g.data.fill_(3e38)
    with pytest.raises(ValueError, match="the latents are too large"):
        pipe.decode_latents(torch.randn(LATENT_CHANNELS, 64, generator=seed(0)), 0.1)
    half = tiny_pipeline().to(torch.float16)
    half.transformer.proj_out.weight.data *= 1000
    half.transformer.proj_in.weight.data *= 1000
    with pytest.raises(ValueError, match="float16 overflows. Take bfloat16 or float32"):
        generate(half)
