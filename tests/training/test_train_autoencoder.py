"""The real script: 4 steps at once equal 2, a stop and 2 more; both networks train; wrong settings end in one line."""

import json
import math

import pytest
import soundfile
import torch
import yaml
from common import assert_all_equal, randomize_weights
from launch import check_script, run_script
from safetensors.torch import load_file
from tiny_training import AUTOENCODER

from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck

WEIGHTS = "diffusion_pytorch_model.safetensors"
SETTINGS = AUTOENCODER


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_manifest):
    """Holds the settings and the runs."""
    folder = tmp_path_factory.mktemp("autoencoder")
    (folder / "settings.yaml").write_text(yaml.safe_dump({"manifest": str(tiny_manifest), **SETTINGS}))
    return folder


def arguments(folder, run, max_steps):
    return ["--config", folder / "settings.yaml", f"--output_dir={folder / run}", f"--max_steps={max_steps}"]


@pytest.fixture(scope="module")
def runs(folder):
    """The folders of a run of four steps and of one of two, resumed."""
    check_script("train_autoencoder.py", *arguments(folder, "whole", 4))
    check_script("train_autoencoder.py", *arguments(folder, "resumed", 2))
    torch.save(load_file(folder / "resumed" / "checkpoint-00000002" / "model.safetensors"), folder / "after_two.pt")
    check_script("train_autoencoder.py", *arguments(folder, "resumed", 4))
    return folder / "whole", folder / "resumed"


@pytest.mark.parametrize(
    "name",
    [
        f"autoencoder/{WEIGHTS}",
        "checkpoint-00000004/model.safetensors",
        "checkpoint-00000004/model_1.safetensors",
    ],
)
def test_a_resumed_run_equals_an_undisturbed_one(runs, name):
    whole, resumed = (load_file(run / name) for run in runs)
    assert list(whole) == list(resumed)
    assert_all_equal(list(resumed.values()), list(whole.values()))


def test_metrics_are_the_same_and_finite(runs):
    whole, resumed = ((run / "metrics.jsonl").read_text().splitlines() for run in runs)
    rows = [json.loads(line) for line in whole]
    assert [row for row in rows if "valid/l1" not in row] == [json.loads(s) for s in resumed if "valid/l1" not in s]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    names = {row["step"]: set(row) - {"step"} for row in rows if "valid/l1" not in row}
    of_steps = {"gradient_norm", "learning_rate", "skipped_steps"}
    spectral = {"mid", "side", "left", "right", "kl", "l1"} | of_steps
    judged = spectral | {"adversarial", "feature_matching"}
    assert names == {
        1: spectral,
        2: {"discriminator"} | of_steps,
        3: judged,
        4: {"discriminator"} | of_steps,
    }
    assert [row["step"] for row in rows if "valid/l1" in row] == [2, 4]
    measured = {"stft_distance", "mel_distance", "si_sdr", "joint_si_sdr", "chroma_agreement", "partial_share"}
    assert {f"valid/{name}" for name in measured | {"reference_partial_share", "kl", "mid", "l1"}} < set(rows[-1])


def test_both_networks_have_moved_in_their_own_steps(runs, folder):
    """Step 3 trains the autoencoder; the model in the checkpoint is the raw one, the exported one the average."""
    before = torch.load(folder / "after_two.pt")
    after = load_file(runs[0] / "checkpoint-00000004" / "model.safetensors")
    average = load_file(runs[0] / "autoencoder" / WEIGHTS)
    assert all(not torch.equal(before[name], after[name]) for name in before if name.endswith("weight_v"))
    assert any(not torch.equal(average[name], after[name]) for name in after)
    first, second = (load_file(runs[0] / f"checkpoint-{n:08d}" / "model_1.safetensors") for n in (2, 4))
    assert all(not torch.equal(first[name], second[name]) for name in first if name.endswith("weight_v"))


def test_exported_autoencoder_opens(runs, make_audio):
    model = AutoencoderOobleck.from_pretrained(runs[0] / "autoencoder")
    assert model.config.decoder_input_channels == 4
    assert torch.isfinite(model(make_audio(5000)[None]).sample).all()
    left = {path.name for path in runs[0].iterdir()}
    checkpoints = {"checkpoint-00000002", "checkpoint-00000004"}
    files = {"config.yaml", "run.json", "run.lock", "metrics.jsonl"}
    assert left == {"autoencoder", "discriminator"} | files | checkpoints


def test_a_decoder_only_stage_leaves_the_encoder_as_it_was(runs, folder):
    """From given weights, with the encoder frozen from the start; reconstructions can be heard and seen."""
    more = [f"--init_from={runs[0] / 'autoencoder'}", "--encoder_freeze_step=0", "--num_samples=1", "--warmup=0"]
    check_script("train_autoencoder.py", *arguments(folder, "more", 1), *more, "--validation_duration_in_s=0.5")
    before, after = (load_file(run / "autoencoder" / WEIGHTS) for run in (runs[0], folder / "more"))
    for name in before:
        assert torch.equal(before[name], after[name]) == name.startswith("encoder."), name
    samples = {path.name: path for path in (folder / "more" / "samples" / "step-00000001").iterdir()}
    assert set(samples) == {"0-original.flac", "0-reconstruction.flac", "0.png"}
    assert soundfile.info(samples["0-reconstruction.flac"]).duration == pytest.approx(0.5, abs=0.05)
    stage = json.loads((folder / "more" / "autoencoder" / "stage.json").read_text())
    assert (stage["stage"], stage["step"]) == ("autoencoder", 1)
    assert stage["sources"]["init_from"]["stage"]["step"] == 4


