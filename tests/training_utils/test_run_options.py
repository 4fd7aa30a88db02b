"""The options that all training scripts have."""

from dataclasses import dataclass

import pytest

from stable_longform.training_utils.config import load_config
from stable_longform.training_utils.run_options import TrainingOptions


@dataclass(frozen=True, kw_only=True)
class Config(TrainingOptions):
    output_dir: str
    batch_size: int = 1
    max_steps: int = 1000
    save_every: int = 500
    log_every: int = 10


@pytest.mark.parametrize(
    "argument",
    [
        "--keep_last=0",
        "--keep_every=-500",
        "--max_skipped_steps=-1",
        "--max_skipped_steps=101",
        "--timeout_in_minutes=0",
        "--timeout_in_minutes=.nan",
        "--allow_tf32=1",
        "--keep_every=750",
    ],
)
def test_values_out_of_range_are_named(argument):
    name, value = argument.removeprefix("--").split("=")
    with pytest.raises(ValueError, match=f"{name} must be .*, got {value.removeprefix('.')}"):
        load_config(Config, ["--output_dir=run", argument])


def test_milestones_fall_on_checkpoints():
    assert load_config(Config, ["--output_dir=run", "--keep_every=1500"]).keep_every == 1500
