"""The real script: the notes come through after a few steps, a resumed run equals an undisturbed one, bad settings."""

import json
import sys

import pytest
import torch
import yaml
from common import assert_all_equal
from launch import ROOT, check_script, run_script
from safetensors.torch import load_file
from tiny_training import AUTOENCODER

from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck

sys.path.insert(0, str(ROOT / "training"))
from train_linear_start import Config, LinearAutoencoder, initialize, learning_rate, relative_error  # noqa: E402

SETTINGS = {
    "model": {**AUTOENCODER["model"], "downsampling_ratios": [2, 2], "channel_multiples": [1, 2]},
    "crop_num_samples": 4096,
    "edge_num_samples": 64,
    "learning_rate": 3e-3,
    "warmup_steps": 5,
    "num_workers": 0,
    "validate_every": 40,
    "num_validation_crops": 2,
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


@pytest.fixture
def network(make_audio):
    """A fresh network, initialised, and the waveform that scaled it."""
    torch.manual_seed(0)
    network = LinearAutoencoder(AutoencoderOobleck(**SETTINGS["model"]))
    waveform = torch.stack([make_audio(4096, seed=seed) for seed in range(3)])
    initialize(network, waveform)
    return network, waveform


def test_the_waveform_comes_through(folder):
    """With as many latents as samples nearly all of it; the other weights stay what they were."""
    check_script("train_linear_start.py", *arguments(folder, "run", 80))
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").open()]
    snr = [row["valid/snr"] for row in rows if "valid/snr" in row]
    assert snr[1] > snr[0] and snr[1] > 8
    vae = AutoencoderOobleck.from_pretrained(folder / "run" / "autoencoder")
    fresh = LinearAutoencoder(AutoencoderOobleck(**SETTINGS["model"])).vae.state_dict()
    for name, value in vae.state_dict().items():
        if "res_unit" in name and name.endswith(("conv2.weight_g", "conv2.bias")) or name.endswith("beta"):
            assert not value.any(), name
        elif name.endswith("alpha"):
            assert (value == -2).all(), name
        assert value.shape == fresh[name].shape
    stage = json.loads((folder / "run" / "autoencoder" / "stage.json").read_text())
    assert (stage["stage"], stage["step"]) == ("linear start", 80)


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
        ("--edge_num_samples=2048", "edge_num_samples must be at least 0"),
        ("--final_rate=2", r"final_rate must be in [0, 1], got 2.0"),
    ],
)
def test_wrong_settings_end_in_one_line(folder, option, message):
    finished = run_script("train_linear_start.py", *arguments(folder, "wrong", 1, option))
    assert finished.returncode == 2 and message in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1 and not (folder / "wrong").exists()


@torch.no_grad()
def test_the_first_network_is_linear_and_scaled(network):
    network, waveform = network
    decoded, posterior = network(waveform)
    assert posterior.mean.std().item() == pytest.approx(1, rel=0.5)  # with the scales it is 1
    assert posterior.std.mean().item() == pytest.approx(0.1, rel=0.2)
    assert decoded.std().item() == pytest.approx(waveform.std().item(), rel=1e-3)
    torch.testing.assert_close(network(2 * waveform - waveform.flip(0))[0], 2 * decoded - decoded.flip(0))


@torch.no_grad()
def test_residual_units_begin_as_the_identity_and_snakes_nearly_so(network):
    network, waveform = network
    hidden = torch.randn(1, 4, 50)
    assert torch.equal(network.vae.encoder.block[0].res_unit2(hidden), hidden)
    bent = network.vae.encoder.block[0].snake1(hidden)
    assert (bent - hidden).abs().max() < torch.e**-4 * hidden.square().max()
    decoded, whole = network(waveform)[0], network.vae(waveform).sample
    assert (whole - decoded).square().mean() < 0.2 * decoded.square().mean()


def test_only_the_convolutions_outside_residual_units_are_trained(network):
    network, waveform = network
    decoded, posterior = network(waveform, torch.Generator().manual_seed(0))
    (relative_error(decoded, waveform, 64) + posterior.kl()).backward()
    for name, parameter in network.vae.named_parameters():
        is_trained = "res_unit" not in name and "snake" not in name
        assert (parameter.grad is not None) == is_trained, name
    assert sum(p.numel() for p in network.trained_parameters()) == sum(
        p.numel() for p in network.vae.parameters() if p.grad is not None
    )


def test_error_of_gains_and_of_ends():
    waveform = torch.randn(2, 2, 100)
    for gain in (0.0, 0.5, 1.0, -1.0):
        assert relative_error(gain * waveform, waveform, 10).item() == pytest.approx((1 - gain) ** 2)
    wrong_ends = waveform.clone()
    wrong_ends[..., :10] = wrong_ends[..., -10:] = 5
    assert relative_error(wrong_ends, waveform, 10) == 0
    assert relative_error(torch.zeros(1, 2, 100), torch.zeros(1, 2, 100), 0) == 0


def test_learning_rate_warms_up_and_falls():
    config = Config("m", "o", max_steps=1000)
    rates = [learning_rate(config, step) for step in range(1000)]
    assert rates[0] == pytest.approx(2e-5) and rates[24] == pytest.approx(5e-4)
    assert rates[49:501] == pytest.approx([1e-3] * 452)
    assert rates[750] == pytest.approx(0.51e-3) and rates[999] == pytest.approx(2.196e-5)
