"""The sampling loop of all pipelines, and the velocities that it follows. Paper: §3.

A pipeline passes a function for the velocity to `sample`: `GuidedVelocity` for one window, `WindowedVelocity` for
longer music. Starting later from noisy music generates variations of it. A `before_step` that inserts known music at
the noise level of each step generates the missing music around it.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch

from stable_longform.models.transformer_dit_1d import DiTTransformer1D
from stable_longform.pipelines.guidance import (
    Condition,
    Conditioning,
    Guidance,
    branches_in_turn,
    guide,
    make_conditions,
    predict_velocity,
)
from stable_longform.schedulers import scheduling

Velocity = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
StepHook = Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass
class Run:
    """The state of one generation, which callbacks can read and change.

    Args:
        guidance: the guidance from the next step on.
        num_timesteps: total number of sampling steps.
        current_timestep: time t in [0, 1] of the step that is being computed; None between generations.
        is_interrupted: whether the remaining steps are skipped.
        is_running: whether the generation has not ended yet.
    """

    guidance: Guidance
    num_timesteps: int
    current_timestep: float | None = None
    is_interrupted: bool = False
    is_running: bool = True


class GuidedVelocity:
    """The velocity of noisy latents for one conditioning, with guidance at the times when it is on.

    Everything that stays the same in all steps is computed once, when it is first needed: see `make_conditions`.

    Args:
        transformer: predicts the velocity.
        conditioning: of B items.
        guidance: read again in each step.
        name: distinguishes it from other velocities of the same loop, for diffusers' caches.
        keeps_conditions: from step to step. Without, they are put together again in each step, because the projected
            prompts of many windows would need more memory than the latents.
    """

    def __init__(
        self,
        transformer: DiTTransformer1D,
        conditioning: Conditioning,
        guidance: Guidance,
        name: str = "velocity",
        keeps_conditions: bool = True,
    ):
        self.transformer = transformer
        self.name = name
        self.keeps_conditions = keeps_conditions
        self.guidance = guidance
        self.conditioning = conditioning
        self._conditions: dict[bool, list[Condition]] = {}  # with and without guidance
        self._was_guided: bool | None = None

    def change(self, **tensors: torch.Tensor) -> None:
        """Replaces tensors of the conditioning by others of the same shapes."""
        self.conditioning = replace(self.conditioning, **tensors)
        self._conditions.clear()

    def __call__(self, latents: torch.Tensor, t: torch.Tensor, time: float) -> torch.Tensor:
        """The velocity `(B, C, L)` in float32.

        Args:
            latents: noisy latents `(B, C, L)`.
            t: their time in [0, 1], a single number on the device.
            time: the same number as a float, so that nothing has to wait for the device.
        """
        is_guided = self.guidance.is_on(time)
        if is_guided != self._was_guided:
            self.transformer._reset_stateful_cache()  # of enable_cache: the batch has another size now
            self._was_guided = is_guided
        conditions = self._conditions.get(is_guided) or make_conditions(
            self.transformer,
            self.conditioning.prompt_embeds,
            self.conditioning.negative_prompt_embeds if is_guided else None,
            cast(torch.Tensor, self.conditioning.timing_tokens),
            cast(torch.Tensor, self.conditioning.global_states),
            self.conditioning.attention_mask,
            branches_in_turn(self.transformer, latents),
            self.conditioning.sections,
        )
        if self.keeps_conditions:
            self._conditions[is_guided] = conditions
        v = predict_velocity(self.transformer, latents, t, conditions, self.name)
        if not is_guided:
            return v
        unconditional, conditional = v.chunk(2)
        return guide(unconditional, conditional, self.guidance.scale, self.guidance.rescale)


class WindowedVelocity:
    """The velocity of latents that are longer than the window: the weighted mean of overlapping windows.

    Near the ends of a window, beyond which the model sees nothing, its weight falls to almost zero.
    Bar-Tal et al., "MultiDiffusion", arXiv 2302.08113.

    Args:
        velocities: of the windows.
        starts: their first frames, rising; each window starts before the previous one ends.
        window_length: frames of each window; the last window ends where the latents end.
    """

    def __init__(self, velocities: Sequence[GuidedVelocity], starts: Sequence[int], window_length: int):
        self.velocities, self.starts, self.window_length = velocities, starts, window_length
        positions = torch.arange(window_length) + 0.5
        self.weight = torch.minimum(positions, window_length - positions)
        total = torch.zeros(starts[-1] + window_length)
        for start in starts:
            total[start : start + window_length] += self.weight
        self.total = total

    @property
    def conditioning(self) -> Conditioning:
        """The conditioning of the first window, for callbacks."""
        return self.velocities[0].conditioning

    def change(self, **tensors: torch.Tensor) -> None:
        """Replaces tensors of the conditioning in all windows."""
        for velocity in self.velocities:
            velocity.change(**tensors)

    def __call__(self, latents: torch.Tensor, t: torch.Tensor, time: float) -> torch.Tensor:
        """The velocity; arguments as in `GuidedVelocity`."""
        mean = torch.zeros_like(latents, dtype=torch.float32)
        for start, velocity in zip(self.starts, self.velocities, strict=True):
            frames = slice(start, start + self.window_length)
            weight = (self.weight / self.total[frames]).to(mean.device)
            mean[..., frames] += weight * velocity(latents[..., frames], t, time)
        return mean


def sample(
    velocity: Velocity,
    scheduler,
    latents: torch.Tensor,
    run: Run,
    generator: torch.Generator | list[torch.Generator] | None = None,
    first_step: int = 0,
    before_step: StepHook | None = None,
    after_step: StepHook | None = None,
    num_repeats: int = 1,
    undo_step: StepHook | None = None,
) -> torch.Tensor:
    """Denoises latents step by step.

    Args:
        velocity: called as `velocity(latents, t, time)`, see `GuidedVelocity`.
        scheduler: prepared by `scheduling.set_timesteps`. It is modified: use one for each generation.
        latents: `(B, C, L)` in float32, at the noise level of `first_step` and in the scheduler's own scale.
        run: kept up to date; it can stop the loop.
        generator: for a stochastic scheduler.
        first_step: number of the first step, in [0, number of steps).
        before_step: called as `before_step(step, t, latents)` before the velocity is computed; returns the latents to
            continue with.
        after_step: the same, called after the last repetition of each step.
        num_repeats: how often each step is taken.
        undo_step: the same, called between two repetitions; returns latents at the noise level before the step.
            Lugmayr et al., "RePaint", arXiv 2201.09865.

    Returns:
        The latents `(B, C, L)` after the last step, or after the one in which `run` was interrupted.
    """
    times = scheduler.timesteps.tolist()  # read once, to avoid waiting for the device in each step
    scheduler.set_begin_index(first_step)
    for step in range(first_step, len(times)):
        if run.is_interrupted:
            break
        t, run.current_timestep = scheduler.timesteps[step], times[step]
        before = scheduler
        for repeat in range(num_repeats):
            scheduler = _fork(before) if num_repeats > 1 else before
            if repeat > 0 and undo_step is not None:
                latents = undo_step(step, t, latents)
            if before_step is not None:
                latents = before_step(step, t, latents)
            v = velocity(scheduling.scale_model_input(scheduler, latents, t), t, times[step])
            latents = scheduler.step(v, t, latents, generator=generator, return_dict=False)[0]
        if after_step is not None:
            latents = after_step(step, t, latents)
    return latents


def _fork(scheduler):
    """A copy of a scheduler; its steps do not change the original's memory of earlier steps."""
    other = copy.copy(scheduler)
    vars(other).update({name: list(value) for name, value in vars(scheduler).items() if isinstance(value, list)})
    return other
