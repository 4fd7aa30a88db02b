"""Makes new music fit to kept music in the sampling loop, with a model that was not trained for it.

Reference: Lugmayr et al., "RePaint", arXiv 2201.09865.
"""

from collections.abc import Callable

import torch

from stable_longform import noise_schedule
from stable_longform.pipelines import schedules


class KeptMusic:
    """Hooks of `sampling.sample` that keep some frames of the music.

    Args:
        scheduler: of the loop, with its steps set.
        music: latents `(B, C, L)`; the values of free frames do not matter.
        is_free: boolean `(B, 1, L)`, True where frames are new.
        noise: `(B, C, L)`, added to the kept frames in every step.
        draw_noise: returns fresh noise `(B, C, L)`.
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
        """Called before a step: inserts the kept frames at the noise level of the step."""
        noisy = noise_schedule.add_noise(self.music, self.noise, t, self.prediction_type)
        return torch.where(self.is_free, latents, schedules.in_scheduler_scale(self.scheduler, noisy, t))

    def undo_step(self, step: int, t: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Called before a step is repeated: returns to the noise level before it, so that new frames can adapt."""
        fresh = self.draw_noise().to(latents)
        return schedules.undo_step(self.scheduler, step, latents, fresh, self.prediction_type)
