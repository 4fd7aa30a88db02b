"""Edits and schedules by themselves, with models whose result is known."""

import pytest
import torch
from common import relative_error
from diffusers import FlowMatchEulerDiscreteScheduler
from tiny_pipeline import LATENT_CHANNELS, seed

from stable_longform import noise_schedule
from stable_longform.pipelines import schedules
from stable_longform.pipelines.editing import EditVelocity, _undo_last_step
from stable_longform.pipelines.guidance import Guidance
from stable_longform.pipelines.sampling import Run, sample
from stable_longform.schedulers import scheduling
from stable_longform.schedulers.scheduling import make_scheduler
from stable_longform.schedulers.scheduling_ping_pong import PingPongScheduler

STEPS = 8
SHAPE = (2, LATENT_CHANNELS, 16)


def prepared(start: float = 1.0, kind: str = "v_prediction", scheduler=None):
    if scheduler is None:  # without steps, its length is 0
        scheduler = make_scheduler() if kind == "v_prediction" else FlowMatchEulerDiscreteScheduler()
    scheduling.set_timesteps(scheduler, STEPS, prediction_type=kind)
    schedules.start_at(scheduler, start, kind)
    return scheduler


def draw(number: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=seed(number))


def leads_to(music: torch.Tensor, kind: str = "v_prediction"):
    """The velocity of a model that knows one piece of music: whatever it is shown, it denoises to that."""

    def velocity(latents, t, time):
        a, s = noise_schedule.amplitudes(t, kind)
        return ((latents if kind == "flow_prediction" else a * latents) - music) / s

    return velocity


@pytest.mark.parametrize("kind", noise_schedule.PREDICTION_TYPES)
def test_an_edit_adds_what_the_prompts_differ_in(kind):
    """Models that know one piece each: the edit is the music plus the target's piece minus the source's."""
    music, target, source, noise = (draw(number) for number in range(4))
    for strength in (0.1, 0.5, 0.99):
        scheduler = prepared(strength, kind)
        models = leads_to(target, kind), leads_to(source, kind)
        edit = EditVelocity(*models, music, noise, scheduler, lambda: noise, kind)
        start = noise_schedule.add_noise(music, noise, scheduler.timesteps[0], kind)
        result = sample(edit, scheduler, start, Run(Guidance(1.0), STEPS))
        assert relative_error(result, music + target - source) < 1e-4


@pytest.mark.parametrize("kind", noise_schedule.PREDICTION_TYPES)
def test_an_edit_follows_the_noise_of_ping_pong(kind):
    """Source and target get the same noise in every step, although the scheduler draws it anew."""
    music, target, source, noise = (draw(number) for number in range(4))
    scheduler, seen = prepared(0.9, kind, PingPongScheduler(kind)), []

    def leads_to_source(latents, t, time):
        a, s = noise_schedule.amplitudes(t, kind)
        seen.append((latents - a * music) / s)
        return leads_to(source, kind)(latents, t, time)

    edit = EditVelocity(leads_to(target, kind), leads_to_source, music, noise, scheduler, None, kind)
    start = noise_schedule.add_noise(music, noise, scheduler.timesteps[0], kind)
    run = Run(Guidance(1.0), STEPS)
    result = sample(edit, scheduler, start, run, before_step=edit.renew_noise, generator=seed(5))
    assert relative_error(result, music + target - source) < 1e-4
    assert relative_error(seen[0], noise) < 1e-4
    assert all(abs(float(drawn.mean())) < 0.3 and 0.8 < float(drawn.std()) < 1.2 for drawn in seen)


@pytest.mark.parametrize("kind", noise_schedule.PREDICTION_TYPES)
def test_new_noise_in_each_step_does_not_change_what_it_adds(kind):
    music, target, source, noise = (draw(number) for number in range(4))
    scheduler = prepared(0.9, kind)
    draws = iter(range(10, 10 + STEPS))
    models = leads_to(target, kind), leads_to(source, kind)
    edit = EditVelocity(*models, music, noise, scheduler, lambda: draw(next(draws)), kind)

    def before_step(step, t, latents):
        changed = edit.renew_noise(step, t, latents)
        a, s = noise_schedule.amplitudes(t, kind)
        edited_so_far = (changed - s * edit.noise) / a
        assert ((latents - changed).abs().max() > s) == (step > 0) and edited_so_far.abs().max() < 10
        return changed

    start = noise_schedule.add_noise(music, noise, scheduler.timesteps[0], kind)
    result = sample(edit, scheduler, start, Run(Guidance(1.0), STEPS), before_step=before_step)
    assert relative_error(result, music + target - source) < 1e-4


@pytest.mark.parametrize("kind", noise_schedule.PREDICTION_TYPES)
def test_a_later_start_keeps_the_rest_of_the_schedule(kind):
    whole = prepared(kind=kind)
    for start in (0.999999, 0.95, 0.4, 0.05, 1e-6):
        rest = prepared(start, kind)
        times = rest.timesteps.tolist()
        assert abs(times[0] - min(start, whole.timesteps[0].item())) < 1e-6
        assert times[1:] == whole.timesteps.tolist()[len(whole.timesteps) - len(times) + 1 :]
        assert len(rest.sigmas) == len(times) + 1 and rest.sigmas[-1] == 0
    assert torch.equal(prepared(1.0, kind).sigmas, whole.sigmas)


@pytest.mark.parametrize("kind", noise_schedule.PREDICTION_TYPES)
def test_no_step_is_tiny(kind):
    """A start just above a node takes its place: solvers divide by the length of their steps."""
    whole = prepared(kind=kind)
    for node in whole.timesteps[1:-1].tolist():
        times = prepared(node + 1e-5, kind).timesteps
        assert (
            times[0] == pytest.approx(node + 1e-5)
            and times[1] == whole.timesteps[whole.timesteps < times[0] - 1e-4][0]
        )


@pytest.mark.parametrize("kind", noise_schedule.PREDICTION_TYPES)
def test_a_step_that_cannot_be_undone_does_not_explode(kind):
    """The slope of the first item's velocity is too steep for a fixed point; the second has one."""
    slopes, latents = torch.tensor([6.0, 0.1])[:, None, None], draw(0)
    t = torch.tensor(0.5)
    a, s = noise_schedule.amplitudes(t, kind)
    noisy = _undo_last_step(lambda x, t, time: slopes * x, latents, t, kind)
    assert noisy[0].norm() < 20 * latents[0].norm()
    scale = 1 if kind == "flow_prediction" else a
    torch.testing.assert_close(noisy[1], latents[1] / (scale - 0.1 * s))


@pytest.mark.parametrize("kind", noise_schedule.PREDICTION_TYPES)
def test_the_way_back_is_the_schedule_turned_around(kind):
    scheduler = prepared(0.9, kind)
    levels, times = scheduler.sigmas.clone(), scheduler.timesteps.clone()
    schedules.reverse(scheduler, kind)
    assert torch.equal(scheduler.sigmas, levels[:-1].flip(0))
    torch.testing.assert_close(scheduler.timesteps, times.flip(0)[:-1])
