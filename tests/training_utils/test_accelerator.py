"""Settings that the accelerator of a script refuses."""

import importlib.util

import pytest
from training_options import Options

from stable_longform.training_utils.accelerator import make_accelerator


def test_an_unknown_tracker_is_named(tmp_path):
    with pytest.raises(ValueError, match="teletype"):
        make_accelerator(Options(trackers=("teletype",), output_dir=str(tmp_path)))


@pytest.mark.filterwarnings("ignore:.*no supported trackers are currently installed:UserWarning")
def test_a_tracker_that_is_not_installed_is_named(tmp_path):
    known = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio", "comet_ml": "comet_ml"}
    missing = next((name for name, module in known.items() if importlib.util.find_spec(module) is None), None)
    if missing is None:
        pytest.skip("all are installed")
    with pytest.raises(ValueError, match=f"{missing} is not installed"):
        make_accelerator(Options(trackers=(missing,), output_dir=str(tmp_path)))