def test_wrong_settings_end_in_one_line(folder):
    finished = run_script("train_autoencoder.py", *arguments(folder, "wrong", 1), "--crop_num_samples=5000")
    assert finished.returncode == 2
    assert finished.stdout == ""
    (line,) = finished.stderr.strip().splitlines()
    assert line.startswith("error: crop_num_samples must be a multiple of 2048")
    assert not (folder / "wrong").exists()


def test_defaults_are_the_paper():
    printed = check_script("train_autoencoder.py", "--manifest=m", "--output_dir=o", "--print_config").stdout
    config = yaml.safe_load(printed)
    assert (config["learning_rate"], config["discriminator_learning_rate"]) == (1.5e-4, 3e-4)
    assert (config["betas"], config["weight_decay"]) == ([0.8, 0.99], 1e-3)
    assert (config["inv_gamma"], config["warmup"], config["decay_start"]) == (200_000, 0.999, 1.0)
    assert config["crop_num_samples"] == 65536
    assert config["fft_sizes"] == [2048, 1024, 512, 256, 128, 64, 32]
    weights = {"mid": 1, "side": 1, "left": 0.5, "right": 0.5, "kl": 1e-4, "adversarial": 0.1, "feature_matching": 5}
    assert config["loss_weights"] == weights | {"l1": 0, "complex_stft": 0}
    assert config["is_a_weighted"] and config["max_grad_norm"] is None


# What the settings do to the weights


@pytest.fixture(scope="module")
def initial(folder):
    """The folder of an autoencoder in which every weight counts, and its weights."""
    torch.manual_seed(1)
    model = randomize_weights(AutoencoderOobleck(**SETTINGS["model"]), std=0.1)
    model.save_pretrained(folder / "initial")
    return folder / "initial", model.state_dict()


@pytest.fixture
def changes(folder, initial):
    """A function that trains one step from `initial` and returns by how much each weight has changed."""

    def train(name: str, *options: str) -> dict[str, torch.Tensor]:
        fixed = ["--weight_decay=0", "--warmup=0", "--mixed_precision=no", "--discriminator_start_step=99"]
        more = [f"--init_from={initial[0]}", *fixed, *options]
        check_script("train_autoencoder.py", *arguments(folder, name, 1), *more)
        after = load_file(folder / name / "checkpoint-00000001" / "model.safetensors")
        return {key: value - initial[1][key] for key, value in after.items()}

    return train


@pytest.mark.parametrize("options, factor", [(["--warmup=0.75"], 0.25), (["--learning_rate=1e-4"], 0.1)])
def test_the_rate_of_the_law_is_the_one_that_is_applied(changes, folder, options, factor):
    """The first step of Adam moves each weight by the rate, up or down, whatever the gradient."""
    name = f"rate-{factor}"
    moved = torch.cat([change.abs().flatten() for change in changes(name, *options).values()])
    assert moved.median().item() == pytest.approx(1e-3 * factor, rel=1e-2)
    (row,) = [row for row in map(json.loads, (folder / name / "metrics.jsonl").open()) if "learning_rate" in row]
    assert row["learning_rate"] == pytest.approx(1e-3 * factor)


def test_a_loss_of_weight_0_trains_nothing(changes):
    """With the KL loss alone the decoder stays what it was."""
    off = [f"--loss_weights.{name}=0" for name in ("mid", "side", "left", "right")]
    moved = changes("kl", *off)
    for name, change in moved.items():
        assert bool(change.any()) == name.startswith("encoder."), name


def test_the_rates_fall_at_the_end(folder):
    """Each network's by its own law, both by the share of all steps."""
    laws = ["--warmup=0", "--inv_gamma=1e9", "--decay_start=0.25", "--final_rate=0.1", "--discriminator_start_step=0"]
    check_script("train_autoencoder.py", *arguments(folder, "falling", 4), *laws, "--validate_every=100")
    rows = [row for row in map(json.loads, (folder / "falling" / "metrics.jsonl").open()) if "learning_rate" in row]
    factors = [row["learning_rate"] / (3e-4 if row["step"] % 2 == 0 else 1e-3) for row in rows]
    assert factors == pytest.approx([1.0, 1.0, 0.7, 0.4])


def test_the_average_follows_its_law(folder):
    """The first two updates take the weights as they are, the third has a decay of 1 − 2^(−3/4)."""
    alone = ["--discriminator_start_step=99", "--save_every=1", "--validate_every=100", "--warmup=0"]
    check_script("train_autoencoder.py", *arguments(folder, "average", 3), *alone)
    second, third = (load_file(folder / "average" / f"checkpoint-{step:08d}" / "model.safetensors") for step in (2, 3))
    decay = 1 - 2**-0.75
    for name, value in load_file(folder / "average" / "autoencoder" / WEIGHTS).items():
        torch.testing.assert_close(value, decay * second[name] + (1 - decay) * third[name], rtol=1e-4, atol=1e-6)
    assert any(not torch.equal(second[name], third[name]) for name in second)
