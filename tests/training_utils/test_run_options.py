"""The options that all training scripts have."""

import pytest
from training_options import Options

from stable_longform.training_utils.config import load_config


@pytest.mark.parametrize(
    "argument",
    [
        "--keep_last=0",
        "--keep_every=-3",
        "--max_skipped_steps=-1",
        "--max_skipped_steps=101",
        "--timeout_in_minutes=0",
        "--timeout_in_minutes=.nan",
        "--allow_tf32=1",
        "--keep_every=4",
    ],
)
def test_values_out_of_range_are_named(argument):
    name, value = argument.removeprefix("--").split("=")
    with pytest.raises(ValueError, match=f"{name} must be .*, got {value.removeprefix('.')}"):
        load_config(Options, ["--output_dir=run", argument])


def test_milestones_fall_on_checkpoints():
    assert load_config(Options, ["--output_dir=run", "--keep_every=9"]).keep_every == 9
