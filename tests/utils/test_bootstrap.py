"""Intervals by drawing files again: their width, their place, and what gives none."""

import numpy as np
import pytest

from stable_longform.utils.bootstrap import bootstrap_interval


def mean_interval(values, **kwargs):
    return bootstrap_interval(lambda drawn: values[drawn].mean(), values.mean(), [len(values)], **kwargs)


def test_interval_of_a_mean_is_that_of_the_normal_law():
    values = np.random.default_rng(0).normal(size=400)
    low, high = mean_interval(values, num_resamples=4000)
    error = values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.1 * error)
    narrow = mean_interval(values, num_resamples=4000, confidence=0.5)
    assert narrow[1] - narrow[0] == pytest.approx(2 * 0.674 * error, rel=0.1)


def test_it_covers_what_it_promises():
    """The mean of the law lies in about 95 of 100 intervals."""
    hits = 0
    for seed in range(300):
        low, high = mean_interval(np.random.default_rng(seed).normal(size=40), num_resamples=200, seed=seed)
        hits += low <= 0 <= high
    assert 270 <= hits <= 297


def test_sets_are_drawn_apart_and_a_bias_of_the_draws_does_not_move_it():
    first, second = np.arange(50.0), np.arange(80.0)
    calls = []

    def statistic(one, other):
        calls.append((one, other))
        return first[one].mean() - second[other].mean() + 1000

    value = first.mean() - second.mean()
    low, high = bootstrap_interval(statistic, value, [50, 80], 200)
    assert low < value < high < value + 20
    assert all(one.shape == (50,) and other.shape == (80,) for one, other in calls)
    assert max(other.max() for _, other in calls) == 79 and len(set(map(len, map(set, calls[0])))) == 2


def test_draws_without_a_value_are_left_out():
    values = np.array([0.0, 1.0])
    interval = bootstrap_interval(lambda drawn: np.nan if drawn[0] == 0 else values[drawn].mean(), 0.5, [2], 100)
    assert np.isfinite(interval).all()


def test_a_single_file_or_no_draws_give_none():
    assert mean_interval(np.ones(1), num_resamples=100) is None
    assert mean_interval(np.ones(5), num_resamples=0) is None
    assert mean_interval(np.ones(5), num_resamples=10) == (1, 1)
