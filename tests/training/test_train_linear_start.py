"""The real script: the notes come through after a few steps, a resumed run equals an undisturbed one, bad settings."""

import json

import pytest
import yaml
from common import assert_all_equal
from launch import check_script, run_script
from safetensors.torch import load_file
from tiny_training import AUTOENCODER

from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck

SETTINGS = {
    "model": {**AUTOENCODER["model"], "downsampling_ratios": [2, 2], "channel_multiples": [1, 2]},
    "crop_num_samples": 4096,
    "edge_num_samples": 64,
    "learning_rate": 3e-3,
    "warmup_steps": 5,
    "num_workers": 0,
    "validate_every": 40,
    "num_validation_crops": 2,
    "validation_duration_in_s": 0.5,
    "num_samples": 1,
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_manifest):
    """Holds the settings and the runs."""
    folder = tmp_path_factory.mktemp("linear")
    (folder / "settings.yaml").write_text(yaml.safe_dump({"manifest": str(tiny_manifest), **SETTINGS}))
    return folder


def arguments(folder, run, max_steps, *more):
    return ["--config", folder / "settings.yaml", f"--output_dir={folder / run}", f"--max_steps={max_steps}", *more]


def test_the_waveform_comes_through(folder):
    """With as many latents as samples nearly all of it; the other weights stay what they were."""
    check_script("train_linear_start.py", *arguments(folder, "run", 80))
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").open()]
    first, last = (row["valid/joint_si_sdr"] for row in rows if "valid/joint_si_sdr" in row)
    assert last > first and last > 8
    assert (folder / "run" / "samples" / "step-00000080" / "0.png").stat().st_size > 1000
    vae = AutoencoderOobleck.from_pretrained(folder / "run" / "autoencoder")
    fresh = AutoencoderOobleck(**SETTINGS["model"]).state_dict()
    for name, value in vae.state_dict().items():
        if "res_unit" in name and name.endswith(("conv2.weight_g", "conv2.bias")) or name.endswith("beta"):
            assert not value.any(), name
        elif name.endswith("alpha"):
            assert (value == -2).all(), name
        assert value.shape == fresh[name].shape
    stage = json.loads((folder / "run" / "autoencoder" / "stage.json").read_text())
    assert (stage["stage"], stage["step"]) == ("linear start", 80)


def test_the_rate_warms_up_and_falls(folder):
    laws = ["--warmup_steps=2", "--decay_start=0.5", "--final_rate=0.2", "--log_every=1", "--learning_rate=1e-3"]
    check_script("train_linear_start.py", *arguments(folder, "rates", 4, *laws))
    rows = [row for row in map(json.loads, (folder / "rates" / "metrics.jsonl").open()) if "learning_rate" in row]
    assert [row["learning_rate"] for row in rows] == pytest.approx([5e-4, 1e-3, 1e-3, 6e-4])


def test_a_resumed_run_equals_an_undisturbed_one(folder):
    for run, steps in (("whole", [4]), ("resumed", [2, 4])):
        for max_steps in steps:
            check_script("train_linear_start.py", *arguments(folder, run, max_steps, "--decay_start=1"))
    whole, resumed = (load_file(folder / run / "autoencoder" / WEIGHTS) for run in ("whole", "resumed"))
    assert_all_equal(list(resumed.values()), list(whole.values()))


@pytest.mark.parametrize(
    "option, message",
    [
        ("--crop_num_samples=4095", "crop_num_samples must be a multiple of 4, got 4095"),
        ("--edge_num_samples=2048", "edge_num_samples must be less than half of crop_num_samples, got 2048 of 4096"),
        ("--final_rate=2", "final_rate must be a number in [0, 1], got 2"),
    ],
)
def test_wrong_settings_end_in_one_line(folder, option, message):
    finished = run_script("train_linear_start.py", *arguments(folder, "wrong", 1, option))
    assert finished.returncode == 2 and message in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1 and not (folder / "wrong").exists()
