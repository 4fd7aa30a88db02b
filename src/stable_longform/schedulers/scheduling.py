"""The schedulers of a pipeline: the default one, the check of others, and the times of the steps.

Paper: §3 names DPM-Solver++. Reference: Lu et al., "DPM-Solver++" (2022).
"""

import math
from collections.abc import Sequence, Sized
from typing import cast

import torch
from diffusers import (
    CosineDPMSolverMultistepScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    SchedulerMixin,
)

from stable_longform.noise_schedule import (
    FLOW_PREDICTION,
    PREDICTION_TYPES,
    V_PREDICTION,
    alpha,
    time_from_noise_level,
)
from stable_longform.schedulers.scheduling_ping_pong import PingPongScheduler
from stable_longform.schedulers.scheduling_sde_dpmsolver import SDEDPMSolverMultistepScheduler
from stable_longform.utils.accepted_values import SCHEDULER_NAMES
from stable_longform.utils.ranges import Range

ACCEPTED = {
    V_PREDICTION: (DPMSolverMultistepScheduler, CosineDPMSolverMultistepScheduler, PingPongScheduler),
    FLOW_PREDICTION: (DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, PingPongScheduler),
}
ALGORITHM_TYPES = ("dpmsolver++", "sde-dpmsolver++")
SOLVERS = {  # name -> algorithm type and order
    "dpmsolver++": ("dpmsolver++", 2),
    "ddim": ("dpmsolver++", 1),
    "sde-dpmsolver++": ("sde-dpmsolver++", 2),
    "sde-dpmsolver++-3m": ("sde-dpmsolver++", 3),
}
SIGMA_MIN, SIGMA_MAX = 0.3, 500.0  # noise levels σ/α of the last and the first sampling step
NOISE_LEVELS = Range(0, above=True)
LATEST_TIME = 0.9999  # the latest time a solver can use: at t = 1 its logarithms are infinite


def make_scheduler(
    sigma_min: float = SIGMA_MIN,
    sigma_max: float = SIGMA_MAX,
    num_train_timesteps: int = 1000,
    algorithm_type: str = "dpmsolver++",
    solver_order: int = 2,
) -> DPMSolverMultistepScheduler:
    """DPM-Solver++ on the exact cosine schedule, with steps equally spaced in log noise level.

    Paper: §3 names DPM-Solver++. The noise levels are not published: the spacing and the order are those of the
    authors' code, the range is that of Stable Audio Open.

    Args:
        sigma_min: noise level σ/α of the last step, at least 0.03 (float32 tables are not exact below).
        sigma_max: noise level of the first step, greater than `sigma_min`.
        num_train_timesteps: entries of the scheduler's table, at least 2; it interpolates between them.
        algorithm_type: "dpmsolver++" (deterministic) or "sde-dpmsolver++" (stochastic).
        solver_order: 1, 2 or 3. For order 3 of "sde-dpmsolver++", our own scheduler is used instead of the stock one,
            see `scheduling_sde_dpmsolver.py`.

    Raises:
        ValueError: a value is outside these ranges.
    """
    if not 0.03 <= sigma_min < sigma_max < math.inf:
        raise ValueError(f"0.03 <= sigma_min < sigma_max < inf must hold, got {sigma_min} and {sigma_max}.")
    if num_train_timesteps < 2:
        raise ValueError(f"num_train_timesteps must be at least 2, got {num_train_timesteps}.")
    if algorithm_type not in ALGORITHM_TYPES:
        raise ValueError(f"algorithm_type must be one of {', '.join(ALGORITHM_TYPES)}, got {algorithm_type!r}.")
    if solver_order not in (1, 2, 3):
        raise ValueError(f"solver_order must be 1, 2 or 3, got {solver_order}.")
    first, last = (time_from_noise_level(torch.tensor(s, dtype=torch.float64)) for s in (sigma_min, sigma_max))
    signal = alpha(torch.linspace(first, last, num_train_timesteps, dtype=torch.float64)).square()
    betas = 1 - signal / torch.cat([signal.new_ones(1), signal[:-1]])
    is_ours = algorithm_type == "sde-dpmsolver++" and solver_order == 3
    scheduler_class = SDEDPMSolverMultistepScheduler if is_ours else DPMSolverMultistepScheduler
    return scheduler_class(
        num_train_timesteps=num_train_timesteps,
        trained_betas=betas.tolist(),
        prediction_type="v_prediction",
        algorithm_type=algorithm_type,
        solver_order=solver_order,
        solver_type="midpoint",
        use_exponential_sigmas=True,
        final_sigmas_type="zero",
    )


