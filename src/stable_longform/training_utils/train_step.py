"""One training step: gradients over micro-batches, the check that all values are finite, clipping, the optimiser."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer

from stable_longform.training_utils.ema import full_tensor
from stable_longform.training_utils.processes import is_any

WINDOW = 100  # number of latest steps in which skipped ones are counted

logger = logging.getLogger(__name__)


class SkippedSteps:
    """Counts the steps that were skipped because a loss or gradient was not finite, up to a limit.

    Args:
        limit: how many of `WINDOW` consecutive steps may be skipped; 0: none.
    """

    def __init__(self, limit: int):
        self.limit, self.total = limit, 0
        self.recent: list[int] = []  # steps within the window

    def add(self, step: int, reason: str) -> None:
        """Counts a step.

        Raises:
            FloatingPointError: the limit is exceeded.
        """
        self.recent = [other for other in self.recent if other > step - WINDOW] + [step]
        self.total += 1
        if len(self.recent) > self.limit:
            allowed = f"{len(self.recent)} of the last {WINDOW} steps were not, max_skipped_steps is {self.limit}"
            raise FloatingPointError(
                f"Step {step}: {reason} ({allowed}); the last checkpoint is unchanged, and the same command continues "
                "from it, also with another learning_rate, max_grad_norm or mixed_precision."
            )
        logger.warning("Step %d: %s; it is skipped.", step, reason)

    def state_dict(self) -> dict:
        """The state for a checkpoint."""
        return {"total": self.total, "recent": self.recent}

    def load_state_dict(self, state: Mapping) -> None:
        """Restores the state from a checkpoint."""
        self.total, self.recent = state["total"], list(state["recent"])


def train_step(
    accelerator: Accelerator,
    optimizer: AcceleratedOptimizer,
    models: Sequence[torch.nn.Module],
    micro_batches: Iterable[Mapping],
    compute_losses: Callable[[Mapping], Mapping[str, torch.Tensor]],
    step: int,
    skipped: SkippedSteps,
    loss_weights: Mapping[str, float] | None = None,
    max_grad_norm: float | None = None,
) -> tuple[dict[str, torch.Tensor | float], bool]:
    """Takes one step with the mean of the losses over the micro-batches and all processes, if all are finite.

    Args:
        accelerator: its `gradient_accumulation_steps` is the number of micro-batches.
        optimizer: prepared.
        models: all prepared models that the losses depend on.
        micro_batches: of this process.
        compute_losses: returns the losses of a micro-batch by name, each a scalar.
        step: number of the step.
        skipped: counts the step if it is not taken.
        loss_weights: weights of all losses by name; None: all are 1.
        max_grad_norm: norm to which the gradient is clipped; None: it is not clipped.

    Returns:
        The means of the losses over the micro-batches of this process, and the result of `finish_step`.

    Raises:
        FloatingPointError: too many steps were skipped; the weights are unchanged.
        KeyError: a loss has no weight.
    """
    optimizer.zero_grad()
    buffers = keep_buffers(models)
    all_losses = []
    for batch in micro_batches:
        with accelerator.accumulate(*models):
            losses = compute_losses(batch)
            accelerator.backward(
                sum((1.0 if loss_weights is None else loss_weights[name]) * loss for name, loss in losses.items())
            )
        all_losses.append({name: loss.detach().float() for name, loss in losses.items()})
    means = {name: torch.stack([losses[name] for losses in all_losses]).mean() for name in all_losses[0]}
    return finish_step(accelerator, optimizer, means, step, skipped, buffers, max_grad_norm, batch)


Buffers = list[tuple[torch.Tensor, torch.Tensor]]  # a buffer and its copy


def keep_buffers(models: Sequence[torch.nn.Module]) -> Buffers:
    """Copies the buffers that forward passes change: the statistics of batch norms."""
    return [(buffer, buffer.clone()) for model in models for buffer in model.buffers()]


def finish_step(
    accelerator: Accelerator,
    optimizer: AcceleratedOptimizer,
    losses: Mapping[str, torch.Tensor],
    step: int,
    skipped: SkippedSteps,
    buffers: Buffers,
    max_grad_norm: float | None = None,
    batch: Mapping | None = None,
) -> tuple[dict[str, torch.Tensor | float], bool]:
    """Clips the gradient and lets the optimiser take its step, unless a value is not finite in any process.

    If the step is not taken, weights, buffers and optimiser stay unchanged. The check is the only time that the CPU
    waits for a GPU in a step.

    Args:
        accelerator: of the run.
        optimizer: prepared; its parameters have their gradients.
        losses: of this process, by name.
        step: number of the step.
        skipped: counts the step if it is not taken.
        buffers: from before the forward passes, see `keep_buffers`.
        max_grad_norm: None: the gradient is not clipped.
        batch: the batch from which the gradient was computed, for the message.

    Returns:
        Metrics, and whether the step was taken. If it was, the metrics are the losses; the `gradient_norm` before
        clipping, unless it may be infinite (the loss scaling of fp16 then skips the step); the `learning_rate` that
        was applied; and the `skipped_steps` of the run so far. If not, they are only `skipped_steps`.

    Raises:
        FloatingPointError: too many steps were skipped; the weights are unchanged.
    """
    values = dict(losses)
    if accelerator.scaler is None:  # with fp16, the scaler checks the gradient
        values["gradient_norm"] = _clip(accelerator, optimizer, max_grad_norm)
    are_finite = torch.stack([torch.isfinite(value).all() for value in values.values()])
    if is_any(accelerator, not are_finite.all()):
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        skipped.add(step, describe_not_finite(values, batch))
        return {"skipped_steps": float(skipped.total)}, False
    if accelerator.scaler is not None:
        _clip(accelerator, optimizer, max_grad_norm)
    optimizer.step()
    applied = {"learning_rate": float(optimizer.param_groups[0]["lr"]), "skipped_steps": float(skipped.total)}
    return values | applied, not optimizer.step_was_skipped


def _clip(accelerator: Accelerator, optimizer: AcceleratedOptimizer, max_grad_norm: float | None) -> torch.Tensor:
    """Clips the gradient of an optimiser's parameters; returns its norm before clipping."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = accelerator.clip_grad_norm_(parameters, float("inf") if max_grad_norm is None else max_grad_norm)
    return full_tensor(torch.as_tensor(norm))


def describe_not_finite(values: Mapping[str, torch.Tensor], batch: Mapping | None = None) -> str:
    """Describes which values are not finite, and whether their data are finite.

    Args:
        values: by name.
        batch: its tensors `(B, ...)` that are not finite are named too, with their items.
    """
    bad = [name for name, value in values.items() if not torch.isfinite(value).all()]
    if not bad:
        return "a loss or gradient of another process is not finite"
    culprits = []
    for name, tensor in (batch or {}).items():
        if isinstance(tensor, torch.Tensor) and not torch.isfinite(tensor).all():
            items = (~torch.isfinite(tensor)).reshape(len(tensor), -1).any(dim=1).nonzero().flatten().tolist()
            culprits.append(f"{name} of its items {', '.join(map(str, items))}")
    cause = f"; so is {' and '.join(culprits)}" if culprits else "" if batch is None else "; its data are"
    return f"{', '.join(bad)} is not finite{cause}"
