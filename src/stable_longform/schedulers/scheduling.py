"""Which schedulers a pipeline takes: the default one, the check of any other, and the times of its steps.

Paper: §3 names DPM-Solver++. Reference: Lu et al., "DPM-Solver++" (2022).
"""

import math

import torch
from diffusers import CosineDPMSolverMultistepScheduler, DPMSolverMultistepScheduler

from stable_longform.noise_schedule import alpha, time_from_noise_level

SIGMA_MIN, SIGMA_MAX = 0.3, 500.0  # noise levels σ/α of the last and the first sampling step


def make_scheduler(
    sigma_min: float = SIGMA_MIN,
    sigma_max: float = SIGMA_MAX,
    num_train_timesteps: int = 1000,
    algorithm_type: str = "dpmsolver++",
    solver_order: int = 2,
) -> DPMSolverMultistepScheduler:
    """DPM-Solver++ on the exact cosine schedule, with steps equally spaced in log noise level.

    Paper: §3 names DPM-Solver++. Its noise levels are not published: spacing and order are those of the authors'
    code, the range that of Stable Audio Open.

    Args:
        sigma_min: noise level σ/α of the last step, at least 0.03 (float32 tables are not exact below).
        sigma_max: noise level of the first step, greater than `sigma_min`.
        num_train_timesteps: entries of the scheduler's table, at least 2; between them it interpolates.
        algorithm_type: "dpmsolver++" (deterministic) or "sde-dpmsolver++" (stochastic).
        solver_order: 1 or 2; also 3 for "dpmsolver++".

    Raises:
        ValueError: a value outside these ranges.
    """
    if not 0.03 <= sigma_min < sigma_max < math.inf:
        raise ValueError(f"0.03 <= sigma_min < sigma_max < inf must hold, got {sigma_min} and {sigma_max}.")
    if num_train_timesteps < 2:
        raise ValueError(f"num_train_timesteps must be at least 2, got {num_train_timesteps}.")
    orders = {"dpmsolver++": (1, 2, 3), "sde-dpmsolver++": (1, 2)}
    if algorithm_type not in orders:
        raise ValueError(f"algorithm_type must be one of {', '.join(orders)}, got {algorithm_type!r}.")
    if solver_order not in orders[algorithm_type]:
        raise ValueError(f"solver_order of {algorithm_type} must be in {orders[algorithm_type]}, got {solver_order}.")
    first, last = (time_from_noise_level(torch.tensor(s, dtype=torch.float64)) for s in (sigma_min, sigma_max))
    signal = alpha(torch.linspace(first, last, num_train_timesteps, dtype=torch.float64)).square()
    betas = 1 - signal / torch.cat([signal.new_ones(1), signal[:-1]])
    return DPMSolverMultistepScheduler(
        num_train_timesteps=num_train_timesteps,
        trained_betas=betas.tolist(),
        prediction_type="v_prediction",
        algorithm_type=algorithm_type,
        solver_order=solver_order,
        solver_type="midpoint",
        use_exponential_sigmas=True,
        final_sigmas_type="zero",
    )


def set_timesteps(scheduler, num_inference_steps: int, device: torch.device | str | None = None) -> torch.Tensor:
    """Prepares a scheduler for sampling; its timesteps become the continuous times of its nodes.

    Args:
        scheduler: a `DPMSolverMultistepScheduler` or `CosineDPMSolverMultistepScheduler` that predicts v.
        num_inference_steps: at least 1.
        device: of the returned times.

    Returns:
        `(num_inference_steps,)` float32, t = (2/π)·atan(σ/α) falling from near 1, to be given to the network and to
        `scheduler.step`.

    Raises:
        ValueError: a scheduler that `check_scheduler` rejects, too few steps, or more than the scheduler has distinct
            noise levels for.
    """
    if num_inference_steps < 1:
        raise ValueError(f"num_inference_steps must be at least 1, got {num_inference_steps}.")
    check_scheduler(scheduler)
    scheduler.set_timesteps(num_inference_steps, device=device)
    noise_levels = scheduler.sigmas[:-1].float()
    if not noise_levels.isfinite().all() or (noise_levels.diff() >= 0).any():
        raise ValueError(f"The scheduler has no {num_inference_steps} finite noise levels that strictly fall.")
    scheduler.timesteps = time_from_noise_level(noise_levels).to(device)
    scheduler.set_begin_index(0)
    return scheduler.timesteps


def check_scheduler(scheduler) -> None:
    """Raises a ValueError unless the scheduler's noise levels and predictions mean what the network learned.

    Orders that diffusers gets wrong (third order of the stochastic samplers) are rejected too.
    """
    known = (DPMSolverMultistepScheduler, CosineDPMSolverMultistepScheduler)
    if not isinstance(scheduler, known):
        names = " or ".join(kind.__name__ for kind in known)
        raise ValueError(f"scheduler must be a {names}, got {type(scheduler).__name__}.")
    if scheduler.config.prediction_type != "v_prediction":
        raise ValueError(
            f"scheduler must have prediction_type='v_prediction', got {scheduler.config.prediction_type!r}."
        )
    if scheduler.config.get("sigma_data", 1.0) != 1.0:
        raise ValueError(f"scheduler must have sigma_data=1.0, got {scheduler.config.sigma_data}.")
    is_stochastic = scheduler.config.get("algorithm_type", "sde-dpmsolver++").startswith("sde")
    if is_stochastic and scheduler.config.solver_order > 2:
        raise ValueError(f"A stochastic scheduler must have solver_order 1 or 2, got {scheduler.config.solver_order}.")
    if scheduler.config.get("use_flow_sigmas"):
        raise ValueError("scheduler must not use flow sigmas (use_flow_sigmas=True), whose time means something else.")