def scheduler_by_name(name: str, scheduler) -> SchedulerMixin:
    """Makes another scheduler for the same model.

    Args:
        name: one of `SCHEDULER_NAMES`.
        scheduler: the model's present scheduler. If it has a table of noise levels, they are kept; "ping-pong" keeps
            the lowest.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in SCHEDULER_NAMES:
        raise ValueError(f"scheduler must be one of {', '.join(SCHEDULER_NAMES)}, got {name!r}.")
    prediction_type = scheduler.config.get("prediction_type", FLOW_PREDICTION)
    if name == "ping-pong":
        if isinstance(scheduler, PingPongScheduler):
            return scheduler
        return PingPongScheduler(prediction_type=prediction_type, timestep_end=earliest_time(scheduler))
    algorithm_type, solver_order = SOLVERS[name]
    if not isinstance(scheduler, DPMSolverMultistepScheduler):
        scheduler = make_scheduler()
        if prediction_type == FLOW_PREDICTION:
            scheduler = DPMSolverMultistepScheduler(prediction_type=FLOW_PREDICTION, use_flow_sigmas=True)
    scheduler_class = SDEDPMSolverMultistepScheduler if solver_order == 3 else DPMSolverMultistepScheduler
    return scheduler_class.from_config(scheduler.config, algorithm_type=algorithm_type, solver_order=solver_order)


def earliest_time(scheduler) -> float:
    """The time of a scheduler's lowest noise level, where sampling ends; 0 for rectified flow.

    Args:
        scheduler: one that `check_scheduler` accepts for models of v.
    """
    if isinstance(scheduler, CosineDPMSolverMultistepScheduler):
        level = torch.tensor(scheduler.config.sigma_min, dtype=torch.float64)
    elif isinstance(scheduler, DPMSolverMultistepScheduler) and not scheduler.config.use_flow_sigmas:
        signal = scheduler.alphas_cumprod[0].double()
        level = ((1 - signal) / signal).sqrt()
    else:
        return 0.0
    return float(time_from_noise_level(level))


def set_timesteps(
    scheduler,
    num_inference_steps: int | None = None,
    device: torch.device | str | None = None,
    timesteps: Sequence[float] | None = None,
    prediction_type: str = V_PREDICTION,
) -> torch.Tensor:
    """Prepares a scheduler for sampling; its timesteps become the continuous times of its nodes.

    Args:
        scheduler: one that `check_scheduler` accepts.
        num_inference_steps: at least 1.
        device: of the returned times.
        timesteps: strictly falling times of the nodes in [0, 1], instead of the number of steps.
        prediction_type: what the network predicts.

    Returns:
        The times `(number of steps,)` in float32, falling from near 1: t = (2/π)·atan(σ/α), for rectified flow t = σ.
        They are given to the network and to `scheduler.step`.

    Raises:
        ValueError: `check_scheduler` rejects the scheduler, there are too few steps or more than the scheduler has
            distinct noise levels, or the scheduler does not support the times.
    """
    check_scheduler(scheduler, prediction_type)
    if (num_inference_steps is None) == (timesteps is None):
        raise ValueError("Give either num_inference_steps or timesteps.")
    if num_inference_steps is not None and num_inference_steps < 1:
        raise ValueError(f"num_inference_steps must be at least 1, got {num_inference_steps}.")
    if isinstance(scheduler, PingPongScheduler):
        scheduler.set_timesteps(num_inference_steps, device, timesteps)
        return scheduler.timesteps
    scheduler.set_timesteps(num_inference_steps or len(cast(Sized, timesteps)), device=device)
    if timesteps is not None:
        scheduler.sigmas = _noise_levels(scheduler, timesteps, prediction_type).to(scheduler.sigmas)
    noise_levels = scheduler.sigmas[:-1].float()
    if not noise_levels.isfinite().all() or (noise_levels.diff() >= 0).any():
        raise ValueError(f"The scheduler does not have {len(noise_levels)} finite, strictly falling noise levels.")
    times = noise_levels if prediction_type == FLOW_PREDICTION else time_from_noise_level(noise_levels)
    scheduler.timesteps = times.to(device)
    scheduler.set_begin_index(0)
    return scheduler.timesteps


def init_noise_sigma(scheduler) -> float:
    """The factor of unit noise at the start. diffusers' scheduler for rectified flow does not define it: it is 1."""
    return getattr(scheduler, "init_noise_sigma", 1.0)


