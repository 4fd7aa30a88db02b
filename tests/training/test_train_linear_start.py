"""The real script: the notes come through after a few steps, a resumed run equals an undisturbed one, bad settings."""

import json

import pytest
import torch
import yaml
from common import assert_all_equal
from launch import check_script, run_script
from safetensors.torch import load_file
from tiny_training import AUTOENCODER

from stable_longform.data.audio_crops import CropMaker
from stable_longform.data.sources import open_source
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.training_utils.items import item_generator
from stable_longform.training_utils.linear_start import LinearAutoencoder, relative_error

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


@pytest.mark.parametrize("kl_weight", [0.0, 20.0])
def test_the_gradient_is_that_of_the_error_plus_the_weight_times_kl(folder, tiny_manifest, kl_weight):
    """At a rate at which the first step changes nothing, so that the exported weights are those it began with."""
    settings = [f"--kl_weight={kl_weight}", "--learning_rate=1e-12", "--batch_size=2", "--log_every=1"]
    run = f"kl-{kl_weight:g}"
    check_script("train_linear_start.py", *arguments(folder, run, 1, *settings))
    row = json.loads((folder / run / "metrics.jsonl").read_text().splitlines()[0])
    network = LinearAutoencoder(AutoencoderOobleck.from_pretrained(folder / run / "autoencoder"))
    crops = open_source(tiny_manifest, "train").items(CropMaker(SETTINGS["crop_num_samples"], 44100), 0)
    waveform = torch.stack([crops[number]["waveform"] for number in range(2)])
    decoded, posterior = network(waveform, [item_generator(0, number) for number in range(2)])
    error = relative_error(decoded, waveform, SETTINGS["edge_num_samples"])
    parameters = network.trained_parameters()
    gradient = torch.autograd.grad(error + kl_weight * posterior.kl(), parameters, allow_unused=True)
    norm = torch.cat([part.flatten() for part in gradient if part is not None]).norm().item()
    assert (row["error"], row["kl"]) == pytest.approx((error.item(), posterior.kl().item()), rel=1e-3)
    assert row["gradient_norm"] == pytest.approx(norm, rel=1e-3)


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
