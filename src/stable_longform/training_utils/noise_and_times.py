"""Random draws of the transformer's training for each item: noise, a time, and whether its condition is dropped.

All are functions of the seed and the item's number. So the workers of a data loader can draw them: for large batches
on a GPU, the main process would take longer for the noise than the GPU for the step.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch

from stable_longform.data.numbered_items import NumberedItems
from stable_longform.training_utils.items import item_generator

NUM_BITS = 32

# Called with the shape `(B, C, L)` of latents and the numbers of the B items.
Draw = Callable[[Sequence[int], Sequence[int]], dict[str, torch.Tensor]]


def draw_noise_and_times(
    shape: Sequence[int],
    item_numbers: Sequence[int],
    seed: int,
    condition_dropout: float,
    terminal_probability: float = 0.01,
    timestep_shift: float = 1.0,
    min_timestep: float = 0.0,
) -> dict[str, torch.Tensor]:
    """Draws the inputs of `VelocityLoss` besides the data for a batch. Paper: §3.

    Args:
        shape: `(B, C, L)` of the latents.
        item_numbers: numbers of the B items.
        seed: of the whole training.
        condition_dropout: share of the items whose condition is dropped, in [0, 1].
        terminal_probability: share of the items at t = 1, pure noise, in [0, 1].
        timestep_shift: see `shift_times`.
        min_timestep: the least time, in [0, 1). All others move up in proportion, after the shift. A sampler that ends
            at the noise level tan(πt/2) never asks for the velocity at earlier times. Not in the paper.

    Returns:
        `noise (B, C, L)` with standard deviation 1, `timestep (B,)` in [0, 1] and boolean `is_dropped (B,)`.
    """
    generators = [item_generator(seed, number) for number in item_numbers]
    chances = torch.stack([torch.rand(2, generator=generator) for generator in generators])
    noise = torch.stack([torch.randn(tuple(shape[1:]), generator=generator) for generator in generators])
    times = min_timestep + (1 - min_timestep) * shift_times(uniform_times(item_numbers, seed), timestep_shift)
    return {
        "noise": noise,
        "timestep": torch.where(chances[:, 0] < terminal_probability, 1.0, times),
        "is_dropped": chances[:, 1] < condition_dropout,
    }


class DrawOptions(Protocol):
    """The options of a training on which its draws depend, see `draw_noise_and_times`."""

    @property
    def seed(self) -> int:
        """Seed of the whole training."""

    @property
    def condition_dropout(self) -> float:
        """Share of the items whose condition is dropped."""

    @property
    def terminal_probability(self) -> float:
        """Share of the items at t = 1."""

    @property
    def timestep_shift(self) -> float:
        """See `shift_times`."""

    @property
    def min_timestep(self) -> float:
        """The least time."""


def make_draw(options: DrawOptions) -> Draw:
    """`draw_noise_and_times` with the options of a training."""
    return functools.partial(
        draw_noise_and_times,
        seed=options.seed,
        condition_dropout=options.condition_dropout,
        terminal_probability=options.terminal_probability,
        timestep_shift=options.timestep_shift,
        min_timestep=options.min_timestep,
    )


class ItemsWithDraws(NumberedItems):
    """Items of another sequence with their draws, so that a data loader's workers draw them.

    Args:
        items: with `latents (C, L)`.
        draw: of `make_draw`.
    """

    def __init__(self, items: NumberedItems, draw: Draw):
        super().__init__(items.seed, items.bad_tracks)
        self.items, self.draw = items, draw

    def __getitem__(self, number: int) -> dict:
        """The item with its draws."""
        item = self.items[number]
        draws = self.draw((1, *item["latents"].shape), [number])
        return item | {name: values[0] for name, values in draws.items()}


def uniform_times(item_numbers: Sequence[int], seed: int) -> torch.Tensor:
    """Times `(B,)` in [0, 1]; the times of any 2^k consecutive items fill the interval evenly.

    They are the van der Corput sequence in base 2 (the first dimension of Sobol's sequence) with a random digital
    shift. The paper's code draws a scrambled Sobol sequence.
    """
    shift = int(np.random.SeedSequence([seed, 2]).generate_state(1)[0])  # NUM_BITS random bits
    reversed_bits = [int(f"{number % 2**NUM_BITS:0{NUM_BITS}b}"[::-1], 2) for number in item_numbers]
    return torch.tensor([(bits ^ shift) / 2**NUM_BITS for bits in reversed_bits], dtype=torch.float32)


def shift_times(t: torch.Tensor, shift: float) -> torch.Tensor:
    """Moves times in [0, 1] towards 1: `shift·t / (1 + (shift − 1)·t)` multiplies the odds t/(1 − t) by `shift`.

    Global properties, such as where the music ends, are decided near t = 1, which short trainings see rarely. This is
    the shift of Esser et al., "Scaling rectified flow transformers", arXiv 2403.03206, §5.3.2. Not in the paper.
    """
    return shift * t / (1 + (shift - 1) * t)
