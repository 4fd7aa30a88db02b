"""When a script is to end: after its time, or after a signal."""

import os
import signal
import time

import pytest

from stable_longform.training_utils.loop import StopRequest


@pytest.fixture(autouse=True)
def handlers():
    """Puts the handlers of this process back."""
    numbers = (signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_a_limit_is_reached_after_its_minutes(monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    limit, unlimited = StopRequest(2.0), StopRequest(None)
    now = 219.9
    assert not limit.is_time_over()
    now = 220.0
    assert limit.is_time_over() and limit.is_time_over() and limit.exit_code == 0
    now = 1e12
    assert not unlimited.is_time_over()


@pytest.mark.parametrize("minutes", [0, -1.0, float("nan")])
def test_limits_that_are_no_time_are_refused(minutes):
    with pytest.raises(ValueError, match=f"max_minutes must be greater than 0, got {minutes}"):
        StopRequest(minutes)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_remembered_and_ends_nothing(number):
    stop = StopRequest()
    assert not stop.is_signalled() and stop.exit_code == 0
    os.kill(os.getpid(), number)
    assert stop.is_signalled() and stop.exit_code == 75
