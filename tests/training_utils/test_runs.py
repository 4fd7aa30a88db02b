"""The start of a run: what it records, what may differ when it is resumed."""

import json
from dataclasses import dataclass, replace

import pytest
import torch
import yaml
from packaging.version import Version

from stable_longform.training_utils.config import load_config
from stable_longform.training_utils.runs import start_run


@dataclass(frozen=True)
class Config:
    manifest: str
    learning_rate: float = 0.5
    max_steps: int = 10
    betas: tuple[float, ...] = (0.9, 0.99)


def test_start_run_describes_the_run(tmp_path):
    folder = start_run(tmp_path / "a" / "run", Config("m.jsonl", 1e-5))
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert load_config(Config, ["--config=config.yaml"], folder) == Config("m.jsonl", 1e-5)
    assert (saved["learning_rate"], saved["betas"]) == (1e-5, [0.9, 0.99])
    run = json.loads((folder / "run.json").read_text())
    assert Version(run["versions"]["torch"]).public == Version(torch.__version__).public  # CUDA wheels add +cu130
    assert {"started", "git_commit", "python", "machine", "gpu"} <= set(run)


def test_a_run_is_resumed_with_its_configuration_only(tmp_path):
    config = Config("m.jsonl", 1e-5)
    start_run(tmp_path, config)
    changed = replace(config, learning_rate=1e-4, betas=(0.5, 0.9))
    start_run(tmp_path, changed)  # nothing has been trained yet
    start_run(tmp_path, config)
    (tmp_path / "checkpoint-00000003").mkdir()
    start_run(tmp_path, config)
    with pytest.raises(ValueError, match="other values of learning_rate, betas"):
        start_run(tmp_path, changed)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["learning_rate"] == 1e-5
    start_run(tmp_path, replace(config, max_steps=99))
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["max_steps"] == 99
