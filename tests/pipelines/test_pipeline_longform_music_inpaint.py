"""Inpainting, continuation and loops: what is kept, what is heard of it, and how the borders sound."""

import math

import numpy as np
import pytest
import torch
from common import assert_all_equal, relative_error
from diffusers import CosineDPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from tiny_pipeline import LATENT_CHANNELS, PROMPTS, SHORT, generate, record_transformer, seed, tiny_pipeline

from stable_longform import (
    LongFormMusicAudioToAudioPipeline,
    LongFormMusicInpaintPipeline,
    LongFormMusicPipeline,
    noise_schedule,
)
from stable_longform.metrics.clicks import click_ratio
from stable_longform.pipelines import schedules
from stable_longform.pipelines.sampling import WindowedVelocity
from stable_longform.pipelines.windows import place_window, window_starts
from stable_longform.schedulers import scheduling
from stable_longform.schedulers.scheduling import make_scheduler
from stable_longform.schedulers.scheduling_ping_pong import PingPongScheduler

RATE, HOP, WINDOW = 8000, 32, 64  # Hz, samples, frames


@pytest.fixture(scope="module")
def pipe():
    pipe = tiny_pipeline(LongFormMusicInpaintPipeline)
    pipe.vae.decoder.conv2.weight_g.data *= 0.02  # well within full scale
    return pipe


@pytest.fixture
def audio(make_audio):
    return make_audio(1600, sampling_rate=RATE)


def inpaint(pipe, audio, prompt=SHORT, **arguments):
    """Three steps from a seed; returns what the pipeline calls `audios`."""
    defaults = {"num_inference_steps": 3, "num_repeats": 1, "generator": seed(0), "crossfade_in_s": 0.004}
    return pipe(prompt, audio, **defaults | arguments).audios


# --- what is kept


def test_what_is_kept_is_kept_bit_for_bit_and_the_rest_is_new(pipe, audio):
    regions = [(0.02, 0.0501), (0.1, 0.101), (0.15, 0.2)]
    result = inpaint(pipe, audio, regions=regions, crossfade_in_s=None)[0]  # at most half of each region
    is_new = torch.zeros(1600, dtype=torch.bool)
    for start, stop in regions:
        is_new[round(start * RATE) : round(stop * RATE)] = True
    assert result.shape == audio.shape
    assert torch.equal(result[:, ~is_new], audio[:, ~is_new])
    assert (result[:, is_new] != audio[:, is_new]).float().mean() > 0.99


def test_a_mask_of_frames_is_regions_of_whole_frames(pipe, audio):
    mask = torch.zeros(50, dtype=torch.bool)
    mask[[3, 4, 5, 20, 48, 49]] = True
    regions = [(first * HOP / RATE, stop * HOP / RATE) for first, stop in ((3, 6), (20, 21), (48, 50))]
    expected = inpaint(pipe, audio, regions=torch.tensor(regions), crossfade_in_s=0.001)
    for same in (mask, mask.numpy(), mask.numpy()[::-1].copy()[::-1]):
        assert_all_equal(inpaint(pipe, audio, mask=same, crossfade_in_s=0.001), expected)


@pytest.mark.parametrize("prepend", [0.0, 0.03])
def test_audio_is_continued_at_both_ends(pipe, audio, prepend):
    result = inpaint(pipe, audio[:, :1000], prepend_in_s=prepend, extend_to=0.2)[0]
    first = round(prepend * RATE)
    assert result.shape == (2, 1600)
    assert torch.equal(result[:, first : first + 1000], audio[:, :1000])
    for new in (result[:, :first], result[:, first + 1000 :]):
        assert new.numel() == 0 or (new.abs().amax(dim=1) > 1e-4).all()


