"""Settings that the accelerator of a script refuses."""

import importlib.util

import pytest

from stable_longform.training_utils.accelerator import make_accelerator


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"accumulation": 0}, "gradient_accumulation_steps must be at least 1, got 0"),
        ({"mixed_precision": "half"}, "mixed_precision must be no, bf16 or fp16, got 'half'"),
        ({"trackers": ("teletype",)}, "teletype"),
    ],
)
def test_wrong_settings_of_the_accelerator(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_accelerator(**arguments)


@pytest.mark.filterwarnings("ignore:.*no supported trackers are currently installed:UserWarning")
def test_a_tracker_that_is_not_installed_is_named(tmp_path):
    known = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio", "comet_ml": "comet_ml"}
    missing = next((name for name, module in known.items() if importlib.util.find_spec(module) is None), None)
    if missing is None:
        pytest.skip("all are installed")
    with pytest.raises(ValueError, match=f"{missing} is not installed"):
        make_accelerator(trackers=(missing,), output_dir=tmp_path)
