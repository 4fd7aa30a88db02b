"""Schedulers in the pipeline: by name, at given times, and what a checkpoint carries."""

import math

import pytest
import torch
from common import relative_error
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from tiny_pipeline import SHORT, generate, record_transformer, seed, tiny_pipeline

from stable_longform.pipelines.pipeline_longform_music import LongFormMusicPipeline
from stable_longform.schedulers.scheduling import SIGMA_MIN
from stable_longform.utils.accepted_values import SCHEDULER_NAMES


@pytest.fixture
def pipe():
    return tiny_pipeline()


@pytest.mark.parametrize("name", SCHEDULER_NAMES)
def test_an_item_depends_neither_on_its_neighbours_nor_on_how_they_are_batched(pipe, name):
    pipe.use_scheduler(name)
    settings = {"num_inference_steps": 5, "output_type": "latent"}
    together = generate(pipe, [SHORT] * 3, generator=[seed(number) for number in range(3)], **settings)
    for number in range(3):
        alone = generate(pipe, generator=[seed(number)], **settings)
        assert relative_error(together[number : number + 1], alone) < 1e-4


def test_a_checkpoint_carries_its_sampler_steps_and_guidance(pipe, tmp_path):
    pipe.register_to_config(num_inference_steps=3, guidance_scale=1.0)
    pipe.use_scheduler("ping-pong")
    pipe.save_pretrained(tmp_path)
    opened = LongFormMusicPipeline.from_pretrained(tmp_path)
    calls = record_transformer(opened)
    latents = opened(SHORT, generator=seed(0), output_type="latent").audios
    end = 2 / math.pi * math.atan(SIGMA_MIN)
    times = (1, (2 + end) / 3, (1 + 2 * end) / 3)
    assert [call["timestep"].tolist() for call in calls] == [pytest.approx([t]) for t in times]
    expected = generate(pipe, num_inference_steps=3, guidance_scale=1.0, output_type="latent")
    assert torch.equal(latents, expected)
    assert len(generate(opened, num_inference_steps=2, guidance_scale=3.0, output_type="latent")) == 1
    assert [call["timestep"].shape for call in calls[3:]] == [(2,)] * 2


def test_the_third_order_sampler_can_be_saved(pipe, tmp_path):
    pipe.use_scheduler("sde-dpmsolver++-3m")
    pipe.save_pretrained(tmp_path)
    opened = LongFormMusicPipeline.from_pretrained(tmp_path)
    assert torch.equal(generate(opened, output_type="latent"), generate(pipe, output_type="latent"))


def test_euler_and_the_solver_take_rectified_flow_to_the_same_music(pipe):
    results = []
    for scheduler, steps in (
        (FlowMatchEulerDiscreteScheduler(), 160),
        (DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True), 40),
    ):
        flow = LongFormMusicPipeline.from_pipe(pipe, scheduler=scheduler, prediction_type="flow_prediction")
        flow.set_progress_bar_config(disable=True)
        results.append(generate(flow, num_inference_steps=steps, guidance_scale=1.0, output_type="latent"))
    noise = torch.randn(results[0].shape, generator=seed(0))
    assert relative_error(results[0], results[1]) < 0.02 < 0.5 < relative_error(results[0], noise)


def test_times_instead_of_a_number_of_steps(pipe):
    calls = record_transformer(pipe)
    pipe(SHORT, timesteps=[0.9, 0.4], generator=seed(0))
    assert [call["timestep"][0].item() for call in calls] == pytest.approx([0.9, 0.4])
    for arguments, message in (
        ({"timesteps": [0.4, 0.9]}, "fall"),
        ({"timesteps": [1.5]}, r"\[0, 1\]"),
        ({"timesteps": 0.5}, "list"),
        ({"timesteps": [0.5], "num_inference_steps": 2}, "not both"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe(SHORT, **arguments)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"guidance_scale": 1e6}, "guidance_scale"),
        ({"prediction_type": "epsilon"}, "prediction_type"),
    ],
)
def test_settings_out_of_range_are_refused(pipe, settings, message):
    with pytest.raises(ValueError, match=message):
        LongFormMusicPipeline.from_pipe(pipe, **settings)


def test_a_scheduler_for_another_prediction_is_refused(pipe):
    flow = LongFormMusicPipeline.from_pipe(pipe, prediction_type="flow_prediction")
    with pytest.raises(ValueError, match="like the model"):
        flow(SHORT)
