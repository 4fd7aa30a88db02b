"""What is drawn for each item of the transformer's training."""

from types import SimpleNamespace

import pytest
import torch

from stable_longform.training_utils.noise_and_times import (
    draw_noise_and_times,
    make_draw,
    shift_times,
    uniform_times,
)

SHAPE = (200, 2, 3)


def draw(numbers: range, shape=SHAPE, **options) -> dict[str, torch.Tensor]:
    options = {"seed": 5, "condition_dropout": 0.4, "terminal_probability": 0.3} | options
    return draw_noise_and_times((len(numbers), *shape[1:]), numbers, **options)


def test_draws_are_functions_of_seed_and_item_number():
    whole, part, other = draw(range(200)), draw(range(100, 150)), draw(range(200), seed=6)
    for name, values in whole.items():
        assert torch.equal(values[100:150], part[name]), name
        assert not torch.equal(values, other[name]), name


def test_shares_are_those_that_were_asked_for():
    draws = draw(range(4000), shape=(4000, 1, 1))
    assert (draws["timestep"] == 1).float().mean() == pytest.approx(0.3, abs=0.03)
    assert draws["is_dropped"].float().mean() == pytest.approx(0.4, abs=0.03)
    both = ((draws["timestep"] == 1) & draws["is_dropped"]).float().mean()
    assert both == pytest.approx(0.3 * 0.4, abs=0.02)  # independent of each other


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_none_and_all(share):
    draws = draw(range(300), condition_dropout=share, terminal_probability=share)
    assert draws["is_dropped"].float().mean() == share
    assert (draws["timestep"] == 1).float().mean() == share


def test_noise_is_white_with_deviation_1():
    noise = draw(range(200), shape=(200, 8, 16))["noise"].flatten(1)
    assert noise.mean() == pytest.approx(0, abs=0.02) and noise.std() == pytest.approx(1, abs=0.02)
    correlations = torch.corrcoef(noise).fill_diagonal_(0)  # between items
    assert correlations.abs().max() < 0.5 and correlations.std() == pytest.approx(128**-0.5, rel=0.1)


def test_noise_does_not_depend_on_the_other_settings():
    plain = draw(range(50), condition_dropout=0.0, terminal_probability=0.0)
    other = draw(range(50), condition_dropout=0.9, terminal_probability=0.9, timestep_shift=3.0)
    assert torch.equal(plain["noise"], other["noise"])


def test_any_power_of_two_of_consecutive_items_fills_the_interval_evenly():
    for first in (0, 64, 10**9 * 64):
        times = uniform_times(range(first, first + 64), seed=7)
        assert torch.histc(times, 64, 0, 1).tolist() == [1] * 64
    assert times.dtype == torch.float32 and (times >= 0).all() and (times <= 1).all()


def test_seeds_shift_the_times():
    starts = torch.stack([uniform_times(range(1), seed)[0] for seed in range(1000)])
    assert torch.histc(starts, 4, 0, 1).min() > 200
    assert len(set(starts.tolist())) == 1000


def test_a_shift_multiplies_the_odds():
    t = torch.linspace(0, 1, 101)
    assert torch.equal(shift_times(t, 1.0), t)
    shifted = shift_times(t, 4.0)
    assert shifted[0] == 0 and shifted[-1] == 1
    odds, expected = (value[1:-1] / (1 - value[1:-1]) for value in (shifted, t))
    assert torch.allclose(odds, 4 * expected, rtol=1e-4)
    assert torch.allclose(shift_times(shifted, 0.25), t, atol=1e-6)


def test_times_of_a_batch_are_shifted_but_for_those_at_the_end():
    numbers = range(300)
    draws = draw(numbers, timestep_shift=4.0)
    expected = shift_times(uniform_times(numbers, 5), 4.0)
    is_inner = draws["timestep"] < 1
    assert torch.equal(draws["timestep"][is_inner], expected[is_inner]) and 0.5 < is_inner.float().mean() < 0.9


def test_times_below_the_least_are_not_drawn_and_the_others_stay_even():
    times = draw(range(2**10), terminal_probability=0.0, min_timestep=0.25)["timestep"]
    assert times.min() >= 0.25 and torch.histc(times, 64, 0.25, 1).tolist() == [16] * 64
    shifted = draw(range(64), terminal_probability=0.0, min_timestep=0.25, timestep_shift=4.0)["timestep"]
    expected = 0.25 + 0.75 * shift_times(uniform_times(range(64), 5), 4.0)
    assert torch.allclose(shifted, expected, atol=1e-6)


OPTIONS = {
    "seed": 7,
    "condition_dropout": 0.4,
    "terminal_probability": 0.3,
    "timestep_shift": 2.0,
    "min_timestep": 0.1,
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_a_training_counts(name):
    changed = OPTIONS | {name: OPTIONS[name] / 2 if name != "seed" else 8}
    result = make_draw(SimpleNamespace(**changed))(SHAPE, range(200))
    expected, others = (draw_noise_and_times(SHAPE, range(200), **options) for options in (changed, OPTIONS))
    assert all(torch.equal(result[key], value) for key, value in expected.items())
    assert not all(torch.equal(result[key], value) for key, value in others.items())
