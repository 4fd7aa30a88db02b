"""Other paths through a scheduler's times: starting at a later time, and going back to noise.

The functions modify a scheduler that was prepared for text to music.
"""

import math

import torch
from diffusers import CosineDPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from stable_longform.noise_schedule import FLOW_PREDICTION, alpha, amplitudes, time_from_noise_level
from stable_longform.schedulers.scheduling_ping_pong import PingPongScheduler


def start_at(scheduler, time: float, prediction_type: str) -> None:
    """Removes the times above the start. The rest of the schedule is kept, at least one step.

    A node less than half a step below the start is removed too, because solvers divide by the length of their steps.

    Args:
        scheduler: with its timesteps set.
        time: t in (0, 1] of the new first step. If it is at or above the schedule's first time, nothing changes.
        prediction_type: what the transformer predicts.
    """
    times = scheduler.timesteps.tolist()
    if time >= times[0]:
        return
    first = next((step for step, t in enumerate(times) if t < time), len(times))
    if first < len(times) and time - times[first] < (times[first - 1] - times[first]) / 2:
        first += 1
    if isinstance(scheduler, PingPongScheduler):
        scheduler.set_timesteps(timesteps=[time, *times[first:]], device=scheduler.timesteps.device)
        return
    levels = scheduler.sigmas.float()
    level = time if prediction_type == FLOW_PREDICTION else math.tan(time * math.pi / 2)
    level = max(level, torch.finfo(levels.dtype).tiny)  # solvers divide by it
    _set_levels(scheduler, torch.cat([levels.new_tensor([level]), levels[first:]]), prediction_type)


def reverse(scheduler, prediction_type: str) -> None:
    """Reverses the schedule: from its last time up to its first. See `check_deterministic`."""
    _set_levels(scheduler, scheduler.sigmas[:-1].flip(0), prediction_type)


def check_deterministic(scheduler, method: str) -> None:
    """Raises a ValueError for a stochastic scheduler, whose noise neither "invert" nor "edit" can follow.

    "edit" can follow ping-pong, which adds its noise to the predicted data alone.
    """
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return
    if method == "edit" and isinstance(scheduler, PingPongScheduler):
        return
    if scheduler.config.get("algorithm_type", "sde-dpmsolver++").startswith("sde"):
        raise ValueError(
            f"method={method!r} needs a deterministic scheduler, as make_scheduler() gives it, got a stochastic "
            f"{type(scheduler).__name__}."
        )


def in_scheduler_scale(scheduler, latents: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Converts noisy latents x_t = α·z + σ·ε to the scheduler's own scale.

    Only `CosineDPMSolver...`, which rectified flow does not use, has another: x_t / α.
    """
    return latents / alpha(t) if isinstance(scheduler, CosineDPMSolverMultistepScheduler) else latents


def undo_step(scheduler, step: int, latents: torch.Tensor, noise: torch.Tensor, prediction_type: str) -> torch.Tensor:
    """Brings latents after a step, in the scheduler's scale, back to the noise level before it.

    From α'·z + σ'·ε to α·z + σ·ε, as in RePaint, eq. 1: scaled by α / α', plus the noise that is missing in σ².
    """
    t = scheduler.timesteps[step]
    next_t = scheduler.timesteps[step + 1] if step + 1 < len(scheduler.timesteps) else torch.zeros_like(t)
    (a, s), (next_a, next_s) = (amplitudes(time, prediction_type) for time in (t, next_t))
    if isinstance(scheduler, CosineDPMSolverMultistepScheduler):
        latents = latents * alpha(next_t)
    undone = a / next_a * latents + (s**2 - (a * next_s / next_a) ** 2).clamp(min=0).sqrt() * noise
    return in_scheduler_scale(scheduler, undone, t)


def _set_levels(scheduler, levels: torch.Tensor, prediction_type: str) -> None:
    """Makes these noise levels, σ/α or σ for rectified flow, the scheduler's nodes; it ends at the last one."""
    scheduler.sigmas = levels.cpu()
    times = levels[:-1].float()
    if prediction_type != FLOW_PREDICTION:
        times = time_from_noise_level(times)
    scheduler.timesteps = times.to(scheduler.timesteps.device)
    scheduler.num_inference_steps = len(levels) - 1
    scheduler.set_begin_index(0)
