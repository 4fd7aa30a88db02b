"""Repeated passages, as lines of a self-similarity matrix.

A repetition is a line parallel to the main diagonal: the music from `start` to `end` repeats the music `lag` frames
earlier.

References: Marwan et al., "Recurrence plots for the analysis of complex systems" (Physics Reports, 2007) for measures
of diagonal lines; Paper: §4.4, which looks for loops and for late segments that resemble early ones.
"""

from dataclasses import dataclass

import numpy as np

MIN_LENGTH_IN_S = 6.0  # of a repetition: two to four bars; longer ones are rarely due to chance
MAX_GAP_IN_S = 0.8  # gaps up to this length are bridged
MIN_LAG_IN_S = 2.0  # held notes are not repetitions
MIN_PASSES = 3  # of a loop


@dataclass(frozen=True)
class Repetitions:
    """All repetitions of a piece, in frames: three arrays of the same length."""

    lag: np.ndarray
    start: np.ndarray
    end: np.ndarray


def find_repetitions(matrix: np.ndarray, frame_rate: float) -> Repetitions:
    """Finds the repetitions of at least six seconds.

    Args:
        matrix: `(N, N)`, a self-similarity matrix.
        frame_rate: frames a second.
    """
    min_lag = max(1, round(MIN_LAG_IN_S * frame_rate))
    lags = np.zeros((max(len(matrix) - min_lag, 0), len(matrix)), dtype=bool)
    for row in range(len(lags)):
        lags[row, row + min_lag :] = np.diagonal(matrix, -(row + min_lag))
    gap, length = round(MAX_GAP_IN_S * frame_rate), max(1, round(MIN_LENGTH_IN_S * frame_rate))
    found, start, end = find_runs(lags, gap, length)
    return Repetitions(found + min_lag, start, end)


def find_runs(rows: np.ndarray, max_gap: int, min_length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs of True in the rows of a matrix: row, start and end of each.

    Args:
        rows: `(num_rows, N)`.
        max_gap: up to this number of False between two True are bridged.
        min_length: shorter runs are omitted.
    """
    width = rows.shape[1] + max_gap + 1
    flat = np.pad(rows, ((0, 0), (0, max_gap + 1))).ravel().astype(np.int8)
    edges = np.diff(flat, prepend=0)
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    if not len(starts):
        return starts, starts, starts
    is_apart = starts[1:] - ends[:-1] > max_gap
    starts, ends = starts[np.append(True, is_apart)], ends[np.append(is_apart, True)]
    is_long = ends - starts >= min_length
    starts, ends = starts[is_long], ends[is_long]
    return starts // width, starts % width, ends - starts // width * width


def late_return(repetitions: Repetitions, num_frames: int) -> float:
    """Share of the second half of a piece that repeats something from its first half, in [0, 1].

    The repeated passage must be at least a quarter of the piece earlier, so that a loop across the middle does not
    count.
    """
    middle, returns = -(-num_frames // 2), np.zeros(num_frames, dtype=bool)
    for lag, start, end in zip(repetitions.lag, repetitions.start, repetitions.end, strict=True):
        if lag >= num_frames / 4:
            returns[max(start, middle) : max(min(end, middle + lag), middle)] = True
    return float(returns[middle:].mean())


def longest_loop(repetitions: Repetitions) -> int:
    """Length of the longest stretch that consists of at least three passes of one passage, in frames; may be 0."""
    length = repetitions.end - repetitions.start
    is_loop = length >= (MIN_PASSES - 1) * repetitions.lag
    return int((length + repetitions.lag)[is_loop].max(initial=0))


def longest_repetition(repetitions: Repetitions) -> int:
    """Length of the longest repeated passage, in frames; 0 if there is none."""
    return int((repetitions.end - repetitions.start).max(initial=0))
