"""The level behind the end: closed form, the grace, what is too short."""

import math

import pytest
import torch

from stable_longform.metrics.endings import level_behind

RATE = 8000


def music_until(end_in_s: float, total_in_s: float = 8.0) -> torch.Tensor:
    """A full-scale square wave, then silence."""
    waveform = torch.ones(2, round(total_in_s * RATE))
    waveform[:, 1::2] = -1
    waveform[:, round(end_in_s * RATE) :] = 0
    return waveform


def test_level_is_that_of_the_loudest_block_after_the_grace():
    assert level_behind(music_until(8), RATE, 4.0) == pytest.approx(0, abs=1e-9)
    assert level_behind(0.001 * music_until(8), RATE, 4.0) == pytest.approx(-60, abs=1e-3)
    assert level_behind(music_until(5.9), RATE, 4.0) == -120  # two seconds of decay are free
    late = music_until(4)
    late[0, -RATE // 10 :] = 0.1  # one channel, in the last tenth of a second
    assert level_behind(late, RATE, 4.0) == pytest.approx(-20 - 10 * math.log10(2), abs=1e-3)


def test_files_that_end_before_that_have_none():
    assert level_behind(music_until(4, total_in_s=6.05), RATE, 4.0) is None
    assert level_behind(music_until(4, total_in_s=3), RATE, 4.0) is None
    assert level_behind(music_until(4, total_in_s=6.15), RATE, 4.0) == -120
