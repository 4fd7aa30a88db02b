"""One step of a training: gradients over micro-batches, the check that all is finite, clipping, the optimiser."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer

from stable_longform.training_utils.ema import full_tensor
from stable_longform.training_utils.processes import is_any

WINDOW = 100  # steps among which skipped ones are counted

logger = logging.getLogger(__name__)


class SkippedSteps:
    """The steps that were left out because a loss or gradient was not finite, and how many there may be.

    Args:
        limit: how many of `WINDOW` steps in a row may be left out; 0: none.
    """

    def __init__(self, limit: int):
        self.limit, self.total = limit, 0
        self.recent: list[int] = []  # steps within the window

    def add(self, step: int, reason: str) -> None:
        """Counts a step.

        Raises:
            FloatingPointError: with this one there are too many.
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
        """What a checkpoint keeps."""
        return {"total": self.total, "recent": self.recent}

    def load_state_dict(self, state: Mapping) -> None:
        """Goes on from a checkpoint."""
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
    """Takes one step on the mean of the losses over the micro-batches and all processes, if all is finite.

    Args:
        accelerator: its `gradient_accumulation_steps` is the number of micro-batches.
        optimizer: prepared.
        models: all prepared models that the losses depend on.
        micro_batches: of this process.
        compute_losses: gives the losses of a micro-batch by name, each a number.
        step: its number.
        skipped: counts the step if it is not taken.
        loss_weights: of all losses; None: all are 1.
        max_grad_norm: to which the gradient is clipped; None: it is not.

    Returns:
        The losses' means over the micro-batches of this process, and what `finish_step` returns.

    Raises:
        FloatingPointError: too many steps were skipped; the weights are as they were.
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


Buffers = list[tuple[torch.Tensor, torch.Tensor]]  # each with a copy


def keep_buffers(models: Sequence[torch.nn.Module]) -> Buffers:
    """Copies of what forward passes change in models: the statistics of batch norms."""
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
    """Clips the gradient and lets the optimiser take its step, unless something is not finite in any process.

    A step that is not taken leaves weights, buffers and optimiser as they were. Whether all is finite is the one thing
    that the CPU asks of a GPU in a step.

    Args:
        accelerator: of the run.
        optimizer: prepared; the gradient is that of its parameters.
        losses: of this process, by name.
        step: its number.
        skipped: counts the step if it is not taken.
        buffers: from before the forward passes, see `keep_buffers`.
        max_grad_norm: None: the gradient is not clipped.
        batch: what the gradient was computed from, for the message.

    Returns:
        Metrics, and whether the step was taken. If so, the metrics are the losses; `gradient_norm` before it was
        clipped, unless it may be infinite (the loss scaling of fp16 then skips the step); the `learning_rate` that was
        applied; and `skipped_steps` of the run so far. If not, that number only.

    Raises:
        FloatingPointError: too many steps were skipped; the weights are as they were.
    """
    values = dict(losses)
    if accelerator.scaler is None:  # the gradient of fp16 is the scaler's to check
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
    """Clips the gradient of an optimiser's parameters; returns the norm that it had."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = accelerator.clip_grad_norm_(parameters, float("inf") if max_grad_norm is None else max_grad_norm)
    return full_tensor(torch.as_tensor(norm))


def describe_not_finite(values: Mapping[str, torch.Tensor], batch: Mapping | None = None) -> str:
    """Says which values are not finite, and whether the data they were computed from were.

    Args:
        values: by name.
        batch: tensors `(B, ...)` in it that are not finite, and their items, are named too.
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
