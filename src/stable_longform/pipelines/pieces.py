"""A piece with parts to keep and parts to replace: its samples, frames and spans.

A region is a pair of samples `(start, stop)` to replace. A frame is free if a region touches it. A span is a stretch
of frames that is sampled at once; its kept frames are context.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from stable_longform.utils.accepted_values import MAX_CROSSFADE_IN_S
from stable_longform.utils.audio import AudioInfo
from stable_longform.utils.ranges import Range, as_list, check_number
from stable_longform.utils.recordings import MAX_DURATION_IN_S
from stable_longform.utils.timecodes import SECONDS

FINITE = Range(-sys.float_info.max, sys.float_info.max)
BLOCK = 2**20  # samples that are read at once
NOTHING_IS_KEPT = "Nothing is kept: to generate all of the music, use text to music."
CROSSFADE_IN_S = 0.05
ROUNDING_IN_S = 0.001  # by which parts at the model's rate may be shorter
EXTENSION = ("extend_to", "prepend_in_s")  # arguments


@dataclass(frozen=True)
class EditedPiece:
    """The known and the new parts of a piece.

    Args:
        num_samples: of the whole piece.
        segments: `(start, waveform)` of the known parts, rising; nothing is known between and around them.
        regions: rising `(start, stop)` of the new parts: the unknown ones, and those that the user wants to replace.
        hop_length: samples in a frame.
    """

    num_samples: int
    segments: list[tuple[int, torch.Tensor]]
    regions: list[tuple[int, int]]
    hop_length: int

    @property
    def num_frames(self) -> int:
        """Number of frames of the whole piece; the last one may extend beyond its end."""
        return math.ceil(self.num_samples / self.hop_length)

    @property
    def is_free(self) -> torch.Tensor:
        """Which frames are free, boolean `(num_frames,)`."""
        mask = torch.zeros(self.num_frames, dtype=torch.bool)
        for start, stop in self.regions:
            mask[start // self.hop_length : math.ceil(stop / self.hop_length)] = True
        return mask

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Samples `(channels, stop - start)`. Known parts are continued by their mirror images; the rest is zero."""
        samples = self.segments[0][1].new_zeros(self.segments[0][1].shape[0], stop - start)
        for number, (begin, waveform) in enumerate(self.segments):
            end = begin + waveform.shape[1]
            before = self.segments[number - 1] if number > 0 else None
            after = self.segments[number + 1] if number + 1 < len(self.segments) else None
            # The mirror images extend halfway to the neighbours, and are no longer than the segment.
            low = begin - waveform.shape[1] if before is None else (before[0] + before[1].shape[1] + begin) // 2
            high = end + waveform.shape[1] if after is None else (end + after[0]) // 2
            low, high = max(low, 2 * begin - end, 0), min(high, 2 * end - begin, self.num_samples)
            for a, b, mirror in ((low, begin, 2 * begin), (begin, end, None), (end, high, 2 * end)):
                a, b = max(a, start), min(b, stop)
                if a < b and mirror is None:
                    samples[:, a - start : b - start] = waveform[:, a - begin : b - begin]
                elif a < b and mirror is not None:
                    samples[:, a - start : b - start] = waveform[:, mirror - b - begin : mirror - a - begin].flip(1)
        return samples

    def read_blocks(self, start: int, stop: int) -> Iterator[torch.Tensor]:
        """The same as `read`, block by block."""
        for first in range(start, stop, BLOCK):
            yield self.read(first, min(first + BLOCK, stop))

    def rotate(self, shift: int) -> "EditedPiece":
        """The piece as a loop that starts `shift` samples later; parts that cross the new start are cut in two."""

        def cut(begin: int, end: int) -> list[tuple[int, int, int]]:
            """The parts of `(begin, end)` after the rotation, each as its old begin, new begin and length."""
            middle = min(max(shift, begin), end)
            return [
                (old, (old - shift) % self.num_samples, length)
                for old, length in ((begin, middle - begin), (middle, end - middle))
                if length > 0
            ]

        segments = [
            (new, waveform[:, old - begin : old - begin + length])
            for begin, waveform in self.segments
            for old, new, length in cut(begin, begin + waveform.shape[1])
        ]
        regions = [(new, new + length) for begin, end in self.regions for _, new, length in cut(begin, end)]
        segments.sort(key=lambda segment: segment[0])
        return replace(self, segments=segments, regions=merge(regions))

    def middle_of_longest_kept(self) -> int:
        """The sample in the middle of the longest stretch of the loop that is kept."""
        gaps = [
            (start - stop, (start + stop) // 2)
            for (_, stop), (start, _) in zip(self.regions, self.regions[1:], strict=False)
        ]
        first, last = self.regions[0][0], self.regions[-1][1]
        gaps.append((self.num_samples - last + first, (last + first + self.num_samples) // 2))
        return max(gaps)[1] % self.num_samples


def lay_out(
    waveform: torch.Tensor, regions: Sequence[tuple[int, int]], before: int, after: int, hop_length: int, is_loop: bool
) -> tuple[EditedPiece, int]:
    """Returns the piece around the music, and for a loop how many samples later than the music it starts.

    A loop starts in the middle of its longest kept part. So the new part at its ends has kept music on both sides.

    Args:
        waveform: the known music, `(channels, num_samples)`.
        regions: samples of it to replace.
        before: number of new samples before it.
        after: number of new samples after it.
        hop_length: samples in a frame.
        is_loop: whether the beginning follows the end.

    Raises:
        ValueError: nothing or everything is to be replaced, or the new parts do not touch the ends of a loop.
    """
    every = join_regions(regions, waveform.shape[1], before, after, is_loop)
    num_samples = before + waveform.shape[1] + after
    piece = EditedPiece(num_samples, [(before, waveform)], every, hop_length)
    if piece.is_free.all():
        raise ValueError(f"No whole frame of {hop_length} samples is kept: keep more, or use text to music.")
    if not is_loop:
        return piece, 0
    start = every[0][1] if every[0][0] == 0 else before
    stop = every[-1][0] if every[-1][1] == num_samples else before + waveform.shape[1]
    # Parts that are replaced at the ends do not lead to the other end, so nothing is faded into them.
    piece = replace(piece, segments=[(start, waveform[:, start - before : stop - before])])
    shift = piece.middle_of_longest_kept()
    return piece.rotate(shift), shift


def join_regions(
    regions: Sequence[tuple[int, int]], num_samples: int, before: int, after: int, is_loop: bool
) -> list[tuple[int, int]]:
    """All new parts, as samples of the result; arguments and errors as in `lay_out`."""
    end = before + num_samples
    every = merge(
        [(0, before)] * (before > 0)
        + [(start + before, stop + before) for start, stop in regions]
        + [(end, end + after)] * (after > 0)
    )
    if not every:
        raise ValueError("There is nothing to generate: give a region, an extension or seconds to prepend.")
    if every == [(0, end + after)]:
        raise ValueError(NOTHING_IS_KEPT)
    if is_loop and every[0][0] > 0 and every[-1][1] < end + after:
        raise ValueError("A loop needs new music at one end: a region that touches it, or an extension.")
    return every


def check_edit(
    info: AudioInfo,
    regions: Sequence[tuple[float, float]] | None = None,
    extend_to: float | None = None,
    prepend_in_s: float = 0.0,
    loop: bool = False,
    names: tuple[str, str] = EXTENSION,
    max_duration_in_s: float = MAX_DURATION_IN_S,
) -> tuple[list[tuple[float, float]], float]:
    """All new parts of the result in seconds, and its duration in seconds; nothing but the audio's header is needed.

    Arguments as in the inpainting pipeline, the last two as in `check_extension`.

    Raises:
        ValueError: the pipeline would not accept the arguments.
    """
    rate, num_samples = info.sampling_rate, round(info.duration_in_s * info.sampling_rate)
    before, after = check_extension(num_samples, rate, extend_to, prepend_in_s, names, max_duration_in_s)
    samples = check_regions([] if regions is None else regions, num_samples, rate)
    parts = [(start / rate, stop / rate) for start, stop in join_regions(samples, num_samples, before, after, loop)]
    return parts, extend_to or info.duration_in_s + prepend_in_s


def check_extension(
    num_samples: int,
    rate: int,
    extend_to: float | None,
    prepend_in_s: float,
    names: tuple[str, str] = EXTENSION,
    max_duration_in_s: float = MAX_DURATION_IN_S,
) -> tuple[int, int]:
    """Numbers of new samples before and after audio.

    Args:
        num_samples: of the audio.
        rate: Hz.
        extend_to: duration of the result in seconds, or None.
        prepend_in_s: new seconds before the audio.
        names: of the two arguments before, for messages.
        max_duration_in_s: longest result.

    Raises:
        ValueError: they are not numbers, the result would be too long, or there are less than `SECONDS.low` new
            seconds.
    """
    prepend_in_s = check_number(names[1], prepend_in_s, 0, max_duration_in_s)
    if 0 < prepend_in_s < SECONDS.low:
        raise ValueError(f"{names[1]} must be 0 or at least {SECONDS.low} s, got {prepend_in_s:g}.")
    before, end = round(prepend_in_s * rate), num_samples / rate + prepend_in_s
    if end > max_duration_in_s:
        raise ValueError(f"The result must last at most {max_duration_in_s:g} s, got {end:g} s.")
    if extend_to is None:
        return before, 0
    extend_to = check_number(names[0], extend_to)
    after = round(extend_to * rate) - num_samples - before
    shortest = max(int(SECONDS.low * rate) - 1, 1)  # resampling may have added a sample to the audio
    if after < shortest or extend_to > max_duration_in_s:
        accepted = f"[{end + SECONDS.low:g}, {max_duration_in_s:g}] seconds"
        raise ValueError(f"{names[0]} must be in {accepted}, got {extend_to:g}.")
    return before, after


def check_regions(regions: Sequence[tuple[float, float]], num_samples: int, rate: int) -> list[tuple[int, int]]:
    """Regions of audio as samples, from `(start, stop)` in seconds.

    Raises:
        ValueError: they are not numbers, do not rise, overlap, are empty or outside the audio.
    """
    given: Any = as_list("regions", regions)
    samples: list[tuple[int, int]] = []
    end = num_samples / rate
    for region in given if isinstance(given, (list, tuple)) else [given]:
        is_pair = isinstance(region, (list, tuple)) and len(region) == 2
        if not is_pair or not all(second in FINITE for second in region):
            raise ValueError(f"regions must be pairs (start, stop) of finite seconds, got {region!r}.")
        start, stop = region
        if not 0 <= start < stop <= end + 0.5 / rate:
            accepted = f"0 <= start < stop <= {end:g} s"
            raise ValueError(f"A region must be within the audio, {accepted}, got {start:g}-{stop:g} s.")
        first, last = round(start * rate), min(round(stop * rate), num_samples)
        if first >= last:
            raise ValueError(f"A region must hold at least one sample, got {start:g}-{stop:g} s.")
        if samples and first < samples[-1][1]:
            raise ValueError(f"regions must rise and not overlap, got {start:g}-{stop:g} s after the one before.")
        samples.append((first, last))
    return samples


def check_crossfade(
    crossfade_in_s: float | None, parts: Sequence[tuple[float, float]], name: str = "crossfade_in_s"
) -> float:
    """Seconds of crossfade at the borders of the new parts.

    Args:
        crossfade_in_s: at most half of the shortest part; None: `CROSSFADE_IN_S`, which is cut to half of each part.
        parts: `(start, stop)` in seconds.
        name: of the argument, for messages.

    Raises:
        ValueError: it is not a number, or outside this range.
    """
    if crossfade_in_s is None:
        return CROSSFADE_IN_S
    number, longest = check_number(name, crossfade_in_s), min(stop - start for start, stop in parts) / 2
    longest = min(longest, MAX_CROSSFADE_IN_S)
    if not 0 <= number <= longest + ROUNDING_IN_S:
        accepted = f"[0, {longest:.3g}] seconds, half of the shortest new part at most"
        raise ValueError(f"{name} must be in {accepted}, got {number:g}.")
    return number


def runs(mask: torch.Tensor) -> list[tuple[int, int]]:
    """The stretches `(start, stop)` in which a boolean `(n,)` is True."""
    edges = torch.diff(mask.int(), prepend=mask.new_zeros(1).int(), append=mask.new_zeros(1).int())
    starts, stops = (edges == 1).nonzero()[:, 0].tolist(), (edges == -1).nonzero()[:, 0].tolist()
    return list(zip(starts, stops, strict=True))


def merge(stretches: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Merges rising stretches that overlap or touch."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(stretches):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], stop)
        else:
            merged.append((start, stop))
    return merged


def find_stretches(is_free: torch.Tensor, context: int | None, max_length: int) -> list[tuple[int, int]]:
    """The stretches of frames to sample, which together hold every free frame.

    Args:
        is_free: boolean `(num_frames,)`.
        context: kept frames on either side of the free ones; None: as many as a window holds.
        max_length: frames of the longest window.
    """
    num_frames, free = len(is_free), runs(is_free)
    if context is not None:
        return merge([(max(start - context, 0), min(stop + context, num_frames)) for start, stop in free])
    if num_frames <= max_length:
        return [(0, num_frames)]
    stretches = [(max(a - max_length // 4, 0), min(b + max_length // 4, num_frames)) for a, b in free]
    while True:
        widened = merge([_widen(stretch, max_length, num_frames) for stretch in stretches])
        if widened == stretches:
            return stretches
        stretches = widened


def _widen(stretch: tuple[int, int], length: int, num_frames: int) -> tuple[int, int]:
    """Extends a stretch on both sides to `length` frames, within the piece."""
    missing = max(length - (stretch[1] - stretch[0]), 0)
    start = min(max(stretch[0] - missing // 2, 0), max(num_frames - length, 0))
    return min(start, stretch[0]), max(min(start + length, num_frames), stretch[1])


def crossfade(positions: torch.Tensor, num_samples: int, fade_in: int, fade_out: int) -> torch.Tensor:
    """The weight of the new music at some samples of a region: it rises at the start and falls at the end.

    Args:
        positions: `(n,)` in [0, `num_samples`).
        num_samples: of the region.
        fade_in: samples over which the weight rises, at most half the region; 0: it is 1 from the start.
        fade_out: samples over which the weight falls at the end, in the same range.
    """
    weight = torch.ones(len(positions))
    for length, distance in ((fade_in, positions), (fade_out, num_samples - 1 - positions)):
        length = min(length, num_samples // 2)
        if length > 0:
            weight *= torch.sin(((distance + 1) / (length + 1)).clamp(max=1) * (math.pi / 2)) ** 2
    return weight
