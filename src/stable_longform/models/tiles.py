"""Exact computation of a network over time in tiles, cropped at every step to what the result depends on.

A network is a list of steps. Each step knows the interval of inputs that an interval of its outputs depends on, so a
tile of the result can be computed from a piece of the input: what lies beyond is either not needed, or the real end of
the input, where the layers' own zero padding is right. Tiles of steps at a high rate are small enough to stay in a
CPU's cache; each of them lies in a larger tile of the steps at a lower rate, which need more context.

Conventions: tensors are `(batch_size, channels, length)`; an interval `(start, stop)` excludes `stop`.
"""

import collections
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import torch

Interval = tuple[int, int]
Job, Result = TypeVar("Job"), TypeVar("Result")


class Step(NamedTuple):
    """A layer or block.

    Args:
        run: maps `(B, C, n)` to `(B, C', n * up / down)`, padding with zeros at both ends.
        inputs: the interval of inputs that outputs `(start, stop)` depend on; it may reach beyond the sequence.
        channels: of its widest activation.
        up: outputs for each input, or 1.
        down: inputs for each output, or 1.
    """

    run: Callable[[torch.Tensor], torch.Tensor]
    inputs: Callable[[int, int], Interval]
    channels: int
    up: int = 1
    down: int = 1


def bounds(steps: Sequence[Step], start: int, stop: int) -> list[Interval]:
    """What there is of the input, `(start, stop)`, and of every step's output."""
    return list(
        itertools.accumulate(
            steps, lambda bound, step: tuple(n * step.up // step.down for n in bound), initial=(start, stop)
        )
    )


def intervals(steps: Sequence[Step], start: int, stop: int, limits: Sequence[Interval]) -> list[Interval]:
    """Of the input and of every step's output, what the last step's outputs `(start, stop)` depend on.

    Nothing reaches beyond `limits`, the `bounds`. Inputs of a step that divides the rate begin at a multiple of its
    factor.
    """
    found = [(start, stop)]
    for step, (first, last) in zip(reversed(steps), reversed(limits[:-1]), strict=True):
        left, right = step.inputs(*found[-1])
        left, right = left // step.down * step.down, math.ceil(right / step.down) * step.down
        found.append((max(left, first), min(right, last)))
    return found[::-1]


def context(steps: Sequence[Step], hop: int, frames_are_inputs: bool) -> int:
    """Frames on each side that a frame depends on; a frame is one input, or one output, or `hop` of the other."""
    start, stop = (0, hop) if frames_are_inputs else (0, 1)
    for step in reversed(steps):
        start, stop = step.inputs(start, stop)
    unit = 1 if frames_are_inputs else hop
    return max(math.ceil(-start / unit), math.ceil((stop - unit) / unit))


def tile_lengths(steps: Sequence[Step], num_values: int, least: int, most: int) -> list[int]:
    """For every step as many inputs or outputs, whichever are more, as hold `num_values`, in [`least`, `most`]."""
    return [min(max(num_values // step.channels, least), most) for step in steps]


def costs(steps: Sequence[Step], sizes: Sequence[int], limits: Sequence[Interval]) -> list[tuple[float, float]]:
    """For every step: values of its activation for one frame, and the most that a tile of its size has.

    `limits` are the `bounds` of its outputs, or inputs, that belong to one frame.
    """
    return [(step.channels * n, step.channels * size) for step, size, (_, n) in zip(steps, sizes, limits, strict=True)]


def num_values(costs: Sequence[tuple[float, float]], num_frames: int) -> float:
    """Values held at a time for a tile of `num_frames`: an input for each step, and three more of the widest."""
    values = [min(num_frames * rate, most) for rate, most in costs]
    return sum(values) + 3 * max(values)


def windows(
    waveforms: Iterable[torch.Tensor], tile: float, context: int, hop: int
) -> Iterator[tuple[torch.Tensor, int, Interval]]:
    """Cuts a waveform that comes block by block into overlapping pieces, one for each tile of frames.

    Args:
        waveforms: consecutive `(B, C, n)`; no more of them is held than a tile and the latest block.
        tile: frames in a tile; infinite for all in one.
        context: frames needed on each side.
        hop: samples in a frame; the last frame is completed with zeros.

    Yields:
        `(samples, offset, frames)`: the samples for an interval of frames, and the place of the first of them.

    Raises:
        ValueError: there is no block.
    """
    held, offset, start = None, 0, 0
    for block in waveforms:
        held = block if held is None or held.shape[-1] == 0 else torch.cat([held, block], dim=-1)
        while (offset + held.shape[-1]) // hop >= start + tile + context:
            yield held[..., : (start + tile + context) * hop - offset], offset, (start, start + tile)
            start += tile
            dropped = max(start - context, 0) * hop - offset
            held, offset = held[..., dropped:], offset + dropped
    if held is None:
        raise ValueError("waveforms must hold at least one block, got none.")
    held = torch.nn.functional.pad(held, (0, -held.shape[-1] % hop))
    num_frames = (offset + held.shape[-1]) // hop
    while start < num_frames:
        stop = min(start + tile, num_frames)
        left, right = max(start - context, 0) * hop, min(stop + context, num_frames) * hop
        yield held[..., left - offset : right - offset], left, (start, stop)
        start = stop


def split(interval: Interval, size: int) -> Iterator[Interval]:
    """Parts of an interval, all about as long, up to a quarter longer than `size`."""
    start, stop = interval
    size = math.ceil((stop - start) / max(math.ceil((stop - start) / size - 0.25), 1))
    for left in range(start, stop, size):
        yield left, min(left + size, stop)


def apply(step: Step, hidden: torch.Tensor, source: Interval, target: Interval) -> torch.Tensor:
    """Outputs `target` of a step from its inputs `source`."""
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
    """Runs steps that raise the rate, from the inputs down to ever smaller tiles of the outputs.

    Args:
        steps: of the network, or its last ones.
        sizes: of each step, how many of its outputs a tile has.
        hidden: inputs, beginning at `offset`, with all that `target` depends on.
        offset: see `hidden`.
        limits: `bounds` of the steps, from 0.
        output: receives the outputs.
        target: which outputs `output` holds.
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
    """Runs steps that lower the rate: gathers the inputs of each from small tiles; returns the outputs `target`.

    Args:
        steps: of the network, or its first ones.
        sizes: of each step, how many of its inputs a tile has.
        hidden: inputs, with all that `target` depends on.
        limits: `bounds` of the steps for the interval of `hidden`.
        target: which outputs are computed.
    """
    if not steps:
        return hidden[..., target[0] - limits[0][0] : target[1] - limits[0][0]]
    step, output = steps[-1], None
    for start, stop in split(target, max(sizes[-1] // step.down, 1)):
        source = intervals(steps[-1:], start, stop, limits[-2:])[0]
        tile = apply(step, collect(steps[:-1], sizes[:-1], hidden, limits[:-1], source), source, (start, stop))
        if stop - start == target[1] - target[0]:
            return tile
        if output is None:
            output = tile.new_empty(*tile.shape[:-1], target[1] - target[0])
        output[..., start - target[0] : stop - target[0]] = tile
    return output


def ordered_map(function: Callable[[Job], Result], jobs: Iterable[Job], num_threads: int) -> Iterator[Result]:
    """Yields `function(job)` in order, computed ahead in threads that each use one core.

    The jobs of a CPU's cores do not wait for each other, as the threads inside of an operation do.
    """
    if num_threads == 1:
        yield from map(function, jobs)
        return

    is_inference = torch.is_inference_mode_enabled()

    def run(job: Job) -> Result:
        with torch.inference_mode(is_inference), torch.no_grad():  # modes belong to a thread
            return function(job)

    num_torch_threads = torch.get_num_threads()
    with ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as executor:
        pending = collections.deque()
        try:
            for job in jobs:
                pending.append(executor.submit(run, job))
                if len(pending) > num_threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
            torch.set_num_threads(num_torch_threads)  # the workers have set it for threads that are yet to start


def concatenate(parts: Iterator[torch.Tensor], length: int) -> torch.Tensor:
    """Consecutive tensors in one of that length, which gets its memory once."""
    first = next(parts)
    if first.shape[-1] == length:
        return first
    whole, start = first.new_empty(*first.shape[:-1], length), 0
    for part in itertools.chain([first], parts):
        whole[..., start : start + part.shape[-1]] = part
        start += part.shape[-1]
    return whole
