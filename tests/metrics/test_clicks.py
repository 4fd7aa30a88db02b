import math

import pytest
import torch

from stable_longform.metrics.clicks import click_ratio

RATE = 8000


def sine(num_samples: int, phase: float = 0.0) -> torch.Tensor:
    return torch.sin(2 * math.pi * 440 * torch.arange(num_samples, dtype=torch.float64) / RATE + phase)[None]


def test_a_smooth_wave_has_no_click_wherever_one_looks():
    for border in (1, 500, 1999):
        assert click_ratio(sine(2000), border, 400) <= 1.001


@pytest.mark.parametrize("jump", [0.1, 1.0])
def test_a_jump_is_a_click_at_its_place_only(jump):
    wave = sine(2000)
    wave[:, 1000:] += jump
    assert click_ratio(wave, 1000, 400) > 1.5 * jump / 0.12 / 2
    assert click_ratio(wave, 1200, 400) < 1


def test_a_break_of_the_slope_is_a_click():
    wave = torch.cat([sine(1000), sine(1000).flip(1)], dim=1)
    assert click_ratio(wave, 1000, 400) > 2


def test_the_scale_does_not_matter():
    noise = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
    assert click_ratio(noise, 300, 200) == pytest.approx(click_ratio(100 * noise, 300, 200))


def test_bad_input():
    for border in (0, 1000, -1):
        with pytest.raises(ValueError, match="border must be inside"):
            click_ratio(torch.ones(1, 1000), border, 100)
    with pytest.raises(ValueError, match="more than 8 samples"):
        click_ratio(torch.ones(1, 1000), 500, 5)
