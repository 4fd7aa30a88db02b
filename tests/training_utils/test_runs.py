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
    with pytest.raises(ValueError, match="other values of betas: use the same"):
        start_run(tmp_path, changed)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["learning_rate"] == 1e-5
    start_run(tmp_path, replace(config, max_steps=99))
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["max_steps"] == 99


def test_what_changes_is_noted(tmp_path):
    """The way out of a training that is not finite, and data that have moved; each start has its entry."""
    start_run(tmp_path, Config("m.jsonl", 1e-5))
    (tmp_path / "checkpoint-00000003").mkdir()
    start_run(tmp_path, Config("elsewhere/m.jsonl", 1e-6, max_steps=7))
    start_run(tmp_path, Config("elsewhere/m.jsonl", 1e-6))
    history = json.loads((tmp_path / "run.json").read_text())["history"]
    moved = {"manifest": ["m.jsonl", "elsewhere/m.jsonl"], "learning_rate": [1e-5, 1e-6]}
    assert [(start["step"], start["changes"]) for start in history] == [(0, {}), (3, moved), (3, {})]
    assert all(start["host"] and start["started"] for start in history)


def test_what_a_run_began_with_may_move_but_not_be_another(tmp_path):
    run, config = tmp_path / "run", Config("m.jsonl")
    for name, content in (("a", b"1"), ("b", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(content)
    start_run(run, config, sources={"init_from": str(tmp_path / "a")})
    sources = json.loads((run / "run.json").read_text())["sources"]
    (run / "checkpoint-00000003").mkdir()
    with pytest.raises(ValueError, match="began with another init_from than .*b: its contents differ"):
        start_run(run, config, sources={"init_from": str(tmp_path / "b")})
    for place in ("moved", "gone"):
        (tmp_path / "a").exists() and (tmp_path / "a").rename(tmp_path / "moved")
        start_run(run, config, sources={"init_from": str(tmp_path / place)})
        assert json.loads((run / "run.json").read_text())["sources"] == sources


def test_a_run_folder_can_be_moved(tmp_path):
    @dataclass(frozen=True)
    class Placed:
        output_dir: str

    start_run(tmp_path / "a", Placed(str(tmp_path / "a")))
    (tmp_path / "a" / "checkpoint-00000003").mkdir()
    (tmp_path / "a").rename(tmp_path / "b")
    start_run(tmp_path / "b", Placed(str(tmp_path / "x" / ".." / "b")))
    history = json.loads((tmp_path / "b" / "run.json").read_text())["history"]
    assert [start["changes"] for start in history] == [{}, {}]
