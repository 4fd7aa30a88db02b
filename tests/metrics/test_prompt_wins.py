"""Own prompt against others: what perfect, blind and reversed listeners give."""

import numpy as np
import pytest

from stable_longform.metrics.prompt_wins import mean_and_error, win_shares


def test_perfect_reversed_and_deaf_listeners():
    assert win_shares(np.eye(5), "abcde").tolist() == [1] * 5
    assert win_shares(-np.eye(5), "abcde").tolist() == [0] * 5
    assert win_shares(np.ones((5, 5)), "abcde").tolist() == [0.5] * 5


def test_chance_gives_a_half():
    shares = win_shares(np.random.default_rng(0).normal(size=(300, 300)), range(300))
    mean, error = mean_and_error(shares)
    assert abs(mean - 0.5) < 3 * error and error == pytest.approx(np.sqrt(1 / 12 / 300), rel=0.1)


def test_each_row_is_a_recording_and_equal_prompts_are_not_compared():
    scores = np.array([[2.0, 1.0, 3.0], [5.0, 1.0, 0.0], [9.0, 9.0, 1.0]])
    assert win_shares(scores, "abc").tolist() == [0.5, 0.5, 0.0]
    assert win_shares(scores, "aab")[:2].tolist() == [0.0, 1.0]
    assert np.isnan(win_shares(scores, "aaa")).all()


def test_scores_that_are_not_known_are_not_compared():
    scores = np.array([[2.0, np.nan, 3.0], [5.0, np.nan, 0.0], [0.0, np.nan, 1.0]])
    assert win_shares(scores, "abc")[[0, 2]].tolist() == [0.0, 1.0]
    assert np.isnan(win_shares(scores, "abc")[1])


def test_mean_and_error():
    assert mean_and_error([1.0, 0.0, np.nan]) == (0.5, pytest.approx(0.5))
    assert mean_and_error([np.nan]) is None
    mean, error = mean_and_error([0.25])
    assert mean == 0.25 and np.isnan(error)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="scores must be .3, 3., got shape .2, 2."):
        win_shares(np.eye(2), "abc")