def test_the_new_part_is_the_models(pipe, audio):
    """Inside the crossfades the result is decoded latents, whose kept frames are those of the autoencoder."""
    latents = inpaint(pipe, audio, regions=[(0.05, 0.1)], output_type="latent")[0]
    result = inpaint(pipe, audio, regions=[(0.05, 0.1)])[0]
    with torch.no_grad():
        encoded = pipe.vae.encode(audio[None]).latent_dist.mode()[0]
        decoded = pipe.vae.decode(latents[None]).sample[0, :, :1600]
    is_free = torch.zeros(50, dtype=torch.bool)
    is_free[400 // HOP : math.ceil(800 / HOP)] = True
    assert relative_error(latents[:, ~is_free], encoded[:, ~is_free]) < 1e-5
    assert relative_error(latents[:, is_free], encoded[:, is_free]) > 0.1
    assert relative_error(result[:, 432:768], decoded[:, 432:768]) < 1e-4


def test_all_new_but_a_frame_is_like_text_to_music(pipe, audio):
    """The model sees the prompt and the timing that text to music shows it."""
    calls = record_transformer(pipe)
    inpaint(pipe, audio[:, :HOP], extend_to=0.2, num_inference_steps=1)
    generate(LongFormMusicPipeline.from_pipe(pipe), duration=0.2, num_inference_steps=1)
    ours, theirs = calls[-2:]
    assert torch.equal(ours["global_hidden_states"], theirs["global_hidden_states"])
    assert torch.equal(ours["encoder_hidden_states"], theirs["encoder_hidden_states"])
    assert ours["latents"].shape == theirs["latents"].shape


def test_the_model_hears_what_is_kept_within_the_context(pipe, audio):
    region = {"regions": [(0.1, 0.12)]}  # frames 25 to 29
    first = inpaint(pipe, audio, **region)[0][:, 840:920]
    other = audio.clone()
    other[:, :300] *= -1
    assert relative_error(inpaint(pipe, other, **region)[0][:, 840:920], first) > 1e-3
    calls = record_transformer(pipe)
    inpaint(pipe, audio, context_in_s=0.02, num_inference_steps=1, **region)
    with torch.no_grad():
        music = pipe.vae.encode(audio[None]).latent_dist.mode()
    noise = torch.randn(1, LATENT_CHANNELS, WINDOW, generator=seed(0))
    shown, t = calls[0]["latents"][:1], calls[0]["timestep"][:1]
    for frames, kept in ((slice(0, 5), music[..., 20:25]), (slice(10, 15), music[..., 30:35])):
        expected = noise_schedule.add_noise(kept, noise[..., frames], t)
        assert relative_error(shown[..., frames], expected) < 1e-5
    assert torch.equal(shown[..., 5:10], noise[..., 5:10]) and torch.equal(shown[..., 15:], noise[..., 15:])


def test_the_prompt_the_negative_prompt_and_the_repeats_are_heard(pipe, audio):
    first = inpaint(pipe, audio, regions=[(0.1, 0.15)])[0]
    for change in ({"prompt": PROMPTS[1]}, {"negative_prompt": PROMPTS[1]}, {"num_repeats": 2}):
        assert relative_error(inpaint(pipe, audio, regions=[(0.1, 0.15)], **change)[0], first) > 1e-3, change


def test_an_item_does_not_depend_on_its_neighbours(pipe, make_audio):
    audios = [make_audio(samples, sampling_rate=RATE, seed=samples) for samples in (1000, 1600)]
    pipe = LongFormMusicInpaintPipeline.from_pipe(pipe, scheduler=make_scheduler(algorithm_type="sde-dpmsolver++"))
    pipe.set_progress_bar_config(disable=True)
    arguments = {"regions": [(0.02, 0.05), (0.1, 0.11)], "num_repeats": 2, "context_in_s": 0.01}
    batch = inpaint(pipe, audios, list(PROMPTS[:2]), generator=[seed(0), seed(1)], **arguments)
    for number, (audio, prompt) in enumerate(zip(audios, PROMPTS, strict=False)):
        alone = inpaint(pipe, audio, prompt, generator=seed(number), **arguments)[0]
        assert relative_error(batch[number], alone) < 1e-4


# --- borders


def ratios(result: torch.Tensor, *seconds: float) -> list[float]:
    return [click_ratio(result, round(second * RATE), 400) for second in seconds]


def test_borders_do_not_click(pipe, audio):
    """Were the crossfade missing, or outside the region, the jump would stand out."""
    smooth = torch.nn.functional.avg_pool1d(audio, 9, 1, 4)
    arguments = {"regions": [(0.05, 0.1)], "crossfade_in_s": 0.01}
    assert max(ratios(inpaint(pipe, smooth, **arguments)[0], 0.05, 0.1)) <= 1
    extended = inpaint(pipe, smooth, extend_to=0.25, prepend_in_s=0.03, crossfade_in_s=0.01)[0]
    assert max(ratios(extended, 0.03, 0.23)) <= 1


def test_a_loop_meets_its_beginning(pipe, audio):
    smooth = torch.nn.functional.avg_pool1d(audio, 9, 1, 4)
    result = inpaint(pipe, smooth, extend_to=0.25, loop=True, crossfade_in_s=0.01)[0]
    assert torch.equal(result[:, :1600], smooth)
    twice = torch.cat([result, result], dim=1)
    assert max(ratios(twice, 0.2, 0.25)) <= 1
    region = inpaint(pipe, smooth, regions=[(0.15, 0.2)], loop=True, crossfade_in_s=0.01)[0]
    assert torch.equal(region[:, :1200], smooth[:, :1200])
    assert max(ratios(torch.cat([region, region], dim=1), 0.15, 0.2)) <= 1


def test_a_loop_that_is_entered_elsewhere_is_the_same_loop(pipe, audio):
    arguments = {"loop": True, "output_type": "pt"}
    first = inpaint(pipe, audio, regions=[(0.16, 0.2)], **arguments)[0]
    turned = inpaint(pipe, audio.roll(320, dims=1), regions=[(0.0, 0.04)], **arguments)[0]
    assert relative_error(turned, first.roll(320, dims=1)) < 1e-5


# --- long music


def test_music_longer_than_the_window(pipe, audio):
    calls = record_transformer(pipe)
    result = inpaint(pipe, audio, extend_to=1.0)[0]
    assert result.shape == (2, 8000)
    assert torch.equal(result[:, :1600], audio)
    parts = result[:, 1600:].unfold(1, 320, 320)
    assert (parts.abs().amax(dim=(0, 2)) > 1e-4).all(), "music to the end"
    assert {call["latents"].shape[-1] for call in calls} == {WINDOW}
    length = 200 + WINDOW // 4  # frames after the audio, and what the first window hears of it
    assert len(calls) == 3 * len(window_starts(length, WINDOW, 1))


def test_a_piece_may_last_longer_than_the_model_knows(pipe, audio):
    """Times beyond the timing conditioner's 512 s are those of `place_window`."""
    window_in_s = WINDOW * HOP / RATE
    region = {"regions": [(0.05, 0.15)], "window_in_s": window_in_s}
    end, middle = {"seconds_start": 3599.8, "seconds_total": 3600.0}, {"seconds_start": 600.0, "seconds_total": 3600.0}
    known = {"seconds_start": 511.8, "seconds_total": 512.0}
    at_end, in_the_middle = inpaint(pipe, audio, **region, **end)[0], inpaint(pipe, audio, **region, **middle)[0]
    torch.testing.assert_close(at_end, inpaint(pipe, audio, **region, **known)[0], atol=1e-5, rtol=1e-4)
    assert relative_error(in_the_middle, at_end) > 1e-3


def test_a_small_region_of_long_music_costs_one_window(pipe, make_audio):
    long = make_audio(16000, sampling_rate=RATE)
    calls = record_transformer(pipe)
    result = inpaint(pipe, long, regions=[(0.9, 0.95)], num_repeats=2)[0]
    assert torch.equal(result[:, :7200], long[:, :7200]) and torch.equal(result[:, 7600:], long[:, 7600:])
    assert [call["latents"].shape[-1] for call in calls] == [WINDOW] * 3 * 2


def test_a_stream_is_the_result(pipe, audio):
    for arguments in ({"extend_to": 0.5}, {"extend_to": 0.5, "loop": True, "prepend_in_s": 0.01}):
        chunks = list(inpaint(pipe, audio, output_type="stream", **arguments)[0])
        assert len(chunks) > 1
        assert_all_equal([torch.cat(chunks, dim=1)], inpaint(pipe, audio, **arguments))


def test_windows_that_agree_are_one():
    """Weights of overlapping windows sum to 1 everywhere."""
    latents = torch.randn(1, 2, 100, generator=seed(0))
    for window, step in ((16, 1), (16, 4), (100, 1), (64, 1)):
        starts = window_starts(100, window, step) if window < 100 else [0]
        assert starts[0] == 0 and starts[-1] + window == 100
        assert all(0 < b - a <= window / 2 + step for a, b in zip(starts, starts[1:], strict=False))
        velocity = WindowedVelocity([lambda latents, t, time: 3 * latents] * len(starts), starts, window)
        torch.testing.assert_close(velocity(latents, None, 0.5), 3 * latents)


def test_a_window_fades_into_the_next():
    """Of two windows that overlap by half, the share of the second rises in a straight line from nothing to all."""
    window = 16
    velocities = [lambda latents, t, time, value=value: torch.full_like(latents, value) for value in (0.0, 1.0)]
    mean = WindowedVelocity(velocities, [0, window // 2], window)(torch.zeros(1, 1, 24), None, 0.5)[0, 0]
    rising = (torch.arange(8) + 0.5) / 8
    torch.testing.assert_close(mean, torch.cat([torch.zeros(8), rising, torch.ones(8)]))


def test_where_a_window_is_said_to_be():
    """The model's end and beginning are those of the piece, and between them it never hears of either."""
    assert place_window(10, 200, 50, 512) == (10, 200)
    for total in (600.0, 3600.0):
        places = [place_window(start, total, 190, 512) for start in (0.0, 100.0, total / 2, total - 290, total - 190)]
        assert {end for _, end in places} == {512}
        starts = [start for start, _ in places]
        assert starts == sorted(starts)
        assert starts[0] == 0 and starts[-1] == 512 - 190
        assert all(0 <= start <= 322 for start in starts)


# --- RePaint


@pytest.mark.parametrize(
    "scheduler",
    [make_scheduler(), CosineDPMSolverMultistepScheduler(sigma_min=0.3, sigma_max=500), PingPongScheduler()],
)
def test_a_step_that_is_undone_has_the_noise_of_before(scheduler):
    scheduling.set_timesteps(scheduler, 4)
    draws = [torch.randn(1, 1, 100_000, generator=seed(number)) for number in (0, 1)]
    music, times = torch.full_like(draws[0], 2.0), [*scheduler.timesteps, torch.tensor(0.0)]
    for step in range(4):
        noisy = noise_schedule.add_noise(music, draws[0], times[step + 1])
        after = schedules.in_scheduler_scale(scheduler, noisy, times[step + 1])
        before = schedules.undo_step(scheduler, step, after, draws[1], "v_prediction")
        scale = float(schedules.in_scheduler_scale(scheduler, torch.tensor(1.0), times[step]))
        a, s = noise_schedule.amplitudes(times[step])
        assert float(before.mean()) / scale == pytest.approx(float(2 * a), abs=0.02)
        assert float(before.std()) / scale == pytest.approx(float(s), abs=0.01)


def test_few_steps_of_a_distilled_model_and_rectified_flow(pipe, audio):
    """Other schedulers, other meanings of time: what is kept is shown with the noise of the step."""
    for scheduler in (*map(PingPongScheduler, noise_schedule.PREDICTION_TYPES), FlowMatchEulerDiscreteScheduler()):
        prediction_type = scheduler.config.get("prediction_type", "flow_prediction")
        other = LongFormMusicInpaintPipeline.from_pipe(pipe, scheduler=scheduler, prediction_type=prediction_type)
        other.set_progress_bar_config(disable=True)
        calls = record_transformer(other)
        result = inpaint(other, audio, regions=[(0.1, 0.15)], num_repeats=2, guidance_scale=1)[0]
        assert torch.equal(result[:, :800], audio[:, :800]) and len(calls) == 6
        with torch.no_grad():
            music = pipe.vae.encode(audio[None]).latent_dist.mode()[:, :, :20]
        noise = torch.randn(1, LATENT_CHANNELS, WINDOW, generator=seed(0))[:, :, :20]
        for call in calls:
            expected = noise_schedule.add_noise(music, noise, call["timestep"], prediction_type)
            assert relative_error(call["latents"][..., :20], expected) < 1e-5


def test_each_step_is_taken_as_often_as_was_said(pipe, audio):
    calls, steps = record_transformer(pipe), []
    inpaint(
        pipe,
        audio,
        regions=[(0.1, 0.15)],
        num_repeats=3,
        num_inference_steps=2,
        callback_on_step_end=lambda pipe, step, t, tensors: steps.append(step) or {},
    )
    times = [round(float(call["timestep"][0]), 6) for call in calls]
    assert len(times) == 6 and times[:3] == times[:1] * 3 and times[3:] == times[3:4] * 3
    assert steps == [0, 1]


def test_known_frames_carry_their_noise_in_every_step(pipe, audio):
    """What the model is shown of kept frames is the music with the noise of the step, also when steps repeat."""
    calls = record_transformer(pipe)
    inpaint(pipe, audio, regions=[(0.1, 0.15)], num_repeats=2)
    with torch.no_grad():
        music = pipe.vae.encode(audio[None]).latent_dist.mode()[0, :, :20]
    noise = torch.randn(LATENT_CHANNELS, WINDOW, generator=seed(0))[:, :20]
    for call in calls:
        angle = float(call["timestep"][0]) * math.pi / 2
        expected = math.cos(angle) * music + math.sin(angle) * noise
        assert relative_error(call["latents"][0, :, :20], expected) < 1e-5


# --- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "There is nothing to generate"),
        ({"regions": [(0, 0.2)]}, "Nothing is kept"),
        ({"regions": [(0.1, 0.3)]}, r"within the audio, 0 <= start < stop <= 0.2 s, got 0.1-0.3"),
        ({"regions": [(0.1, 0.1)]}, "within the audio"),
        ({"regions": [(-1, 0.1)]}, "within the audio"),
        ({"regions": [(math.nan, 0.1)]}, "pairs .* of finite seconds"),
        ({"regions": [(0.1, 0.10001)]}, "at least one sample"),
        ({"regions": [(0.05, 0.1), (0.08, 0.12)]}, "not overlap, got 0.08-0.12"),
        ({"regions": [(0.1, 0.12), (0.01, 0.02)]}, "rise"),
        ({"regions": 3}, "pairs"),
        ({"regions": [0.1, 0.2]}, "pairs"),
        ({"mask": torch.ones(50)}, "boolean"),
        ({"mask": torch.ones(51, dtype=torch.bool)}, r"\(50,\)"),
        ({"mask": torch.ones(50, dtype=torch.bool), "regions": [(0, 0.1)]}, "not both"),
        ({"extend_to": 0.1}, r"extend_to must be in \[0.201, 3600\] seconds, got 0.1"),
        ({"extend_to": 4000}, "extend_to must be in"),
        ({"extend_to": math.inf}, "extend_to must be finite"),
        ({"extend_to": 0.2005}, r"extend_to must be in \[0.201, 3600\] seconds, got 0.2005"),
        ({"prepend_in_s": -1}, "prepend_in_s"),
        ({"prepend_in_s": 0.0005}, "prepend_in_s must be 0 or at least 0.001 s, got 0.0005"),
        ({"prepend_in_s": 3600}, "The result must last at most 3600 s, got 3600.2 s"),
        ({"extend_to": 0.4, "loop": "yes"}, "loop must be true or false, got 'yes'"),
        ({"regions": [(0.05, 0.1)], "loop": True}, "A loop needs new music at one end"),
        ({"regions": [(0.05, 0.1)], "context_in_s": -1}, "context_in_s"),
        ({"regions": torch.tensor([[0.05, 0.1]], device="meta")}, "regions must be numbers, got a tensor"),
        ({"regions": [(0, 10**400)]}, "pairs .* of finite seconds"),
        ({"mask": torch.zeros(50, dtype=torch.bool, device="meta")}, "mask must be a dense tensor .* meta device"),
        ({"mask": np.zeros(50, dtype=object)}, r"mask must be boolean, of shape \(50,\).* dtype object"),
        ({"mask": torch.zeros(50, dtype=torch.bool).to_sparse()}, "mask must be a dense tensor .* sparse"),
        ({"regions": [(0.05, 0.1)], "crossfade_in_s": math.nan}, "crossfade_in_s must be finite"),
        ({"regions": [(0.05, 0.1)], "crossfade_in_s": -0.01}, r"crossfade_in_s must be in \[0, 0.025\] .* got -0.01"),
        ({"regions": [(0.01, 0.02), (0.05, 0.1)], "crossfade_in_s": 0.02}, r"crossfade_in_s must be in \[0, 0.005\]"),
        ({"extend_to": 0.4, "crossfade_in_s": 0.11}, r"crossfade_in_s must be in \[0, 0.1\] seconds, half of the"),
        ({"regions": [(0.05, 0.1)], "num_repeats": 0}, "num_repeats"),
        ({"regions": [(0.05, 0.1)], "window_in_s": 1}, "window_in_s"),
        ({"regions": [(0.05, 0.1)], "output_type": "wav"}, "output_type must be one of pt, np, latent, stream"),
        ({"regions": [(0.05, 0.1)], "seconds_total": 0.1}, "seconds_total"),
        ({"regions": [(0.05, 0.1)], "audio": torch.zeros(2, 1600)}, "silent"),
    ],
)
def test_bad_input_is_refused_before_any_work(pipe, audio, arguments, message):
    calls = record_transformer(pipe)
    with pytest.raises(ValueError, match=message):
        inpaint(pipe, **{"audio": audio} | arguments)
    assert not calls


# --- one pipeline of many


def test_pipelines_become_one_another(pipe, audio):
    expected = inpaint(pipe, audio, regions=[(0.05, 0.1)])
    other = LongFormMusicPipeline.from_pipe(LongFormMusicAudioToAudioPipeline.from_pipe(pipe))
    back = LongFormMusicInpaintPipeline.from_pipe(other)
    assert back.components == pipe.components
    assert_all_equal(inpaint(back, audio, regions=[(0.05, 0.1)]), expected)
