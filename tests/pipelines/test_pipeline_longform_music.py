import collections
import logging
import math

import numpy as np
import pytest
import torch
from common import assert_all_equal, relative_error
from diffusers.schedulers import scheduling_dpmsolver_multistep
from diffusers.utils.torch_utils import randn_tensor
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
from torch.utils._python_dispatch import TorchDispatchMode

from stable_longform import LongFormMusicPipeline
from stable_longform.pipelines import guidance
from stable_longform.pipelines.guidance import guide
from stable_longform.schedulers.scheduling import make_scheduler

RATE = 8000
LONG = PROMPTS[0]


@pytest.fixture
def pipe():
    return tiny_pipeline()


# --- what comes out


def test_audio_is_trimmed_to_the_exact_number_of_samples(pipe):
    for duration in (0.25, 0.1, 0.1 + 0.4 / RATE, 0.0321, 1 / RATE):
        result = pipe(SHORT, duration, num_inference_steps=1)
        assert [audio.shape for audio in result.audios] == [(2, round(duration * RATE))]
        assert result.sampling_rate == RATE


def test_audio_as_it_is_decoded_is_the_audio(pipe):
    latents = generate(pipe, output_type="latent")[0]
    pipe.enable_vae_tiling(7)
    for duration in (0.25, 0.1 + 0.4 / RATE, 1 / RATE):
        chunks = list(pipe.stream_latents(latents, duration))
        assert len(chunks) == math.ceil(round(duration * RATE) / (7 * 32))
        assert torch.equal(torch.cat(chunks, dim=-1), pipe.decode_latents(latents, duration))


def test_without_a_duration_the_whole_window_comes_out(pipe):
    assert pipe.max_duration_in_s == pytest.approx(64 * 32 / RATE)
    assert generate(pipe)[0].shape == (2, 64 * 32)


def test_the_strides_and_rate_of_the_paper():
    pipe = tiny_pipeline(downsampling_ratios=(2, 4, 4, 8, 8), sampling_rate=44100, sample_size=8)
    assert pipe.max_duration_in_s == 8 * 2048 / 44100
    assert generate(pipe, duration=0.2, num_inference_steps=2)[0].shape == (2, 8820)


@pytest.mark.parametrize("algorithm_type", ["dpmsolver++", "sde-dpmsolver++"])
def test_an_item_does_not_depend_on_its_neighbours(pipe, algorithm_type):
    """P2, S5. Durations, starts and seeds of its own for each item, also with a stochastic sampler."""
    pipe.scheduler = make_scheduler(algorithm_type=algorithm_type)
    durations = [0.05, 0.25, 0.1101]
    generators = tuple(seed(number) for number in range(3))
    batch = generate(pipe, list(PROMPTS[:3]), duration=durations, generator=generators, seconds_start=[0.0, 9.0, 0.0])
    for i, (prompt, duration) in enumerate(zip(PROMPTS[:3], durations, strict=True)):
        start = 9.0 if i == 1 else 0.0
        alone = generate(pipe, prompt, duration=duration, generator=seed(i), seconds_start=start)[0]
        assert batch[i].shape == alone.shape == (2, round(duration * RATE))
        assert relative_error(batch[i], alone) < 1e-4


