"""Audio to audio: the laws of each method, on tiny real models."""

import math

import numpy as np
import pytest
import soundfile
import torch
from common import assert_all_equal, relative_error
from diffusers import (
    CosineDPMSolverMultistepScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from tiny_pipeline import PROMPTS, SHORT, generate, record_transformer, seed, tiny_pipeline

from stable_longform import LongFormMusicAudioToAudioPipeline, LongFormMusicPipeline
from stable_longform.schedulers.scheduling import make_scheduler
from stable_longform.schedulers.scheduling_ping_pong import PingPongScheduler
from stable_longform.utils.accepted_values import EDIT_METHODS

RATE, WINDOW = 8000, 2048  # Hz, samples
FLOW = "flow_prediction"


def flow_solver(order: int = 2):
    return DPMSolverMultistepScheduler(prediction_type=FLOW, use_flow_sigmas=True, solver_order=order)


DETERMINISTIC = {"v": make_scheduler, "flow, Euler": FlowMatchEulerDiscreteScheduler, "flow, solver": flow_solver}
PING_PONG = {"ping-pong": PingPongScheduler, "flow, ping-pong": lambda: PingPongScheduler(FLOW)}


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline(LongFormMusicAudioToAudioPipeline)


@pytest.fixture
def audio(make_audio):
    return make_audio(WINDOW, sampling_rate=RATE)


def with_scheduler(pipe, scheduler):
    """The same components with another scheduler, as a model of what it samples."""
    kind = scheduler.config.get("prediction_type", FLOW)
    other = LongFormMusicAudioToAudioPipeline.from_pipe(pipe, scheduler=scheduler, prediction_type=kind)
    other.set_progress_bar_config(disable=True)
    return other


def transform(pipe, audio, prompt=SHORT, **arguments):
    """Four steps from a seed; returns what the pipeline calls `audios`."""
    defaults = {"num_inference_steps": 4, "generator": None if arguments.get("method") == "invert" else seed(0)}
    return pipe(prompt, audio, **defaults | arguments).audios


@torch.no_grad()
def reconstruction(pipe, audio):
    return pipe.vae(audio[None]).sample[0]


# --- laws


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("method", EDIT_METHODS)
def test_without_strength_the_reconstruction_comes_back(pipe, audio, method, name):
    pipe = with_scheduler(pipe, DETERMINISTIC[name]())
    errors = [
        relative_error(transform(pipe, audio, strength=strength, method=method)[0], reconstruction(pipe, audio))
        for strength in (1e-1, 1e-5, 1e-300)
    ]
    assert max(errors[1:]) < 1e-3 and errors[1] < errors[0] / 10


@pytest.mark.parametrize("name", [*DETERMINISTIC, *PING_PONG])
def test_equal_prompts_edit_nothing(pipe, audio, name):
    pipe = with_scheduler(pipe, (DETERMINISTIC | PING_PONG)[name]())
    arguments = {"method": "edit", "strength": 0.9, "negative_prompt": PROMPTS[3]}
    result = transform(pipe, audio, source_prompt=SHORT, **arguments)[0]
    assert relative_error(result, reconstruction(pipe, audio)) < 1e-3
    assert relative_error(transform(pipe, audio, source_prompt=PROMPTS[1], **arguments)[0], result) > 0.01


@pytest.mark.parametrize(
    ("scheduler", "order"),
    [
        (make_scheduler(solver_order=1), 1),
        (make_scheduler(solver_order=2), 2),
        (FlowMatchEulerDiscreteScheduler(), 1),
        (flow_solver(2), 2),
    ],
    ids=["v, order 1", "v, order 2", "flow, Euler", "flow, order 2"],
)
def test_inversion_comes_home_the_nearer_the_more_steps(pipe, audio, scheduler, order):
    """Without guidance and with the prompt of the inversion. Twice the steps, 1 / 2**order of the error."""
    pipe = with_scheduler(pipe, scheduler)
    arguments = {"method": "invert", "source_prompt": SHORT, "guidance_scale": 1, "strength": 0.95}
    expected = reconstruction(pipe, audio)
    errors = [
        relative_error(transform(pipe, audio, num_inference_steps=steps, **arguments)[0], expected)
        for steps in (20, 40)
    ]
    assert 0.6 * order < math.log2(errors[0] / errors[1])
    assert errors[1] < 0.05


def test_the_inversion_is_without_guidance(pipe, audio):
    """Guidance then leads away from the music, even with the same prompt; a guided inversion would lead back to it."""
    arguments = {"method": "invert", "source_prompt": SHORT, "strength": 0.95, "num_inference_steps": 20}
    expected = reconstruction(pipe, audio)
    without, with_guidance = (
        relative_error(transform(pipe, audio, guidance_scale=scale, **arguments)[0], expected) for scale in (1, 2)
    )
    assert with_guidance > 10 * without


def test_the_whole_strength_is_text_to_music(pipe, audio):
    cosine = CosineDPMSolverMultistepScheduler(sigma_min=0.3, sigma_max=500)
    for scheduler in (cosine, *(make() for make in (DETERMINISTIC | PING_PONG).values())):
        other = with_scheduler(pipe, scheduler)
        expected = generate(LongFormMusicPipeline.from_pipe(other), duration=0.256)
        assert_all_equal(transform(other, audio, strength=1.0), expected)


def test_a_scheduler_with_another_scale_starts_from_the_same_noisy_music(pipe, audio):
    calls = record_transformer(pipe)
    for scheduler in (CosineDPMSolverMultistepScheduler(sigma_min=0.3, sigma_max=500), make_scheduler()):
        pipe.register_modules(scheduler=scheduler)
        transform(pipe, audio, strength=0.9, num_inference_steps=10)
    first = [call for call in calls if call["timestep"][0] == pytest.approx(0.9, abs=1e-6)]
    assert len(first) == 2
    assert relative_error(first[0]["latents"], first[1]["latents"]) < 1e-5


@pytest.mark.parametrize("name", ["v", "flow, Euler"])
@pytest.mark.parametrize("method", EDIT_METHODS)
def test_an_item_does_not_depend_on_its_neighbours(pipe, make_audio, method, name):
    pipe = with_scheduler(pipe, DETERMINISTIC[name]())
    audios = [make_audio(samples, sampling_rate=RATE, seed=samples) for samples in (700, WINDOW)]
    generators = {} if method == "invert" else {"generator": [seed(0), seed(1)]}
    batch = transform(pipe, audios, list(PROMPTS[:2]), method=method, **generators)
    for number, (audio, prompt) in enumerate(zip(audios, PROMPTS, strict=False)):
        own = {} if method == "invert" else {"generator": seed(number)}
        alone = transform(pipe, audio, prompt, method=method, **own)[0]
        assert batch[number].shape == audio.shape
        assert relative_error(batch[number], alone) < 1e-4


def test_the_schedule_is_the_end_of_that_of_text_to_music(pipe, audio):
    calls = record_transformer(pipe)
    transform(pipe, audio, num_inference_steps=30, strength=1.0)
    transform(pipe, audio, num_inference_steps=30, strength=0.7)
    times = [float(call["timestep"][0]) for call in calls]
    whole, rest = times[:30], times[30:]
    assert rest[0] == pytest.approx(0.7) and 1 < len(rest) < 15
    assert rest[1:] == whole[31 - len(rest) :]


def test_rectified_flow_starts_from_music_and_noise_in_the_proportion_of_the_strength(pipe, audio):
    with torch.no_grad():
        music = pipe.vae.encode(audio[None]).latent_dist.mode()
    noise = torch.randn(1, *music.shape[1:], generator=seed(0))
    calls = record_transformer(pipe)
    for make in (FlowMatchEulerDiscreteScheduler, flow_solver, PING_PONG["flow, ping-pong"]):
        transform(with_scheduler(pipe, make()), audio, strength=0.7, guidance_scale=1.0)
        assert float(calls[0]["timestep"][0]) == pytest.approx(0.7)
        assert relative_error(calls[0]["latents"], 0.3 * music + 0.7 * noise) < 1e-5
        calls.clear()


def test_the_prompt_is_heard_with_every_method(pipe, audio):
    for method in EDIT_METHODS:
        first, other = (transform(pipe, audio, prompt, method=method)[0] for prompt in PROMPTS[1:3])
        assert relative_error(other, first) > 1e-3, method


def test_the_generator_decides(pipe, audio):
    for method in ("noise", "edit"):
        first = transform(pipe, audio, method=method)
        assert_all_equal(transform(pipe, audio, method=method), first)
        assert relative_error(transform(pipe, audio, method=method, generator=seed(1))[0], first[0]) > 1e-3
    assert_all_equal(transform(pipe, audio, method="invert"), transform(pipe, audio, method="invert"))


def test_a_callback_sees_and_steers_the_edit(pipe, audio):
    """With no guidance on either side from the first step on, it is as if there had never been any."""
    seen = []

    def callback(pipe, step, t, tensors):
        seen.append(step)
        pipe.guidance_scale = 1.0
        return {"latents": torch.zeros_like(tensors["latents"])}

    transform(pipe, audio, method="edit", callback_on_step_end=callback)
    assert seen == list(range(len(seen))) and len(seen) == pipe.num_timesteps
    calls = []
    transform(pipe, audio, method="invert", callback_on_step_end=lambda *arguments: calls.append(arguments[1]))
    assert len(calls) == pipe.num_timesteps


# --- audio


def test_audio_may_be_a_file_an_array_or_a_tensor(pipe, audio, tmp_path):
    soundfile.write(tmp_path / "audio.wav", audio.numpy().T, RATE, subtype="FLOAT")
    expected = transform(pipe, audio)
    big_endian = audio.numpy().astype(">f4")
    big_endian.setflags(write=False)
    for same in (audio.numpy(), big_endian, audio[None], [audio], str(tmp_path / "audio.wav"), tmp_path / "audio.wav"):
        assert_all_equal(transform(pipe, same), expected)
    mono = audio[:1]
    assert_all_equal(transform(pipe, mono[0]), transform(pipe, mono.expand(2, -1)))


def test_audio_of_another_rate_is_resampled_and_said(pipe, make_audio, caplog):
    audio = make_audio(2000, sampling_rate=16000)
    result = transform(pipe, audio, sampling_rate=16000, strength=1e-5)[0]
    assert result.shape == (2, 1000)
    assert "16000 Hz and is resampled to the model's 8000 Hz" in caplog.text


def test_the_duration_cuts_audio_off_or_goes_on_with_silence(pipe, audio):
    short = transform(pipe, audio, duration=0.1, strength=1e-5)[0]
    assert short.shape == (2, 800)
    silence = torch.cat([audio[:, :800], torch.zeros(2, WINDOW - 800)], dim=1)
    assert_all_equal([short], transform(pipe, silence, duration=0.1, strength=1e-5))
    longer = transform(pipe, audio[:, :800], duration=0.256, strength=1e-5)[0]
    assert relative_error(longer, reconstruction(pipe, silence)) < 1e-3


def test_one_prompt_for_several_recordings(pipe, audio):
    both = transform(pipe, [audio, -audio], generator=[seed(0), seed(0)])
    assert len(both) == 2 and relative_error(both[1], both[0]) > 1e-3
    assert len(transform(pipe, audio, list(PROMPTS[:2]), num_waveforms_per_prompt=2)) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": 0}, r"strength must be in \(0, 1\], got 0"),
        ({"strength": 2}, r"strength must be in \(0, 1\], got 2"),
        ({"strength": math.nan}, "strength must be finite"),
        ({"method": "paint"}, "method must be one of noise, invert, edit, got 'paint'"),
        ({"source_prompt": "a"}, "source_prompt is for"),
        ({"source_guidance_scale": 1.0, "method": "invert"}, "source_guidance_scale is for"),
        ({"source_guidance_scale": 1e9, "method": "edit"}, "source_guidance_scale must be in"),
        ({"latents": torch.zeros(1, 4, 64), "method": "invert"}, "give no latents"),
        ({"audio": None}, "audio must be a tensor, an array or a path, got NoneType"),
        ({"audio": torch.zeros(2, 100)}, "silent"),
        ({"audio": torch.zeros(2, 0)}, "empty"),
        ({"audio": torch.full((2, 100), 3e4)}, r"peak of 30000: samples must be in \[-1, 1\] at full scale"),
        ({"audio": torch.ones(2, 9), "sampling_rate": 768000}, "shorter than a sample at the model's 8000 Hz"),
        ({"audio": torch.zeros(0, 2, 9)}, "at least one recording"),
        ({"audio": []}, "at least one recording"),
        ({"audio": torch.full((2, 100), math.nan)}, "non-finite"),
        ({"audio": torch.ones(8, 100)}, "1 or 2 channels, got 8"),
        ({"audio": torch.ones(2, 100, dtype=torch.int16)}, "floating point"),
        ({"audio": np.ones((2, 100), dtype=bool)}, "floating point .* got dtype bool"),
        ({"audio": torch.ones(2, 100, device="meta")}, "audio must be a dense tensor .* meta device"),
        ({"audio": torch.ones(2, 100).to_sparse()}, "audio must be a dense tensor .* sparse"),
        ({"strength": torch.tensor(0.5, device="meta")}, "strength must be a number, got a tensor without a value"),
        ({"strength": 10**400}, "strength must be finite, got an integer that is too large"),
        ({"audio": np.ones((2, 2, 2, 2))}, "shape"),
        ({"audio": "missing.wav"}, "is not a file"),
        ({"sampling_rate": 0}, r"sampling_rate must be an integer in \[1"),
        ({"audio": torch.ones(2, 5000)}, r"duration must be in \[1/8000, 0.256\] seconds, got 0.625"),
        ({"audio": [torch.ones(2, 9)] * 3, "prompt": ["a", "b"]}, "audio must be one or 2"),
    ],
)
def test_bad_input_is_refused_before_any_work(pipe, audio, arguments, message):
    calls = record_transformer(pipe)
    with pytest.raises(ValueError, match=message):
        transform(pipe, **{"audio": audio} | arguments)
    assert not calls


