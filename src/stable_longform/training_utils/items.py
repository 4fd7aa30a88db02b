"""The order of the training items, and the random numbers of each.

Items are numbered once for the whole run. Everything random about an item is a function of its number. So neither the
number of processes, nor the split into micro-batches, nor an interruption changes the training.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate.utils import set_seed

from stable_longform.data.numbered_items import NumberedItems
from stable_longform.data.streams import StreamItems

VALIDATION_SEED = 2**30  # for the items of the valid split; far from any training seed


@dataclass(frozen=True)
class ItemOrder:
    """Which items each process takes. The items of a step are consecutive, as are those of each of its micro-batches.

    Args:
        batch_size: items of a process in a micro-batch.
        accumulation: micro-batches in a step.
        num_processes: number of processes that share the items of a step.
        process_index: number of this process, in [0, num_processes).
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
        """The global batch size: items that all processes together take in a step."""
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
    items: NumberedItems | StreamItems,
    order: ItemOrder,
    max_steps: int,
    num_workers: int,
    collate_fn: Callable[[Sequence[dict]], dict] | None = None,
) -> Iterator[dict]:
    """Yields micro-batches of a process from `order.start_step` to `max_steps`; a stream continues at its position.

    The numbers of a batch's items are in `item_numbers`.
    """
    numbers = _NumberBatches(order, max_steps)
    loader = items.make_loader(numbers, order.batch_size, num_workers, collate_fn)
    for item_numbers, batch in zip(numbers, loader, strict=True):
        yield batch | {"item_numbers": item_numbers}


def seed_generators(seed: int, number: int) -> None:
    """Seeds all global generators as a function of an item's number, for random numbers in networks (dropout)."""
    set_seed(int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))


def item_generator(seed: int, number: int) -> torch.Generator:
    """A CPU generator for the random numbers of an item, as a function of its number."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, number, 1]).generate_state(1)[0]))
