"""What makes new music fit to kept music in the sampling loop, without a model that was trained for it.

Reference: Lugmayr et al., "RePaint", arXiv 2201.09865.
"""

from collections.abc import Callable

import torch

from stable_longform import noise_schedule
from stable_longform.pipelines import schedules


class KeptMusic:
    """Hooks of `sampling.sample` for music of which some frames are kept.

    Args:
        scheduler: that the loop uses, with its steps set.
        music: latents `(B, C, L)`; what they are where frames are free does not matter.
        is_free: boolean `(B, 1, L)`, True where frames are new.
        noise: `(B, C, L)`, in which kept frames are shown at every step.
        draw_noise: fresh noise `(B, C, L)`.
        prediction_type: what the transformer predicts.
    """

    def __init__(
        self,
        scheduler,
        music: torch.Tensor,
        is_free: torch.Tensor,
        noise: torch.Tensor,
        draw_noise: Callable[[], torch.Tensor],
        prediction_type: str,
    ):
        self.scheduler, self.music, self.is_free, self.noise = scheduler, music, is_free, noise
        self.draw_noise, self.prediction_type = draw_noise, prediction_type

    def put_in_place(self, step: int, t: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Before a step: what is kept, at the noise level of the step, in the place of what the step before left."""
        noisy = noise_schedule.add_noise(self.music, self.noise, t, self.prediction_type)
        return torch.where(self.is_free, latents, schedules.in_scheduler_scale(self.scheduler, noisy, t))

    def undo_step(self, step: int, t: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """After a step that is taken again: back to the noise level before it, so that what is new can adapt."""
        fresh = self.draw_noise().to(latents)
        return schedules.undo_step(self.scheduler, step, latents, fresh, self.prediction_type)
