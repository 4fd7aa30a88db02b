"""One step of a training: gradients over micro-batches, the check that all is finite, clipping, the optimiser."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer

from stable_longform.training_utils.ema import full_tensor


def train_step(
    accelerator: Accelerator,
    optimizer: AcceleratedOptimizer,
    models: Sequence[torch.nn.Module],
    micro_batches: Iterable[Mapping],
    compute_losses: Callable[[Mapping], Mapping[str, torch.Tensor]],
    step: int,
    loss_weights: Mapping[str, float] | None = None,
    max_grad_norm: float | None = None,
) -> dict[str, torch.Tensor | float]:
    """Takes one step on the mean of the losses over the micro-batches and all processes.

    Args:
        accelerator: its `gradient_accumulation_steps` is the number of micro-batches.
        optimizer: prepared.
        models: all prepared models that the losses depend on.
        micro_batches: of this process.
        compute_losses: gives the losses of a micro-batch by name, each a number.
        step: for the message of an error.
        loss_weights: of all losses; None: all are 1.
        max_grad_norm: to which the gradient is clipped; None: it is not.

    Returns:
        The losses' means over the micro-batches of this process, and what `step_optimizer` returns.

    Raises:
        FloatingPointError: a loss or the gradient is not finite; the weights are as they were.
        KeyError: a loss has no weight.
    """
    optimizer.zero_grad()
    all_losses = []
    for batch in micro_batches:
        with accelerator.accumulate(*models):
            losses = compute_losses(batch)
            check_finite(losses, step, batch)
            accelerator.backward(
                sum((1.0 if loss_weights is None else loss_weights[name]) * loss for name, loss in losses.items())
            )
        all_losses.append({name: loss.detach().float() for name, loss in losses.items()})
    means = {name: torch.stack([losses[name] for losses in all_losses]).mean() for name in all_losses[0]}
    return means | step_optimizer(accelerator, optimizer, step, max_grad_norm, batch)


def step_optimizer(
    accelerator: Accelerator,
    optimizer: AcceleratedOptimizer,
    step: int,
    max_grad_norm: float | None = None,
    batch: Mapping | None = None,
) -> dict[str, torch.Tensor | float]:
    """Clips the gradient, checks it and lets the optimiser take its step.

    Args:
        accelerator: of the run.
        optimizer: prepared; the gradient is that of its parameters.
        step: for the message of an error.
        max_grad_norm: None: it is not clipped.
        batch: what the gradient was computed from, for the message of an error.

    Returns:
        `learning_rate` that was applied, and `gradient_norm` before it was clipped, unless it is not known (DeepSpeed)
        or may be infinite (the loss scaling of fp16 then skips the step).

    Raises:
        FloatingPointError: the gradient is not finite; the weights are as they were.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = accelerator.clip_grad_norm_(parameters, float("inf") if max_grad_norm is None else max_grad_norm)
    is_known = norm is not None and accelerator.scaler is None
    metrics = {"gradient_norm": full_tensor(torch.as_tensor(norm))} if is_known else {}
    check_finite(metrics, step, batch)
    optimizer.step()
    return metrics | {"learning_rate": float(optimizer.param_groups[0]["lr"])}


def check_finite(values: Mapping[str, torch.Tensor], step: int, batch: Mapping | None = None) -> None:
    """Stops a run whose losses or gradients are no longer numbers; the last checkpoint stays as it is.

    Args:
        values: by name.
        step: for the message.
        batch: what the step was computed from; tensors `(B, ...)` in it that are not finite, and their items, are
            named too.

    Raises:
        FloatingPointError: naming the step and the values.
    """
    bad = [name for name, value in values.items() if not torch.isfinite(value).all()]
    if not bad:
        return
    culprits = []
    for name, tensor in (batch or {}).items():
        if isinstance(tensor, torch.Tensor) and not torch.isfinite(tensor).all():
            items = (~torch.isfinite(tensor)).reshape(len(tensor), -1).any(dim=1).nonzero().flatten().tolist()
            culprits.append(f"{name} of its items {', '.join(map(str, items))}")
    cause = f"; so is {' and '.join(culprits)}" if culprits else "" if batch is None else "; its data are"
    raise FloatingPointError(
        f"Step {step}: {', '.join(bad)} is not finite{cause}; the last checkpoint is unchanged, and the same command "
        "goes on from it."
    )
