"""Repetitions: matrices whose lines are known."""

import numpy as np
import pytest

from stable_longform.analysis.repetition import (
    Repetitions,
    find_repetitions,
    find_runs,
    late_return,
    longest_loop,
    longest_repetition,
)


def matrix_of(sequence):
    """Which moments of a sequence are equal."""
    matrix = np.equal.outer(sequence, sequence)
    np.fill_diagonal(matrix, False)
    return matrix


def repetitions_of(*triples):
    return Repetitions(*np.array(triples, dtype=int).reshape(-1, 3).T)


@pytest.mark.parametrize(("max_gap", "min_length"), ((0, 1), (0, 3), (2, 4), (1, 1)))
def test_runs_are_those_of_a_plain_loop(max_gap, min_length):
    rows = np.random.default_rng(0).random((12, 60)) < 0.6
    expected = []
    for index, row in enumerate(rows):
        runs = []
        for time in np.flatnonzero(row):
            if runs and time - runs[-1][1] <= max_gap:
                runs[-1][1] = time + 1
            else:
                runs.append([time, time + 1])
        expected += [(index, start, end) for start, end in runs if end - start >= min_length]
    found = list(zip(*(array.tolist() for array in find_runs(rows, max_gap, min_length)), strict=True))
    assert found == expected and expected


def test_a_passage_that_comes_back_is_found():
    """At one frame a second: 20 s, 30 s of something else, the 20 s again."""
    sequence = np.concatenate([np.arange(20), np.arange(100, 130), np.arange(20)])
    found = find_repetitions(matrix_of(sequence), 1.0)
    assert (found.lag.tolist(), found.start.tolist(), found.end.tolist()) == ([50], [50], [70])
    assert longest_repetition(found) == 20
    assert longest_loop(found) == 0
    assert late_return(found, 70) == pytest.approx(20 / 35)


def test_short_and_held_passages_are_none():
    short = np.concatenate([np.arange(5), np.arange(100, 130), np.arange(5)])
    assert len(find_repetitions(matrix_of(short), 1.0).lag) == 0
    held = np.repeat(np.arange(30), 2)
    assert len(find_repetitions(matrix_of(held), 1.0).lag) == 0
    assert longest_repetition(repetitions_of()) == longest_loop(repetitions_of()) == 0
    assert late_return(repetitions_of(), 30) == 0


def test_a_loop_is_three_passes_in_a_row():
    for num_passes, length in ((2, 0), (3, 24), (7, 56)):
        sequence = np.concatenate([np.arange(100, 150), np.tile(np.arange(8), num_passes), np.arange(200, 250)])
        assert longest_loop(find_repetitions(matrix_of(sequence), 1.0)) == length


def test_a_return_repeats_the_first_half_and_what_is_far_enough_before():
    """Of 80 frames: the second half repeats the first, itself, or a passage on both sides of the middle."""
    assert late_return(repetitions_of((40, 40, 80)), 80) == 1
    assert late_return(repetitions_of((20, 60, 80)), 80) == 0
    assert late_return(repetitions_of((30, 60, 80)), 80) == pytest.approx(10 / 40)
    assert late_return(repetitions_of((50, 50, 65), (52, 60, 70)), 80) == pytest.approx(20 / 40)
    assert late_return(repetitions_of((30, 30, 40)), 80) == 0
    assert late_return(repetitions_of((20, 30, 60)), 80) == pytest.approx(20 / 40)
    assert late_return(repetitions_of((19, 30, 60)), 80) == 0  # a loop across the middle


def test_time_runs_either_way():
    """The longest repetition of a piece is that of the piece played backward."""
    sequence = np.random.default_rng(0).integers(6, size=200)
    sequence[150:180] = sequence[20:50]
    forward, backward = (find_repetitions(matrix_of(numbers), 2.0) for numbers in (sequence, sequence[::-1]))
    assert longest_repetition(forward) == longest_repetition(backward) >= 30
