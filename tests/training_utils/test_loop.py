"""When a script is to end, and what happens at the end of each step."""

import json
import os
import signal
import time

import pytest
import torch
from accelerate import Accelerator
from training_options import Options

from stable_longform.training_utils.loop import StopRequest, TrainingLoop


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


def run(output_dir, options=Options(), signal_in=None, log=None):  # noqa: B008
    """Runs a loop that trains nothing; returns what happened, in order, and the exit code."""
    output_dir.mkdir(exist_ok=True)
    accelerator, stop, events = Accelerator(cpu=True), StopRequest(), []
    accelerator.prepare(torch.nn.Linear(1, 1))
    loop = TrainingLoop(accelerator, output_dir, options, stop)

    def note_checkpoint(models, weights, folder):
        events.append(("checkpoint", loop.done))

    accelerator.register_save_state_pre_hook(note_checkpoint)
    for step in loop.steps():
        events.append(("step", step))
        if step == signal_in:
            os.kill(os.getpid(), signal.SIGTERM)
        loop.end_step({"loss": float(step)}, None if log is None else step in log)
        if loop.is_due(4):
            events.append(("validation", loop.done))
        assert not loop.is_due(0)
        loop.save_if_due()
    return events, stop.exit_code


def logged_steps(output_dir):
    return [json.loads(line)["step"] for line in (output_dir / "metrics.jsonl").read_text().splitlines()]


def without_steps(events):
    return [event for event in events if event[0] != "step"]


def test_a_step_ends_with_validation_then_checkpoint_and_so_does_the_last(tmp_path):
    events, exit_code = run(tmp_path)
    assert [number for name, number in events if name == "step"] == list(range(7))
    last = [("validation", 7), ("checkpoint", 7)]
    assert without_steps(events) == [("checkpoint", 3), ("validation", 4), ("checkpoint", 6), *last]
    assert logged_steps(tmp_path) == [2, 4, 6, 7] and exit_code == 0


def test_a_script_can_say_which_steps_are_logged(tmp_path):
    run(tmp_path, log=(1, 4))
    assert logged_steps(tmp_path) == [2, 5, 7]


def test_a_signal_ends_the_loop_with_one_checkpoint_before_the_validation(tmp_path):
    events, exit_code = run(tmp_path, signal_in=3)
    assert events[-3:] == [("step", 3), ("checkpoint", 4), ("validation", 4)] and exit_code == 75
    events, _ = run(tmp_path / "other", Options(save_every=4), signal_in=3)
    assert events[-2:] == [("checkpoint", 4), ("validation", 4)]


def test_a_loop_goes_on_from_its_newest_checkpoint(tmp_path):
    run(tmp_path, signal_in=3)
    events, exit_code = run(tmp_path)
    assert events[0] == ("step", 4) and events[-1] == ("checkpoint", 7) and exit_code == 0
    assert run(tmp_path) == ([], 0)


def test_a_signal_during_the_last_step_changes_nothing(tmp_path):
    events, exit_code = run(tmp_path, signal_in=6)
    assert events[-2:] == [("validation", 7), ("checkpoint", 7)] and exit_code == 0
