"""The time limit of a script."""

import time

import pytest

from stable_longform.training_utils.loop import TimeLimit


def test_a_limit_is_reached_after_its_minutes(monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    limit, unlimited = TimeLimit(2.0), TimeLimit(None)
    now = 219.9
    assert not limit.is_reached()
    now = 220.0
    assert limit.is_reached() and limit.is_reached()
    now = 1e12
    assert not unlimited.is_reached()


@pytest.mark.parametrize("minutes", [0, -1.0, float("nan")])
def test_limits_that_are_no_time_are_refused(minutes):
    with pytest.raises(ValueError, match=f"max_minutes must be greater than 0, got {minutes}"):
        TimeLimit(minutes)