def test_a_file_that_is_no_audio_or_too_long_is_refused(pipe, tmp_path):
    (tmp_path / "text.wav").write_text("no audio")
    with pytest.raises(ValueError, match="text.wav"):
        transform(pipe, tmp_path / "text.wav")
    with pytest.raises(ValueError, match=r"at most 3600.000 s, got 3601.000 s"):
        transform(pipe, torch.ones(3601), sampling_rate=1)


def test_inversion_and_edits_need_a_deterministic_scheduler(pipe, audio):
    stochastic = LongFormMusicAudioToAudioPipeline.from_pipe(
        pipe, scheduler=make_scheduler(algorithm_type="sde-dpmsolver++")
    )
    for method in ("invert", "edit"):
        with pytest.raises(ValueError, match=f"method='{method}' needs a deterministic scheduler"):
            transform(stochastic, audio, method=method)
    assert transform(stochastic, audio)[0].shape == audio.shape


# --- one pipeline of many


def test_it_opens_what_text_to_music_saved_and_shares_it(pipe, audio, tmp_path):
    expected = transform(pipe, audio)
    LongFormMusicPipeline.from_pipe(pipe).save_pretrained(tmp_path / "music")
    opened = LongFormMusicAudioToAudioPipeline.from_pretrained(tmp_path / "music")
    assert_all_equal(transform(opened, audio), expected)
    assert_all_equal(
        generate(LongFormMusicPipeline.from_pipe(opened)), generate(LongFormMusicPipeline.from_pipe(pipe))
    )
