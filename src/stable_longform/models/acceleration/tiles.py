"""Exact computation of a network over time in tiles, cropped at every step to what the result depends on.

A network is a list of steps. Each step knows the interval of inputs that an interval of its outputs depends on, so a
tile of the result can be computed from a piece of the input. Samples beyond this piece are either not needed, or they
are beyond the end of the input, where the layers' zero padding is correct. Tiles of steps at a high rate are small
enough to stay in a CPU's cache. Each of them lies in a larger tile of the steps at a lower rate, which need more
context.

Conventions: tensors are `(batch_size, channels, length)`, or between the first and the last step `(batch_size,
channels, 1, length)` in torch's channels-last format; an interval `(start, stop)` excludes `stop`.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch

Interval = tuple[int, int]


class Step(NamedTuple):
    """A layer or block.

    Args:
        run: maps `(B, C, n)` to `(B, C', n * up / down)`, padding with zeros at both ends.
        inputs: returns the interval of inputs that outputs `(start, stop)` depend on; it may extend beyond the
            sequence.
        channels: of its widest activation.
        up: outputs for each input, 1 if the rate is not raised.
        down: inputs for each output, 1 if the rate is not lowered.
    """

    run: Callable[[torch.Tensor], torch.Tensor]
    inputs: Callable[[int, int], Interval]
    channels: int
    up: int = 1
    down: int = 1


def bounds(steps: Sequence[Step], start: int, stop: int) -> list[Interval]:
    """The interval of the whole input, `(start, stop)`, and that of every step's output."""
    return list(
        itertools.accumulate(
            steps,
            lambda bound, step: (bound[0] * step.up // step.down, bound[1] * step.up // step.down),
            initial=(start, stop),
        )
    )


def intervals(steps: Sequence[Step], start: int, stop: int, limits: Sequence[Interval]) -> list[Interval]:
    """The intervals of the input and of every step's output on which the last step's outputs `(start, stop)` depend.

    They do not extend beyond `limits`, which are the `bounds`. Inputs of a step that lowers the rate begin at a
    multiple of its factor.
    """
    found = [(start, stop)]
    for step, (first, last) in zip(reversed(steps), reversed(limits[:-1]), strict=True):
        left, right = step.inputs(*found[-1])
        left, right = left // step.down * step.down, math.ceil(right / step.down) * step.down
        found.append((max(left, first), min(right, last)))
    return found[::-1]


def tile_lengths(steps: Sequence[Step], num_values: int, least: int) -> list[int]:
    """The length of a tile for every step: `num_values` over its channels, at least `least`.

    The length counts inputs or outputs, whichever are more.
    """
    return [max(num_values // step.channels, least) for step in steps]


def split(interval: Interval, size: int) -> Iterator[Interval]:
    """Splits an interval into parts of about the same length, at most a quarter longer than `size`."""
    start, stop = interval
    size = math.ceil((stop - start) / max(math.ceil((stop - start) / size - 0.25), 1))
    for left in range(start, stop, size):
        yield left, min(left + size, stop)


def apply(step: Step, hidden: torch.Tensor, source: Interval, target: Interval) -> torch.Tensor:
    """Computes the outputs `target` of a step from its inputs `source`."""
    first = source[0] * step.up // step.down
    return step.run(hidden)[..., target[0] - first : target[1] - first]


def expand(
    steps: Sequence[Step],
    sizes: Sequence[int],
    hidden: torch.Tensor,
    offset: int,
    limits: Sequence[Interval],
    output: torch.Tensor,
    target: Interval,
) -> None:
    """Runs steps that raise the rate, with smaller tiles at each step.

    Args:
        steps: all or the last ones of the network.
        sizes: number of outputs in a tile, for each step.
        hidden: inputs from `offset` on, including everything that `target` depends on.
        offset: index of the first input.
        limits: `bounds` of the steps, from 0.
        output: receives the outputs.
        target: the interval of outputs that `output` holds.
    """
    size = sizes[0] * limits[-1][1] // limits[1][1]
    for start, stop in split(target, size):
        source, inner, *_ = intervals(steps, start, stop, limits)
        tile = apply(steps[0], hidden[..., source[0] - offset : source[1] - offset], source, inner)
        part = output[..., start - target[0] : stop - target[0]]
        if len(steps) == 1:
            part.copy_(tile)
        else:
            expand(steps[1:], sizes[1:], tile, inner[0], limits[1:], part, (start, stop))


def collect(
    steps: Sequence[Step],
    sizes: Sequence[int],
    hidden: torch.Tensor,
    limits: Sequence[Interval],
    target: Interval,
) -> torch.Tensor:
    """Runs steps that lower the rate and returns the outputs `target`; each step's inputs come from smaller tiles.

    Args:
        steps: all or the first ones of the network.
        sizes: number of inputs in a tile, for each step.
        hidden: inputs, including everything that `target` depends on.
        limits: `bounds` of the steps for the interval of `hidden`.
        target: the interval of outputs to compute.
    """
    if not steps:
        return hidden[..., target[0] - limits[0][0] : target[1] - limits[0][0]]
    step = steps[-1]
    output: torch.Tensor | None = None
    for start, stop in split(target, max(sizes[-1] // step.down, 1)):
        source = intervals(steps[-1:], start, stop, limits[-2:])[0]
        tile = apply(step, collect(steps[:-1], sizes[:-1], hidden, limits[:-1], source), source, (start, stop))
        if stop - start == target[1] - target[0]:
            return tile
        if output is None:
            output = _empty(tile, target[1] - target[0])
        output[..., start - target[0] : stop - target[0]] = tile
    assert output is not None  # no target is empty
    return output


def _empty(tile: torch.Tensor, length: int) -> torch.Tensor:
    """An uninitialised tensor like `tile` with another length."""
    layout = torch.channels_last if tile.ndim == 4 else torch.contiguous_format
    return torch.empty(*tile.shape[:-1], length, dtype=tile.dtype, device=tile.device, memory_format=layout)