def scale_model_input(scheduler, latents: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Converts latents at time t from the scheduler's scale to the network's: for rectified flow, they are equal."""
    return scheduler.scale_model_input(latents, t) if hasattr(scheduler, "scale_model_input") else latents


def check_scheduler(scheduler, prediction_type: str = V_PREDICTION) -> None:
    """Raises a ValueError unless the scheduler's noise levels and predictions match what the network has learned.

    Known errors of diffusers are rejected too: the third order of its stochastic samplers, and noise from the global
    generator. docs/schedulers.md explains for every scheduler of diffusers whether it is accepted, and why.

    Args:
        scheduler: of diffusers or ours.
        prediction_type: what the network predicts, one of `noise_schedule.PREDICTION_TYPES`.
    """
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type must be one of {', '.join(PREDICTION_TYPES)}, got {prediction_type!r}.")
    if not isinstance(scheduler, ACCEPTED[prediction_type]):
        names = [kind.__name__ for kind in ACCEPTED[prediction_type]]
        raise ValueError(
            f"scheduler of a model of {prediction_type} must be a {', '.join(names[:-1])} or {names[-1]}, "
            f"got {type(scheduler).__name__}."
        )
    config = scheduler.config
    if config.get("prediction_type", FLOW_PREDICTION) != prediction_type:
        raise ValueError(
            f"scheduler must have prediction_type={prediction_type!r}, like the model, got {config.prediction_type!r}."
        )
    if config.get("solver_order", 2) not in (1, 2, 3):
        raise ValueError(f"scheduler must have solver_order 1, 2 or 3, got {config.solver_order!r}.")
    low, high = config.get("sigma_min"), config.get("sigma_max")
    for name, level in (("sigma_min", low), ("sigma_max", high)):
        if level is not None and level not in NOISE_LEVELS:
            raise ValueError(f"scheduler must have a {name} {NOISE_LEVELS}, got {level!r}.")
    if None not in (low, high) and low >= high:
        raise ValueError(f"scheduler must have a sigma_min below its sigma_max, got {low} and {high}.")
    if config.get("sigma_data", 1.0) != 1.0:
        raise ValueError(f"scheduler must have sigma_data=1.0, got {config.sigma_data}.")
    is_solver = isinstance(scheduler, (DPMSolverMultistepScheduler, CosineDPMSolverMultistepScheduler))
    is_stochastic = config.get("algorithm_type", "sde-dpmsolver++").startswith("sde")
    has_third_order = isinstance(scheduler, SDEDPMSolverMultistepScheduler)
    if is_solver and is_stochastic and config.solver_order > 2 and not has_third_order:
        raise ValueError(
            f"A stochastic scheduler of diffusers must have solver_order 1 or 2, got {config.solver_order}; "
            "make_scheduler makes one of third order."
        )
    if is_solver and bool(config.get("use_flow_sigmas")) != (prediction_type == FLOW_PREDICTION):
        raise ValueError(
            f"scheduler must use flow sigmas exactly for a model of {FLOW_PREDICTION}, got "
            f"use_flow_sigmas={config.get('use_flow_sigmas')} for one of {prediction_type}."
        )
    for name in ("stochastic_sampling", "use_dynamic_shifting", "invert_sigmas"):
        if config.get(name):
            raise ValueError(f"scheduler must not have {name}=True: docs/schedulers.md says why.")


def _noise_levels(scheduler, timesteps: Sequence[float], prediction_type: str) -> torch.Tensor:
    """A scheduler's `sigmas` for given times: the levels σ/α, or σ for rectified flow, and zero at the end."""
    times = torch.as_tensor(timesteps, dtype=torch.float64).flatten()
    high = 1.0 if isinstance(scheduler, FlowMatchEulerDiscreteScheduler) else LATEST_TIME
    if not len(times) or not ((times > 0) & (times <= high)).all() or (times.diff() >= 0).any():
        raise ValueError(f"timesteps of this scheduler must be falling times in (0, {high}], got {times.tolist()}.")
    levels = times if prediction_type == FLOW_PREDICTION else torch.tan(times * math.pi / 2)
    if isinstance(scheduler, CosineDPMSolverMultistepScheduler):
        low, high = scheduler.config.sigma_min, scheduler.config.sigma_max
        if levels[-1] < low * (1 - 1e-6) or levels[0] > high * (1 + 1e-6):
            raise ValueError(
                f"timesteps must be within the noise levels {low} to {high} of this scheduler, whose noise is drawn "
                f"between them; got levels {levels[-1]:.4g} to {levels[0]:.4g}."
            )
    return torch.cat([levels, levels.new_zeros(1)])
