"""Learning-rate schedules: factors of the configured rate, as functions of the step."""

import math

import torch


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of all parameters of an optimiser."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def inverse_lr(step: int, inv_gamma: float, power: float = 0.5, warmup: float = 0.99) -> float:
    """Exponential ramp-up, then inverse decay: `(1 − warmup^(step+1)) · (1 + step/inv_gamma)^(−power)`. Paper: §3."""
    return (1 - warmup ** (step + 1)) * (1 + step / inv_gamma) ** -power


def linear_warmup(step: int, warmup_steps: int) -> float:
    """Linear from 1/warmup_steps to 1, then constant."""
    return min((step + 1) / max(warmup_steps, 1), 1.0)


def warmup_cosine(step: int, warmup_steps: int, num_steps: int) -> float:
    """Linear from 1/warmup_steps to 1, then half a cosine to 0 at `num_steps`. LAION-CLAP's schedule."""
    if step < warmup_steps:
        return linear_warmup(step, warmup_steps)
    progress = (step - warmup_steps) / max(num_steps - warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def falling_rate(step: int, max_steps: int, start: float, final: float) -> float:
    """1, then linearly down to `final` at the end of the training.

    Args:
        step: in [0, `max_steps`).
        max_steps: of the whole training.
        start: share of the steps after which it falls, in [0, 1]; 1: it never falls.
        final: the factor that the step after the last one would have, in [0, 1].
    """
    share = step / max_steps
    return 1.0 if share <= start else 1 - (1 - final) * (share - start) / (1 - start)
