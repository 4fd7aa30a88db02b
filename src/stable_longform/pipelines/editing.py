"""Two ways to transform music that keep more of it than added noise does: inversion, and editing without inversion.

Inversion changes where the sampling loop of `sampling.py` starts, editing changes its velocity. Latents, noise and
velocity are `(B, C, L)` in float32, times t are in [0, 1].

References: Lu et al., "DPM-Solver++", arXiv 2211.01095, whose steps also work towards more noise. Hong et al., "On
exact inversion of DPM-solvers", arXiv 2311.18387 (the implicit step). Kulikov et al., "FlowEdit", arXiv 2412.08629
(source and target from the same noise, for rectified flow), here for the v-objective too.
"""

import copy
from collections.abc import Callable

import torch

from stable_longform import noise_schedule
from stable_longform.pipelines import schedules
from stable_longform.pipelines.sampling import GuidedVelocity, Velocity
from stable_longform.schedulers.scheduling_ping_pong import PingPongScheduler

NUM_FIXED_POINT_STEPS = 10


def invert(
    velocity: Velocity,
    scheduler,
    latents: torch.Tensor,
    follow: Callable[..., torch.Tensor],
    prediction_type: str = noise_schedule.V_PREDICTION,
) -> torch.Tensor:
    """Finds the noisy latents at a schedule's first time from which sampling leads to the given latents.

    Args:
        velocity: the velocity that the sampling follows.
        scheduler: deterministic, with its steps set.
        latents: of the music.
        follow: the sampling loop, called as `follow(velocity, latents, path=scheduler)`.
        prediction_type: what the transformer predicts.
    """
    noisy_latents = _undo_last_step(velocity, latents, scheduler.timesteps[-1], prediction_type)
    if len(scheduler.timesteps) == 1:
        return noisy_latents
    way_back = copy.deepcopy(scheduler)
    schedules.reverse(way_back, prediction_type)
    return follow(velocity, noisy_latents, path=way_back)


def _undo_last_step(velocity: Velocity, latents: torch.Tensor, t: torch.Tensor, prediction_type: str) -> torch.Tensor:
    """Finds the x_t from which the last step leads to the latents.

    That is the fixed point of x ← (z + σ·v(x)) / α, or x ← z + σ·v(x) for rectified flow. Where the iteration
    diverges, as it does for a single step from a high noise level, the item keeps its last x before that.
    """
    a, s = noise_schedule.amplitudes(t, prediction_type)
    scale = 1 if prediction_type == noise_schedule.FLOW_PREDICTION else a
    noisy_latents, change = a * latents, torch.full((len(latents), 1, 1), torch.inf, device=latents.device)
    for _ in range(NUM_FIXED_POINT_STEPS):
        found = (latents + s * velocity(noisy_latents, t, float(t))) / scale
        new_change = (found - noisy_latents).norm(dim=(1, 2), keepdim=True)
        is_nearer = new_change < change
        if not is_nearer.any():
            break
        noisy_latents = torch.where(is_nearer, found, noisy_latents)
        change = torch.where(is_nearer, new_change, change)
    return noisy_latents


class EditVelocity:
    """A velocity that leads back to the same music, except for the difference between target and source prompt.

    Both prompts get the same noise ε: the target with the music edited so far, the source with the original music.
    v = v_true + v_target(x_t) − v_source(α·z + σ·ε), where v_true is the velocity of the music itself: α·ε − σ·z, or
    ε − z for rectified flow. With equal prompts nothing changes.

    Args:
        target: velocity with the prompt of the result.
        source: velocity with the prompt of the original music.
        latents: z, the original music.
        noise: ε; the sampling starts at α·z + σ·ε.
        scheduler: of the sampling loop, with its steps set.
        draw_noise: returns fresh noise of the same shape.
        prediction_type: what the transformer predicts.
    """

    def __init__(
        self,
        target: GuidedVelocity,
        source: GuidedVelocity,
        latents: torch.Tensor,
        noise: torch.Tensor,
        scheduler,
        draw_noise: Callable[[], torch.Tensor],
        prediction_type: str = noise_schedule.V_PREDICTION,
    ):
        self.target, self.source = target, source
        self.latents, self.noise, self.predicted = latents, noise, latents
        self.scheduler, self.draw_noise, self.prediction_type = scheduler, draw_noise, prediction_type

    @property
    def conditioning(self):
        """The conditioning of the target, for callbacks."""
        return self.target.conditioning

    def change(self, **tensors: torch.Tensor) -> None:
        """Replaces tensors of the target's conditioning."""
        self.target.change(**tensors)

    def renew_noise(self, step: int, t: torch.Tensor, noisy_latents: torch.Tensor) -> torch.Tensor:
        """Called before each step; from the second on it replaces the noise in the noisy latents by fresh noise.

        Ping-pong has already added fresh noise to the predicted data. That is the noise from then on.
        """
        if step == 0:
            return noisy_latents
        a, s = noise_schedule.amplitudes(t, self.prediction_type)
        if isinstance(self.scheduler, PingPongScheduler):
            self.noise = (noisy_latents - a * self.predicted) / s
            return noisy_latents
        noise = self.draw_noise().to(noisy_latents)
        change = s * (noise - self.noise)
        self.noise = noise
        return noisy_latents + schedules.in_scheduler_scale(self.scheduler, change, t)

    def __call__(self, latents: torch.Tensor, t: torch.Tensor, time: float) -> torch.Tensor:
        """The velocity; arguments as in `GuidedVelocity`."""
        kind = self.prediction_type
        before = noise_schedule.add_noise(self.latents, self.noise, t, kind)
        difference = self.target(latents, t, time) - self.source(before, t, time)
        velocity = noise_schedule.velocity(self.latents, self.noise, t, kind) + difference
        self.predicted = noise_schedule.latents_from_velocity(latents, velocity, t, kind)
        return velocity
