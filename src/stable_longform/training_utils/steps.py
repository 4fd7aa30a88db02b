"""The steps of a training: who takes which items, random numbers, learning rate, gradients.

Items of a data set are numbered once for the whole run. Everything random about an item is a function of its number,
so neither the number of processes, nor the split into micro-batches, nor a stop changes what is trained.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from tqdm import tqdm

from stable_longform.data.streams import StreamItems


@dataclass(frozen=True)
class ItemOrder:
    """Which items each process takes: those of a step are consecutive, as are those of each micro-batch in it.

    Args:
        batch_size: items of a process in a micro-batch.
        accumulation: micro-batches in a step.
        num_processes: processes that share the items of a step.
        process_index: this one, in [0, num_processes).
        start_step: the step to start from.
        first_item: number of that step's first item.
    """

    batch_size: int
    accumulation: int = 1
    num_processes: int = 1
    process_index: int = 0
    start_step: int = 0
    first_item: int = 0

    @property
    def items_per_step(self) -> int:
        """Items that all processes together take in a step: the global batch size."""
        return self.batch_size * self.accumulation * self.num_processes

    def num_items(self, step: int) -> int:
        """How many items have been taken before a step."""
        return self.first_item + (step - self.start_step) * self.items_per_step

    def numbers(self, step: int, micro_batch: int = 0) -> range:
        """Numbers of the items that this process takes in a micro-batch."""
        first = self.num_items(step) + (micro_batch * self.num_processes + self.process_index) * self.batch_size
        return range(first, first + self.batch_size)


class _NumberBatches(torch.utils.data.Sampler):
    """The numbers of each micro-batch of a process, up to a step."""

    def __init__(self, order: ItemOrder, num_steps: int):
        self.order, self.num_steps = order, num_steps

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.order.start_step, self.num_steps):
            for micro_batch in range(self.order.accumulation):
                yield list(self.order.numbers(step, micro_batch))

    def __len__(self) -> int:
        return max(self.num_steps - self.order.start_step, 0) * self.order.accumulation


def make_loader(
    dataset: torch.utils.data.Dataset, order: ItemOrder, max_steps: int, num_workers: int, collate_fn=None
) -> Iterable:
    """A process's micro-batches, from `order.start_step` to `max_steps`; a stream goes on from its own place."""
    batches = _NumberBatches(order, max_steps)
    if isinstance(dataset, StreamItems):
        return itertools.islice(dataset.make_loader(order.batch_size, num_workers, collate_fn), len(batches))
    return torch.utils.data.DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=collate_fn,
        pin_memory=torch.cuda.is_available(),
    )


def make_accelerator(
    mixed_precision: str = "no",
    accumulation: int = 1,
    trackers: Sequence[str] = (),
    output_dir: str | os.PathLike | None = None,
    can_shard: bool = False,
    kwargs_handlers: Sequence = (),
) -> Accelerator:
    """The accelerator of a script: all processes of `accelerate launch` or `torchrun`, on GPUs if there are any.

    Checkpoints hold the weights under the model's own names, so that any number of processes can resume them.

    Args:
        mixed_precision: "no", "bf16" or "fp16".
        accumulation: micro-batches in a step.
        trackers: names of accelerate's trackers, such as "tensorboard".
        output_dir: where trackers write.
        can_shard: whether the script trains one model with one optimiser, which FSDP and DeepSpeed ask for.
        kwargs_handlers: see accelerate.

    Raises:
        ValueError: a precision or tracker that accelerate does not know or that is not installed, accumulation below
            1, or sharding in a script that cannot.
    """
    if accumulation < 1:
        raise ValueError(f"gradient_accumulation_steps must be at least 1, got {accumulation}.")
    if mixed_precision not in ("no", "bf16", "fp16"):
        raise ValueError(f"mixed_precision must be no, bf16 or fp16, got {mixed_precision!r}.")
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision=mixed_precision,
        gradient_accumulation_steps=accumulation,
        log_with=list(trackers) or None,
        project_dir=output_dir,
        kwargs_handlers=list(kwargs_handlers),
    )
    missing = sorted(set(trackers) - {str(getattr(name, "value", name)) for name in accelerator.log_with})
    if missing:
        raise ValueError(f"trackers: {', '.join(missing)} is not installed; try `pip install {' '.join(missing)}`.")
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED) and not can_shard:
        raise ValueError("This script trains on several GPUs by DDP only: its networks are small. Use ddp.yaml.")
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        accelerator.state.deepspeed_plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = 1  # it only reports it
    if accelerator.distributed_type == DistributedType.FSDP:
        accelerator.state.fsdp_plugin.mixed_precision_policy = (
            None  # autocast does it: FSDP would cast inputs, times too
        )

    def save_unwrapped(models: list, weights: list, folder: str) -> None:
        for index in range(len(weights)):  # none with FSDP and DeepSpeed, which save their own way
            weights[index] = accelerator.unwrap_model(models[index]).state_dict()

    def load_unwrapped(models: list, folder: str) -> None:
        models[:] = [accelerator.unwrap_model(model) for model in models]

    accelerator.register_save_state_pre_hook(save_unwrapped)
    accelerator.register_load_state_pre_hook(load_unwrapped)
    return accelerator


