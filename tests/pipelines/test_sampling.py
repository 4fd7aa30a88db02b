"""The loop by itself: from any step, with hooks, with more than one conditioning."""

import pytest
import torch
from common import relative_error
from tiny_pipeline import LATENT_CHANNELS, PROMPTS, SHORT, generate, seed, tiny_pipeline

from stable_longform import noise_schedule
from stable_longform.pipelines.guidance import Guidance
from stable_longform.pipelines.inputs import check_prompts, check_timing
from stable_longform.pipelines.sampling import GuidedVelocity, Run, sample
from stable_longform.schedulers import scheduling
from stable_longform.schedulers.scheduling import make_scheduler

STEPS = 6


def test_guidance_is_on_from_the_first_to_the_last_time_of_its_interval():
    guidance = Guidance(3.0, interval=(0.25, 0.75))
    assert [guidance.is_on(time) for time in (0.2, 0.25, 0.5, 0.75, 0.8)] == [False, True, True, True, False]
    assert Guidance(3.0).is_on(0.0) and Guidance(3.0).is_on(1.0) and not Guidance(1.0).is_on(0.5)


@pytest.fixture
def pipe():
    return tiny_pipeline()


@pytest.fixture
def noise():
    return torch.randn(1, LATENT_CHANNELS, 64, generator=seed(0))


def guided_velocity(pipe, prompt: str, scale: float = 3.0, **arguments) -> GuidedVelocity:
    """The velocity that the pipeline follows for a prompt and the whole window."""
    prompts = check_prompts(prompt, None, None, None, None, None, dim=16)
    timing = check_timing(None, 0.0, None, 1, pipe.max_duration_in_s, 512)
    with torch.no_grad():
        return GuidedVelocity(pipe.transformer, pipe._make_conditioning(prompts, timing), Guidance(scale), **arguments)


def prepared(solver_order: int = 2):
    scheduler = make_scheduler(solver_order=solver_order)
    scheduling.set_timesteps(scheduler, STEPS)
    return scheduler


@torch.no_grad()
def run_sampling(velocity, latents, solver_order: int = 2, **arguments):
    return sample(velocity, prepared(solver_order), latents, Run(Guidance(3.0), STEPS), **arguments)


def test_it_is_what_the_pipeline_samples(pipe, noise):
    expected = generate(pipe, num_inference_steps=STEPS, guidance_scale=3.0, latents=noise, output_type="latent")
    assert torch.equal(run_sampling(guided_velocity(pipe, SHORT), noise), expected)


def test_projected_prompts_that_are_not_kept_are_the_same_in_every_step(pipe, noise, monkeypatch):
    made = []
    monkeypatch.setattr(
        pipe.transformer, "project_context", lambda *a, own=pipe.transformer.project_context: made.append(1) or own(*a)
    )
    kept, forgotten = (guided_velocity(pipe, SHORT, keeps_conditions=keeps) for keeps in (True, False))
    expected = run_sampling(kept, noise)
    assert len(made) == 1
    assert torch.equal(run_sampling(forgotten, noise), expected)
    assert len(made) == 1 + STEPS


def test_a_sampling_in_two_parts_is_one_sampling(pipe, noise):
    """First order has no memory of earlier steps, so it may stop anywhere and go on."""
    kept = {}

    def keep(step, t, latents):
        kept[step] = latents
        return latents

    velocity = guided_velocity(pipe, SHORT)
    expected = run_sampling(velocity, noise, solver_order=1, after_step=keep)
    for first_step in range(1, STEPS):
        later = run_sampling(velocity, kept[first_step - 1], solver_order=1, first_step=first_step)
        assert relative_error(later, expected) < 1e-6


def test_from_a_later_step_noisy_music_comes_back(pipe):
    """Latents with the noise of the last step, sampled from there with their true velocity, are the latents again."""
    latents, noise = torch.randn(2, 1, LATENT_CHANNELS, 64, generator=seed(0))

    def true_velocity(noisy_latents, t, time):
        return noise_schedule.velocity(latents, noise, t)

    for first_step in range(STEPS):
        noisy_latents = noise_schedule.add_noise(latents, noise, prepared().timesteps[first_step])
        assert relative_error(run_sampling(true_velocity, noisy_latents, first_step=first_step), latents) < 1e-4


def test_before_each_step_what_is_known_can_be_put_in_place(pipe, noise):
    """Known frames at the level of the step: the model sees them, and at the end they are almost themselves."""
    known, is_known = torch.randn(1, LATENT_CHANNELS, 64, generator=seed(1)), torch.arange(64) < 32
    seen = []

    def put(step, t, latents):
        seen.append((step, t.item()))
        return torch.where(is_known, noise_schedule.add_noise(known, noise, t), latents)

    velocity = guided_velocity(pipe, SHORT)
    inputs = []

    def recording(latents, t, time):
        inputs.append(latents)
        return velocity(latents, t, time)

    run_sampling(recording, noise, before_step=put)
    times = prepared().timesteps
    assert seen == list(enumerate(times.tolist()))
    for latents, t in zip(inputs, times, strict=True):
        expected = noise_schedule.add_noise(known, noise, t)
        assert torch.equal(latents[..., :32], expected[..., :32])


def test_sections_follow_their_own_prompts(pipe, noise):
    """A mixture over frames of two velocities; of two equal ones it is the one."""
    first, second = guided_velocity(pipe, SHORT), guided_velocity(pipe, PROMPTS[1])
    share = torch.linspace(1, 0, 64)

    def mixture_of(other):
        return lambda latents, t, time: share * first(latents, t, time) + (1 - share) * other(latents, t, time)

    alone = run_sampling(first, noise)
    assert relative_error(run_sampling(mixture_of(first), noise), alone) < 1e-4
    assert relative_error(run_sampling(mixture_of(second), noise), alone) > 1e-2


def test_it_stops_when_it_is_told_to(noise):
    run, steps = Run(Guidance(1.0), STEPS), []

    def stop(step, t, latents):
        steps.append((step, run.current_timestep))
        run.is_interrupted = step == 2
        return latents

    sample(lambda latents, t, time: latents, prepared(), noise, run, after_step=stop)
    assert steps == list(enumerate(prepared().timesteps.tolist()))[:3]