def test_results_of_a_prompt_are_next_to_each_other(pipe):
    """P6. What belongs to one prompt stays together."""
    prompts = [SHORT, PROMPTS[1]]
    batch = generate(
        pipe,
        prompts,
        duration=[0.05, 0.1],
        num_waveforms_per_prompt=2,
        generator=[seed(number) for number in range(4)],
        output_type="latent",
    )
    for i in range(4):
        alone = generate(pipe, prompts[i // 2], duration=[0.05, 0.1][i // 2], generator=seed(i), output_type="latent")
        assert relative_error(batch[i : i + 1], alone) < 1e-4
    audios = generate(pipe, prompts, duration=[0.05, 0.1], num_waveforms_per_prompt=2)
    assert [audio.shape[-1] for audio in audios] == [400, 400, 800, 800]


def test_the_same_seed_gives_the_same_audio_and_another_seed_another(pipe):
    first = generate(pipe)
    assert_all_equal(generate(pipe), first)
    assert relative_error(generate(pipe, generator=seed(1))[0], first[0]) > 0.1


def test_prompt_and_timing_are_heard(pipe):
    """A component that is not connected would leave the latents as they are."""
    first = generate(pipe, output_type="latent")
    changes = ({"prompt": PROMPTS[1]}, {"duration": 0.1}, {"seconds_start": 30.0}, {"seconds_total": 60.0})
    for change in changes:
        assert relative_error(generate(pipe, output_type="latent", **change), first) > 1e-3, change


def test_the_total_is_by_default_start_plus_duration(pipe):
    expected = generate(pipe, duration=0.2, seconds_start=30.0, seconds_total=30.2)
    assert_all_equal(generate(pipe, duration=0.2, seconds_start=30.0), expected)


def test_a_part_of_a_longer_piece(pipe):
    """P3, P4. Start and total only condition; the piece may be longer than the window, which is 0.256 s."""
    for start, total in ((0.125, 0.4), (100.0, 300.0), (0.0, 180.0)):
        audio = generate(pipe, duration=0.25, seconds_start=start, seconds_total=total)[0]
        assert audio.shape == (2, 2000) and audio.abs().max() > 1e-3


def test_a_stochastic_sampler_draws_once_a_step_from_the_generator_as_it_is(pipe, monkeypatch):
    """S1, S5. Neither a tree of draws for each step, nor the same noise again from a generator that has moved on."""
    pipe.scheduler = make_scheduler(algorithm_type="sde-dpmsolver++")
    latents, draws = torch.randn(1, LATENT_CHANNELS, 64, generator=seed(0)), []

    def draw(*args, **kwargs):
        draws.append(args)
        return randn_tensor(*args, **kwargs)

    monkeypatch.setattr(scheduling_dpmsolver_multistep, "randn_tensor", draw)
    generator = seed(1)
    first = generate(pipe, latents=latents, generator=generator, output_type="latent")
    assert len(draws) == 4
    assert relative_error(generate(pipe, latents=latents, generator=generator, output_type="latent"), first) > 0.01


def test_numbers_may_come_from_numpy_or_torch(pipe):
    expected = generate(pipe, [SHORT, SHORT], duration=[0.125, 0.25], seconds_start=[3.0, 3.0])
    for duration in (
        np.array([0.125, 0.25], dtype=np.float32),
        torch.tensor([0.125, 0.25]),
        (0.125, np.float64(0.25)),
    ):
        audios = generate(pipe, (SHORT, SHORT), duration=duration, seconds_start=np.float32(3.0), seconds_total=None)
        assert_all_equal(audios, expected)


def test_output_types(pipe):
    tensors, arrays = generate(pipe, duration=0.1), generate(pipe, duration=0.1, output_type="np")
    assert isinstance(arrays[0], np.ndarray) and arrays[0].dtype == np.float32
    np.testing.assert_array_equal(arrays[0], tensors[0].numpy())
    latents = generate(pipe, duration=0.1, output_type="latent")
    assert latents.shape == (1, LATENT_CHANNELS, 64)
    assert_all_equal([pipe.decode_latents(latents[0], 0.1)], tensors)
    with torch.no_grad():
        whole = pipe.vae.decoder(latents)[0, :, :800]
    torch.testing.assert_close(tensors[0], whole, rtol=1e-4, atol=1e-6)


def test_a_tuple_instead_of_an_output_object(pipe):
    """P9. For latents too."""
    for output_type in ("pt", "np", "latent"):
        audios, sampling_rate = pipe(SHORT, num_inference_steps=1, output_type=output_type, return_dict=False)
        assert len(audios) == 1 and sampling_rate == RATE


def test_initial_noise_may_be_given(pipe):
    latents = torch.randn(1, LATENT_CHANNELS, 64, generator=seed(0))
    kept = latents.clone()
    assert_all_equal(generate(pipe, latents=latents, generator=None), generate(pipe))
    assert torch.equal(latents, kept)
    assert_all_equal(generate(pipe, latents=latents.double(), generator=None), generate(pipe))


# --- decoding


@pytest.mark.parametrize("num_frames", [8, 16, 11, 1])
def test_decoding_in_chunks_changes_nothing_and_only_computes_what_was_asked_for(num_frames):
    """P1, V5. Nor is the whole window decoded."""
    pipe = tiny_pipeline(downsampling_ratios=(2, 4, 4, 8, 8), sample_size=48)
    duration = num_frames * 2048 / RATE
    pipe.disable_vae_tiling()
    expected = generate(pipe, duration=duration)[0]
    decoded = []
    pipe.vae.decoder.register_forward_pre_hook(lambda module, args: decoded.append(args[0].shape[-1]))
    pipe.enable_vae_tiling(4)
    audio = generate(pipe, duration=duration)[0]
    torch.testing.assert_close(audio, expected, rtol=1e-4, atol=1e-6)
    context, num_chunks = pipe.vae.decoder_context, math.ceil(num_frames / 4)
    assert len(decoded) == num_chunks
    assert max(decoded) <= 4 + 2 * context
    assert sum(decoded) <= num_frames + 2 * context * num_chunks
    decoded.clear()
    pipe.disable_vae_tiling()
    generate(pipe, duration=duration)
    assert decoded == [num_frames + context]


def test_slicing_of_the_autoencoder_changes_nothing(pipe):
    expected = generate(pipe, [SHORT, SHORT])
    pipe.enable_vae_slicing()
    assert_all_equal(generate(pipe, [SHORT, SHORT]), expected)
    pipe.disable_vae_slicing()
    assert not pipe.vae.use_slicing


# --- guidance


def velocity_by_hand(pipe, latents, t, text, timing_tokens, global_states):
    condition = torch.cat([text, timing_tokens], dim=1)
    with torch.no_grad():
        return pipe.transformer(latents, t, condition, global_states).sample


@pytest.mark.parametrize("guidance_scale", [1.0, 0.0, 3.0])
@pytest.mark.parametrize("negative_prompt", [None, "rock"])
def test_one_step_by_hand(pipe, guidance_scale, negative_prompt):
    """v = v_u + s·(v_c − v_u), then the data α·x − σ·v. Only text and timing tokens are dropped, or replaced."""
    noise = torch.randn(1, LATENT_CHANNELS, 64, generator=seed(0))
    result = generate(
        pipe,
        seconds_start=10.0,
        seconds_total=200.0,
        num_inference_steps=1,
        latents=noise,
        guidance_scale=guidance_scale,
        negative_prompt=negative_prompt,
        output_type="latent",
    )
    t = torch.tensor([2 / math.pi * math.atan(500.0)])
    with torch.no_grad():
        text, _ = pipe.encode_prompt(SHORT)
        timing = pipe.timing_conditioner(torch.tensor([10.0]), torch.tensor([200.0]))
        negative, negative_timing = torch.zeros_like(text), torch.zeros_like(timing.encoder_hidden_states)
        if negative_prompt:
            num_tokens = len(pipe.tokenizer(negative_prompt).input_ids)
            assert num_tokens < MAX_LENGTH
            negative, negative_timing = pipe.encode_prompt(negative_prompt)[0], timing.encoder_hidden_states
            negative[:, num_tokens:] = 0
    global_states = timing.global_hidden_states
    conditional = velocity_by_hand(pipe, noise, t, text, timing.encoder_hidden_states, global_states)
    unconditional = velocity_by_hand(pipe, noise, t, negative, negative_timing, global_states)
    v = unconditional + guidance_scale * (conditional - unconditional)
    assert relative_error(unconditional, conditional) > 1e-2
    expected = torch.cos(t * math.pi / 2) * noise - torch.sin(t * math.pi / 2) * v
    assert relative_error(result, expected) < 1e-5


def test_without_guidance_the_transformer_sees_each_item_once(pipe):
    calls = record_transformer(pipe)
    first = generate(pipe, [SHORT, SHORT], guidance_scale=1.0, output_type="latent")
    assert [len(call["latents"]) for call in calls] == [2] * 4
    calls.clear()
    assert torch.equal(generate(pipe, [SHORT, SHORT], guidance_interval=(0.0, 0.0), output_type="latent"), first)
    assert [len(call["latents"]) for call in calls] == [2] * 4


def test_guidance_is_on_within_its_interval(pipe):
    """P12."""
    calls = record_transformer(pipe)
    generate(pipe, num_inference_steps=10, guidance_interval=(0.4, 0.8))
    inside = [0.4 <= float(call["timestep"][0]) <= 0.8 for call in calls]
    assert 0 < sum(inside) < 10
    assert [len(call["latents"]) for call in calls] == [2 if guided else 1 for guided in inside]


def test_a_pipeline_can_have_its_own_guidance_interval(tmp_path, pipe):
    expected = generate(pipe, num_inference_steps=6, guidance_interval=(0.0, 0.5))
    own = LongFormMusicPipeline(**pipe.components, guidance_interval=(0.0, 0.5))
    own.set_progress_bar_config(disable=True)
    assert_all_equal(generate(own, num_inference_steps=6), expected)
    always = generate(own, num_inference_steps=6, guidance_interval=(0.0, 1.0))
    assert_all_equal(always, generate(pipe, num_inference_steps=6))
    assert not torch.equal(always[0], expected[0])
    own.save_pretrained(tmp_path)
    loaded = LongFormMusicPipeline.from_pretrained(tmp_path)
    assert list(loaded.config.guidance_interval) == [0.0, 0.5]
    with pytest.raises(ValueError, match=r"guidance_interval must be two rising times in \[0, 1\], got \(0.5, 2\)"):
        LongFormMusicPipeline(**pipe.components, guidance_interval=(0.5, 2))


def test_the_null_branch_keeps_the_global_timing_and_has_no_text(pipe):
    calls = record_transformer(pipe)
    generate(pipe, seconds_total=100.0, num_inference_steps=1)
    call = calls[0]
    assert call["encoder_hidden_states"].shape == (1, MAX_LENGTH + 2, WIDTH) and len(call["latents"]) == 2
    assert call["encoder_hidden_states"].any(dim=-1).all()
    null, conditional = call["global_hidden_states"]
    assert torch.equal(null, conditional) and null.any()


def test_an_unguided_item_beside_a_negative_prompt_is_as_alone(pipe):
    """Zeros among the negative embeddings are an item without a negative prompt."""
    text = pipe.encode_prompt(PROMPTS[1])[0]
    prompts, arguments = [SHORT, PROMPTS[2]], {"output_type": "latent", "num_inference_steps": 2}
    negative = torch.cat([torch.zeros_like(text), text])
    both = generate(pipe, prompts, negative_prompt_embeds=negative, generator=[seed(1), seed(2)], **arguments)
    first = generate(pipe, prompts[0], generator=seed(1), **arguments)
    second = generate(pipe, prompts[1], negative_prompt_embeds=text, generator=seed(2), **arguments)
    assert relative_error(both[0], first[0]) < 1e-5
    assert relative_error(both[1], second[0]) < 1e-5


@pytest.mark.parametrize("negative_prompt", [None, PROMPTS[3], [PROMPTS[3], PROMPTS[2]]])
def test_branches_in_turn_are_branches_in_a_batch(pipe, monkeypatch, negative_prompt):
    arguments = {"prompt": [SHORT, PROMPTS[1]], "negative_prompt": negative_prompt, "output_type": "latent"}
    calls = record_transformer(pipe)
    expected = generate(pipe, **arguments)
    monkeypatch.setattr(guidance, "MIN_TOKENS_IN_TURN", 64)
    assert relative_error(generate(pipe, **arguments), expected) < 1e-5
    assert [len(call["latents"]) for call in calls] == [4] * 4 + [2] * 8


class Counter(TorchDispatchMode):
    """Counts the operations that are dispatched, and those that make random numbers or copy, by name."""

    def __init__(self):
        super().__init__()
        self.names = collections.Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names[operation.overloadpacket.__name__] += 1
        return operation(*args, **(kwargs or {}))


def operations_of_a_step(pipe, **arguments):
    """Operations in one step of the sampling loop, after the first two."""
    counter, totals = Counter(), []

    def note(pipe, step, t, tensors):
        totals.append(counter.names.copy())

    with counter:
        generate(pipe, output_type="latent", num_inference_steps=6, callback_on_step_end=note, **arguments)
    assert totals[3] - totals[2] == totals[4] - totals[3]
    return totals[4] - totals[3]


def test_nothing_is_copied_or_computed_twice_in_the_loop(pipe):
    """P13. In a step there is no `.to`, and no projection of what stays the same: text, timing, positions."""
    names = operations_of_a_step(pipe)
    assert names["_to_copy"] == 0
    # Per block four linear maps of self-attention, two of cross-attention, two of the feed-forward; two of the time,
    # one at each end. The text's three each and the global timing's two are missing.
    assert names["mm"] + names["addmm"] == 8 * len(pipe.transformer.transformer_blocks) + 4
    assert names["cos"] == names["sin"] == 1  # of the time
    assert names["_local_scalar_dense"] == 0


@pytest.mark.parametrize("mask_text_padding", [False, True])
def test_what_is_kept_between_steps_changes_nothing(mask_text_padding):
    """With a hook on a block nothing is kept, since a library may have moved its weights."""
    pipe = tiny_pipeline(mask_text_padding=mask_text_padding)
    expected = generate(pipe, negative_prompt=PROMPTS[3], output_type="latent")
    names = operations_of_a_step(pipe)
    pipe.transformer.transformer_blocks[0].register_forward_hook(lambda *_: None)
    assert operations_of_a_step(pipe)["mm"] > names["mm"]
    assert relative_error(generate(pipe, negative_prompt=PROMPTS[3], output_type="latent"), expected) < 1e-6


@pytest.mark.parametrize("mask_text_padding", [False, True])
def test_a_negative_prompt_equal_to_the_prompt_switches_guidance_off(mask_text_padding):
    """With a prompt of full length: the padding of a negative prompt is zeroed."""
    pipe = tiny_pipeline(mask_text_padding=mask_text_padding)
    expected = generate(pipe, LONG, guidance_scale=1.0, output_type="latent")
    result = generate(pipe, LONG, negative_prompt=LONG, guidance_scale=3.0, output_type="latent")
    assert relative_error(result, expected) < 1e-4
    assert relative_error(generate(pipe, LONG, guidance_scale=3.0, output_type="latent"), expected) > 1e-2


def test_one_negative_prompt_serves_all_prompts(pipe):
    """P10."""
    prompts = [SHORT, PROMPTS[1]]
    arguments = {"num_waveforms_per_prompt": 2, "output_type": "latent"}
    expected = generate(pipe, prompts, negative_prompt=["rock", "rock"], **arguments)
    assert relative_error(generate(pipe, prompts, negative_prompt="rock", **arguments), expected) < 1e-5
    assert relative_error(generate(pipe, prompts, **arguments), expected) > 1e-3


def test_rescaling_gives_each_frame_the_deviation_of_the_conditional():
    unconditional, conditional = torch.randn(2, 3, 8, 5, generator=seed(0))
    guided = guide(unconditional, conditional, 7.0)
    torch.testing.assert_close(guided, 7 * conditional - 6 * unconditional)
    rescaled = guide(unconditional, conditional, 7.0, 1.0)
    torch.testing.assert_close(rescaled.std(dim=1), conditional.std(dim=1))
    torch.testing.assert_close(rescaled / guided, (rescaled / guided)[:, :1].expand_as(guided))
    half = guide(unconditional, conditional, 7.0, 0.5)
    torch.testing.assert_close(half, (guided + rescaled) / 2)


def test_rescaling_is_used(pipe):
    """P12."""
    first = generate(pipe, output_type="latent")
    assert relative_error(generate(pipe, guidance_rescale=0.7, output_type="latent"), first) > 1e-3


# --- text


def test_embeddings_instead_of_texts(pipe):
    """P10. A negative text goes with embeddings of the prompt."""
    prompts, negative = [SHORT, PROMPTS[1]], ["rock", "drums"]
    expected = generate(pipe, prompts, negative_prompt=negative)
    embeds, mask = pipe.encode_prompt(prompts)
    assert embeds.shape == (2, MAX_LENGTH, WIDTH) and mask is None
    assert_all_equal(generate(pipe, None, prompt_embeds=embeds, negative_prompt=negative), expected)
    tokens = pipe.tokenizer(negative, padding="max_length", max_length=MAX_LENGTH, return_tensors="pt")
    negative_arguments = {
        "negative_prompt_embeds": pipe.encode_prompt(negative)[0],
        "negative_prompt_attention_mask": tokens.attention_mask.bool(),
    }
    assert_all_equal(generate(pipe, None, prompt_embeds=embeds, **negative_arguments), expected)
    assert_all_equal(generate(pipe, prompts, **negative_arguments), expected)


def test_masking_the_padding_equals_cutting_it_off(pipe):
    """P14. Masks reach the transformer."""
    masked = tiny_pipeline(mask_text_padding=True)
    result = generate(masked, output_type="latent")
    embeds, mask = masked.encode_prompt(SHORT)
    num_tokens = int(mask.sum())
    assert num_tokens < MAX_LENGTH
    cut = generate(pipe, None, prompt_embeds=embeds[:, :num_tokens], output_type="latent")
    assert relative_error(result, cut) < 1e-4
    by_hand = generate(pipe, None, prompt_embeds=embeds, prompt_attention_mask=mask, output_type="latent")
    assert torch.equal(by_hand, result)
    assert relative_error(generate(pipe, output_type="latent"), cut) > 1e-3


def test_the_mask_of_the_prompt_does_not_hide_the_negative_prompt():
    """At guidance scale 0 only the negative prompt counts, whatever the prompt and its mask."""
    pipe = tiny_pipeline(mask_text_padding=True)
    arguments = {"negative_prompt": PROMPTS[1], "guidance_scale": 0.0, "output_type": "latent"}
    expected = generate(pipe, LONG, **arguments)
    assert relative_error(generate(pipe, SHORT, **arguments), expected) < 1e-5


def test_a_prompt_that_is_cut_is_reported(pipe, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    name = "stable_longform.pipelines.conditioning"
    with caplog.at_level(logging.WARNING, logger=name):
        pipe.encode_prompt(SHORT)
        assert not caplog.records
        pipe.encode_prompt([SHORT, LONG])
    assert [record.name for record in caplog.records] == [name]
    assert repr(LONG) in caplog.text and str(MAX_LENGTH) in caplog.text


# --- precision


def test_in_bfloat16_times_and_latents_stay_in_float32():
    """T1."""
    pipe = tiny_pipeline().to(torch.bfloat16)
    calls, dtypes = record_transformer(pipe), []

    def keep(pipe, step, t, tensors):
        dtypes.append(tensors["latents"].dtype)

    audio = generate(pipe, num_inference_steps=100, callback_on_step_end=keep)[0]
    assert audio.dtype == torch.bfloat16 and audio.isfinite().all()
    assert dtypes == [torch.float32] * 100
    times = torch.stack([call["timestep"][0] for call in calls])
    levels = torch.exp(torch.linspace(math.log(500.0), math.log(0.3), 100, dtype=torch.float64))
    assert times.dtype == torch.float32
    torch.testing.assert_close(times.double(), 2 / math.pi * torch.atan(levels), rtol=0, atol=2e-7)
    assert len(times.unique()) == 100
    assert {call["latents"].dtype for call in calls} == {torch.bfloat16}
    assert generate(pipe, num_inference_steps=1, output_type="np")[0].dtype == np.float32


def test_in_bfloat16_guidance_is_computed_in_float32():
    pipe = tiny_pipeline().to(torch.bfloat16)
    outputs = []
    pipe.transformer.register_forward_hook(lambda module, args, output: outputs.append(output[0]))
    noise = torch.randn(1, LATENT_CHANNELS, 64, generator=seed(0))
    result = generate(pipe, latents=noise, num_inference_steps=1, guidance_scale=7.0, output_type="latent")
    unconditional, conditional = outputs[0].float().chunk(2)
    v = unconditional + 7 * (conditional - unconditional)
    t = torch.tensor(2 / math.pi * math.atan(500.0))
    assert relative_error(result, torch.cos(t * math.pi / 2) * noise - torch.sin(t * math.pi / 2) * v) < 1e-5


def test_bfloat16_is_close_to_float32_and_tells_one_second_from_the_next(pipe):
    """T2."""
    half = tiny_pipeline().to(torch.bfloat16)
    arguments = {"output_type": "latent", "guidance_scale": 2.0}
    assert relative_error(generate(half, **arguments), generate(pipe, **arguments)) < 0.1
    calls = record_transformer(half)
    for total in (284.0, 285.0):
        generate(half, seconds_total=total, num_inference_steps=1)
    assert not torch.equal(calls[0]["global_hidden_states"], calls[1]["global_hidden_states"])