def is_due(done: int, interval: int, is_last: bool) -> bool:
    """Whether something is to be done after so many steps: every `interval` steps and after the last, unless 0."""
    return interval > 0 and (done % interval == 0 or is_last)


def progress_bar(accelerator: Accelerator, start_step: int, max_steps: int) -> tqdm:
    """The steps that are left, with a bar of one line in the main process."""
    return tqdm(
        range(start_step, max_steps),
        initial=min(start_step, max_steps),
        total=max_steps,
        disable=not accelerator.is_main_process,
        dynamic_ncols=True,
    )


def inverse_lr(step: int, inv_gamma: float, power: float = 0.5, warmup: float = 0.99) -> float:
    """Factor of the learning rate: exponential ramp-up, then inverse decay. Paper: §3.

    `(1 − warmup^(step+1)) · (1 + step/inv_gamma)^(−power)`.
    """
    return (1 - warmup ** (step + 1)) * (1 + step / inv_gamma) ** -power


def falling_rate(step: int, max_steps: int, start: float, final: float) -> float:
    """Factor of the learning rate that falls at the end of a training: 1, then linearly down to `final`.

    Args:
        step: in [0, `max_steps`).
        max_steps: of the whole training.
        start: share of the steps after which it falls, in [0, 1]; 1: never.
        final: the factor that the step after the last would have, in [0, 1].
    """
    share = step / max_steps
    return 1.0 if share <= start else 1 - (1 - final) * (share - start) / (1 - start)


def seed_generators(seed: int, number: int) -> None:
    """Seeds every global generator as a function of an item's number, for what a network draws (dropout)."""
    set_seed(int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))


def item_generator(seed: int, number: int) -> torch.Generator:
    """A CPU generator for what is drawn for an item, as a function of its number."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, number, 1]).generate_state(1)[0]))


def mean_losses(accelerator: Accelerator, losses: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, float]:
    """Means over the micro-batches of a step and over all processes, each of which must call this."""
    means = {name: torch.stack([loss[name].detach().float() for loss in losses]).mean() for name in losses[0]}
    return {name: float(value) for name, value in accelerator.reduce(means, reduction="mean").items()}


def gradient_norm(
    accelerator: Accelerator, parameters: Iterable[torch.nn.Parameter], max_norm: float | None = None
) -> dict[str, torch.Tensor]:
    """Norm of the gradient, after which it is clipped to `max_norm`, if given.

    Returns:
        `{"gradient_norm": number}`, or nothing where it is not known (DeepSpeed) or may be infinite (the loss scaling
        of fp16 then skips the step).
    """
    norm = accelerator.clip_grad_norm_(list(parameters), float("inf") if max_norm is None else max_norm)
    if norm is None or accelerator.scaler is not None:
        return {}
    return {"gradient_norm": torch.as_tensor(norm)}
