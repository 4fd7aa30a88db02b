"""The real script: 4 steps at once equal 2, a stop and 2 more; both networks train; wrong settings end in one line."""

import dataclasses
import json
import math
import sys

import pytest
import soundfile
import torch
import yaml
from common import assert_all_equal, randomize_weights
from launch import ROOT, check_script, run_script
from safetensors.torch import load_file
from tiny_training import AUTOENCODER

from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.discriminator_stft import MultiScaleSTFTDiscriminator

sys.path.insert(0, str(ROOT / "training"))
from train_autoencoder import (  # noqa: E402
    Config,
    choose_turn,
    discriminator_step_losses,
    generator_step_losses,
    learning_rate,
    weighted_sum,
)

WEIGHTS = "diffusion_pytorch_model.safetensors"
SETTINGS = AUTOENCODER
CONFIG = Config("manifest.jsonl", "run", fft_sizes=(512, 128))


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
    spectral = {"mid", "side", "left", "right", "kl", "l1", "gradient_norm", "learning_rate"}
    judged = spectral | {"adversarial", "feature_matching"}
    assert names == {
        1: spectral,
        2: {"discriminator", "gradient_norm", "learning_rate"},
        3: judged,
        4: {"discriminator", "gradient_norm", "learning_rate"},
    }
    assert [row["step"] for row in rows if "valid/l1" in row] == [2, 4]
    assert {"valid/stft_distance", "valid/mel_distance", "valid/si_sdr"} < set(rows[-1])


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
    assert left == {"autoencoder", "config.yaml", "run.json", "metrics.jsonl"} | checkpoints


def test_a_decoder_only_stage_leaves_the_encoder_as_it_was(runs, folder):
    """From given weights, with the encoder frozen from the start; reconstructions can be heard and seen."""
    more = [f"--init_from={runs[0] / 'autoencoder'}", "--encoder_freeze_step=0", "--num_samples=1", "--warmup=0"]
    check_script("train_autoencoder.py", *arguments(folder, "more", 1), *more, "--sample_duration_in_s=0.5")
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
    config = Config("manifest.jsonl", "run")
    assert (config.learning_rate, config.discriminator_learning_rate, config.betas) == (1.5e-4, 3e-4, (0.8, 0.99))
    assert (config.weight_decay, config.inv_gamma, config.warmup) == (1e-3, 200_000, 0.999)
    assert config.crop_num_samples == 65536
    assert config.fft_sizes == (2048, 1024, 512, 256, 128, 64, 32)
    weights = {"mid": 1, "side": 1, "left": 0.5, "right": 0.5, "kl": 1e-4, "adversarial": 0.1, "feature_matching": 5}
    assert config.loss_weights == weights | {"l1": 0, "complex_stft": 0}
    assert config.is_a_weighted and config.max_grad_norm is None
    assert learning_rate(config, choose_turn(0, 0), 0) == pytest.approx(1.5e-4 * 1e-3)
    last = config.max_steps - 1  # the discriminator's turn
    assert learning_rate(config, choose_turn(last, 0), last) == pytest.approx(3e-4 / (1 + last // 2 / 200_000) ** 0.5)


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


def test_the_rate_falls_linearly_at_the_end():
    config = Config("m", "o", max_steps=100, warmup=0.0, inv_gamma=1e9, decay_start=0.5, final_rate=0.02)
    rates = [learning_rate(config, choose_turn(step, 10**6), step) / config.learning_rate for step in range(100)]
    assert rates[:51] == pytest.approx([1.0] * 51)
    assert rates[75] == pytest.approx(0.51) and rates[99] == pytest.approx(0.02 + 0.98 * 0.02)


# The two steps


@pytest.mark.parametrize("first", [0, 1, 2, 5])
def test_each_network_counts_its_own_steps(first):
    counts = {"autoencoder": 0, "discriminator": 0}
    for step in range(20):
        is_judged, _, own_step = choose_turn(step, first)
        name = "discriminator" if is_judged and step % 2 else "autoencoder"
        assert is_judged == (step >= first) and own_step == counts[name]
        counts[name] += 1
    assert abs(counts["autoencoder"] - first - counts["discriminator"]) <= 1


@pytest.fixture
def networks():
    torch.manual_seed(0)
    return AutoencoderOobleck(**SETTINGS["model"]), MultiScaleSTFTDiscriminator(**SETTINGS["discriminator"])


def test_generator_step_trains_the_generator_only(networks, make_audio):
    model, discriminator = networks
    losses = generator_step_losses(model, discriminator, make_audio(4096)[None], CONFIG)
    losses["adversarial"].backward(retain_graph=True)
    decoder = model.decoder.conv2.weight_v.grad.clone()
    losses["feature_matching"].backward()
    assert decoder.abs().max() > 0 and not torch.equal(model.decoder.conv2.weight_v.grad, decoder)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in discriminator.parameters())


def test_the_decoder_is_trained_on_draws_from_the_posterior(networks, make_audio):
    """Its loss depends on the draw, and asks the encoder for another deviation."""
    model, _ = networks
    waveform = make_audio(4096)[None]
    first, again, other = (
        generator_step_losses(model, None, waveform, CONFIG, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert first["l1"] == again["l1"] != other["l1"]
    first["l1"].backward()
    _, of_scales = model.encoder.conv2.weight_v.grad.chunk(2)
    assert of_scales.abs().max() > 0


def test_each_loss_counts_by_its_weight():
    losses = {name: torch.tensor(float(number)) for number, name in enumerate(CONFIG.loss_weights, 1)}
    weights = {name: 10.0**number for number, name in enumerate(losses)}
    assert float(weighted_sum(losses, weights)) == pytest.approx(987654321)
    assert float(weighted_sum({"discriminator": torch.tensor(3.0)}, weights)) == 3
    with pytest.raises(KeyError):
        weighted_sum({"unknown": torch.tensor(1.0)}, weights)


def test_the_complex_error_is_there_when_it_has_a_weight(networks, make_audio):
    config = dataclasses.replace(CONFIG, loss_weights=CONFIG.loss_weights | {"complex_stft": 4.0})
    model, _ = networks
    waveform = make_audio(8192)[None]
    assert "complex_stft" not in generator_step_losses(model, None, waveform, CONFIG)
    assert generator_step_losses(model, None, waveform, config)["complex_stft"] > 0


def test_discriminator_step_trains_the_discriminator_only(networks, make_audio):
    model, discriminator = networks
    losses = discriminator_step_losses(model, discriminator, make_audio(4096)[None])
    assert set(losses) == {"discriminator"}
    losses["discriminator"].backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.grad is not None for parameter in discriminator.parameters())
    assert 0 < losses["discriminator"].item() < 3 * len(SETTINGS["discriminator"]["fft_sizes"])


def test_losses_are_in_float32_when_the_networks_are_not(networks, make_audio):
    """Under autocast the outputs are in bfloat16, but every loss has the precision of float32."""
    model, discriminator = networks
    with torch.autocast("cpu", torch.bfloat16):
        losses = generator_step_losses(model, discriminator, make_audio(4096)[None], CONFIG)
        losses |= discriminator_step_losses(model, discriminator, make_audio(4096)[None])
        assert discriminator(make_audio(4096)[None])[0][0].dtype == torch.bfloat16
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    rounded = {name: loss.bfloat16().float() for name, loss in losses.items()}
    assert all(loss != rounded[name] for name, loss in losses.items())
