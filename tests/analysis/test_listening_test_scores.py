"""Table 4: simulated listeners with known preferences are recovered, careless ones are told."""

from dataclasses import asdict

import numpy as np
import pytest
from simulated_listeners import MEANS, STRENGTHS, answers_of, make_stimuli

from stable_longform.analysis.listening_test import STEREO
from stable_longform.analysis.listening_test_results import Answer
from stable_longform.analysis.listening_test_scores import (
    bradley_terry,
    preference_table,
    rating_table,
    screen_listeners,
)

STIMULI = make_stimuli()
BY_ID = {stimulus.id: asdict(stimulus) for stimulus in STIMULI}


@pytest.fixture(scope="module")
def answers():
    return [answer for listener in range(1, 27) for answer in answers_of(STIMULI, listener)]


def test_means_deviations_and_intervals_are_those_of_the_listeners(answers):
    table = rating_table(answers, BY_ID)["2m"]
    for system, mean in MEANS.items():
        score = table[system]["musicality"]
        assert score["mean"] == pytest.approx(mean, abs=0.2)
        assert 0.4 < score["deviation"] < 0.9
        assert (score["num_ratings"], score["num_listeners"]) == (26 * 6, 26)
        low, high = score["interval"]
        assert low < score["mean"] < high and 0.05 < high - low < 0.4
        assert table[system][STEREO]["mean"] == pytest.approx(100 * mean / 5, abs=10)


def test_repeated_ratings_are_in_no_mean():
    name = STIMULI[0].id
    given = [Answer("1", name, "musicality", "2"), Answer("1", f"{name}_again", "musicality", "5")]
    score = rating_table(given, BY_ID)["2m"][STIMULI[0].system]["musicality"]
    assert score == {"mean": 2, "deviation": None, "interval": None, "num_ratings": 1, "num_listeners": 1}


def test_careless_listeners_are_told_from_careful_ones(answers):
    careless = [answer for number in range(30, 40) for answer in answers_of(STIMULI, number, careless=True)]
    screened = screen_listeners(answers + careless)
    assert not set(screened) & {str(number) for number in range(1, 27)}
    assert len(screened) >= 8 and "more than 1" in next(iter(screened.values()))
    assert screen_listeners(answers[:5]) == {}


def test_strengths_are_recovered(answers):
    found = preference_table(answers, BY_ID, num_resamples=50)["2m"]
    assert found["num_comparisons"] == 26 * 9 and found["num_listeners"] == 26
    for system, strength in STRENGTHS.items():
        row = found["strengths"][system]
        assert row["strength"] == pytest.approx(strength, abs=0.35)
        assert row["interval"][0] < row["strength"] < row["interval"][1]
    wins = np.array([list(row.values()) for row in found["wins"].values()])
    assert wins.sum() == 26 * 9 and not wins.diagonal().any()


def test_bradley_terry_laws():
    # Two systems: the log odds of the wins, with a quarter of a win more for each.
    assert np.diff(bradley_terry(np.array([[0, 10.0], [30.0, 0]])))[0] == pytest.approx(np.log(30.25 / 10.25))
    wins = np.random.default_rng(0).integers(1, 20, (4, 4)).astype(float)
    strengths = bradley_terry(wins)
    assert strengths.sum() == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(bradley_terry(wins.T), -strengths, atol=1e-5)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(bradley_terry(wins[np.ix_(order, order)]), strengths[order], atol=1e-6)
    # Wins exactly as strengths say give those strengths.
    truth = np.array([0.8, 0.1, -0.9])
    odds = 1e6 / (1 + np.exp(truth[None, :] - truth[:, None]))
    np.testing.assert_allclose(bradley_terry(odds), truth, atol=1e-4)
    assert np.isfinite(bradley_terry(np.array([[0, 9.0], [0, 0]]))).all()
