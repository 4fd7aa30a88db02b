"""DPM-Solver++ with a third-order stochastic step.

diffusers' `DPMSolverMultistepScheduler` accepts `solver_order=3` with "sde-dpmsolver++", but one sign in its step is
wrong: if steps are short, it adds the second difference of the predictions instead of almost nothing.

References: Lu et al., "DPM-Solver++", arXiv 2211.01095. The step is that of k-diffusion's `sample_dpmpp_3m_sde`, the
sampler recommended for Stable Audio Open.
"""

import torch
from diffusers import DPMSolverMultistepScheduler, SchedulerMixin


# The stock class already is a SchedulerMixin, but when a pipeline is opened, diffusers looks for it in this module.
class SDEDPMSolverMultistepScheduler(DPMSolverMultistepScheduler, SchedulerMixin):
    """diffusers' scheduler with a corrected third order of "sde-dpmsolver++"."""

    def multistep_dpm_solver_third_order_update(
        self,
        model_output_list: list[torch.Tensor],
        *args,
        sample: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """One step from the latest three predictions of the data; arguments as in diffusers."""
        if self.config.algorithm_type != "sde-dpmsolver++":
            return super().multistep_dpm_solver_third_order_update(
                model_output_list, *args, sample=sample, noise=noise, **kwargs
            )
        levels = [self.sigmas[self.step_index + offset] for offset in (1, 0, -1, -2)]
        (alpha_t, sigma_t), (_, sigma_s) = (self._sigma_to_alpha_sigma_t(level) for level in levels[:2])
        step, step_1, step_2 = (torch.log(before / after) for after, before in zip(levels, levels[1:], strict=False))
        data, data_1, data_2 = model_output_list[-1], model_output_list[-2], model_output_list[-3]
        ratio_1, ratio_2 = step_1 / step, step_2 / step
        slope_1, slope_2 = (data - data_1) / ratio_1, (data_1 - data_2) / ratio_2
        curvature = (slope_1 - slope_2) / (ratio_1 + ratio_2)
        slope = slope_1 + ratio_1 * curvature
        decay = torch.expm1(-2 * step)
        first = decay / (2 * step) + 1
        second = first / (2 * step) - 0.5
        return (
            sigma_t / sigma_s * torch.exp(-step) * sample
            - alpha_t * decay * data
            + alpha_t * (first * slope - second * curvature)
            + sigma_t * torch.sqrt(-decay) * noise
        )
