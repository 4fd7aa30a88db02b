"""Ping-pong sampling, for models that were distilled to a few steps.

Each step goes to the predicted data and adds fresh noise at the level of the next step. A distilled network needs only
1 to 8 steps. Not in the paper.

References: Song et al., "Consistency models", arXiv 2303.01469, algorithm 1 (multistep sampling). Novack et al.,
"Fast text-to-audio generation with adversarial post-training", arXiv 2505.08175 (ping-pong).
"""

from collections.abc import Sequence
from typing import cast

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor

from stable_longform.noise_schedule import (
    FLOW_PREDICTION,
    PREDICTION_TYPES,
    add_noise,
    latents_from_velocity,
    time_from_noise_level,
)

SPACINGS = ("linear", "log_snr")


class PingPongScheduler(SchedulerMixin, ConfigMixin):
    """Multistep consistency sampling of a network that predicts a velocity.

    With a list of generators, the noise of an item comes from its own generator and does not depend on the other items
    of the batch.

    Args:
        prediction_type: "v_prediction" or "flow_prediction", see `noise_schedule`.
        timestep_spacing: "linear": equally spaced from t = 1 to one step before `timestep_end`. "log_snr": equally
            spaced in ln(α/σ), from `log_snr_start` to one step before `log_snr_end`, except that the first is t = 1.
            stable-audio-tools spaces the steps of rectified flow this way.
        log_snr_start: of "log_snr".
        log_snr_end: of "log_snr"; greater than `log_snr_start`.
        timestep_end: of "linear", in [0, 1): the earliest time that the network was trained at. A student learns
            nothing of times before its teacher's last step.

    Raises:
        ValueError: the type or spacing is unknown, the range does not rise, or `timestep_end` is outside [0, 1).
    """

    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        prediction_type: str = "v_prediction",
        timestep_spacing: str = "linear",
        log_snr_start: float = -6.0,
        log_snr_end: float = 2.0,
        timestep_end: float = 0.0,
    ):
        if prediction_type not in PREDICTION_TYPES:
            raise ValueError(f"prediction_type must be one of {', '.join(PREDICTION_TYPES)}, got {prediction_type!r}.")
        if timestep_spacing not in SPACINGS:
            raise ValueError(f"timestep_spacing must be one of {', '.join(SPACINGS)}, got {timestep_spacing!r}.")
        if not log_snr_start < log_snr_end:
            raise ValueError(f"log_snr_start must be below log_snr_end={log_snr_end}, got {log_snr_start}.")
        if not 0 <= timestep_end < 1:
            raise ValueError(f"timestep_end must be in [0, 1), got {timestep_end}.")
        self.timesteps: torch.Tensor | None = None
        self.begin_index: int | None = None
        self.step_index: int | None = None

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Sets the number of the step that the first call of `step` takes."""
        self.begin_index, self.step_index = begin_index, None

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        timesteps: Sequence[float] | torch.Tensor | None = None,
    ) -> None:
        """Sets `timesteps`: falling times in (0, 1], in float32.

        Args:
            num_inference_steps: number of steps, at least 1, spaced as configured.
            device: of the times.
            timesteps: the times, instead of `num_inference_steps`.

        Raises:
            ValueError: neither or both are given, or the times do not fall or are outside (0, 1].
        """
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError("Give either num_inference_steps or timesteps.")
        if num_inference_steps is not None:
            if num_inference_steps < 1:
                raise ValueError(f"num_inference_steps must be at least 1, got {num_inference_steps}.")
            times = self._spaced(num_inference_steps)
        else:
            times = torch.as_tensor(timesteps, dtype=torch.float64).flatten()
        if not len(times) or not ((times > 0) & (times <= 1)).all() or (times.diff() >= 0).any():
            raise ValueError(f"timesteps must be falling times in (0, 1], got {times.tolist()}.")
        self.timesteps = times.to(device, torch.float32)
        self.num_inference_steps = len(times)
        self.set_begin_index(0)

    def scale_model_input(self, sample: torch.Tensor, timestep: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the sample unchanged: the noisy latents are the network's input."""
        return sample

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor | float,
        sample: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[torch.Tensor]:
        """Takes one step: to the predicted data, then back to the noise level of the next time.

        Args:
            model_output: the velocity `(B, C, L)`.
            timestep: the current time; only used to find the first step, unless `set_begin_index` was called.
            sample: noisy latents `(B, C, L)`.
            generator: for the fresh noise; a list has one for each item.
            return_dict: whether to return an output object or a plain tuple.

        Raises:
            ValueError: `set_timesteps` was not called, or `timestep` is not one of the times.
        """
        if self.timesteps is None:
            raise ValueError("Call set_timesteps before step.")
        if self.step_index is None:
            self.step_index = self._find(timestep) if self.begin_index is None else self.begin_index
        t, kind = self.timesteps[self.step_index], self.config.prediction_type
        result = latents_from_velocity(sample.float(), model_output.float(), t, kind)
        self.step_index += 1
        if self.step_index < len(self.timesteps):
            noise = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=torch.float32)
            result = add_noise(result, noise, self.timesteps[self.step_index], kind)
        result = result.to(sample.dtype)
        return SchedulerOutput(prev_sample=result) if return_dict else (result,)

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Noisy latents at times `(B,)`, from latents and noise `(B, C, L)`."""
        return add_noise(original_samples, noise, timesteps, self.config.prediction_type)

    def __len__(self) -> int:
        return 0 if self.timesteps is None else len(self.timesteps)

    def _spaced(self, num_inference_steps: int) -> torch.Tensor:
        """The times, spaced according to `timestep_spacing`, in float64."""
        if self.config.timestep_spacing == "linear":
            return torch.linspace(1, self.config.timestep_end, num_inference_steps + 1, dtype=torch.float64)[:-1]
        ends = self.config.log_snr_start, self.config.log_snr_end
        log_snr = torch.linspace(*ends, num_inference_steps + 1, dtype=torch.float64)[:-1]
        if self.config.prediction_type == FLOW_PREDICTION:
            times = torch.sigmoid(-log_snr)  # ln(α/σ) = ln((1 − t) / t)
        else:
            times = time_from_noise_level(torch.exp(-log_snr))
        times[0] = 1.0
        return times

    def _find(self, timestep: torch.Tensor | float) -> int:
        """The number of the step at this time."""
        times = cast(torch.Tensor, self.timesteps)
        found = torch.eq(times, torch.as_tensor(timestep, dtype=torch.float32).to(times.device)).nonzero()
        if not len(found):
            raise ValueError(f"timestep must be one of {times.tolist()}, got {float(timestep)}.")
        return int(found[0])
