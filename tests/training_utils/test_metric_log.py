"""Where metrics go."""

import json
from dataclasses import dataclass

import pytest
import torch
from training_options import Options

from stable_longform.training_utils.accelerator import make_accelerator
from stable_longform.training_utils.metric_log import log_metrics
from stable_longform.training_utils.runs import start_run


@dataclass(frozen=True)
class Config:
    manifest: str
    learning_rate: float = 0.5
    max_steps: int = 10
    betas: tuple = (0.9, 0.99)


def test_log_metrics_appends(tmp_path):
    log_metrics(tmp_path, 1, {"loss": torch.tensor(0.5)})
    log_metrics(tmp_path, 2, {"loss": 0.25, "valid/l1": 1})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25, "valid/l1": 1.0}]


def test_tensorboard_gets_the_metrics(tmp_path):
    """Needs tensorboard, which no extra of ours installs."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accelerator = make_accelerator(Options(trackers=("tensorboard",), output_dir=str(tmp_path)))
    start_run(tmp_path, Config("m.jsonl"), accelerator)
    log_metrics(tmp_path, 7, {"loss": torch.tensor(0.5)}, accelerator)
    accelerator.end_training()
    events = EventAccumulator(str(tmp_path / "stable_longform")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(7, 0.5)]
