"""Fine-tuning by the real scripts: encode_latents, train_dit_lora (resumed), and the example that plays the result."""

import json
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from common import relative_error
from launch import ROOT, check_script, run_script
from safetensors.torch import load_file
from tiny_pipeline import generate, tiny_pipeline

WEIGHTS = "pytorch_lora_weights.safetensors"
SETTINGS = {
    "rank": 4,
    "alpha": 8,
    "batch_size": 2,
    "learning_rate": 1e-2,
    "warmup_steps": 2,
    "num_workers": 0,
    "log_every": 1,
    "max_steps": 12,
    "save_every": 3,
    "validate_every": 4,
    "num_validation_windows": 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_manifest):
    """Holds a checkpoint of random weights and latents of its autoencoder."""
    folder = tmp_path_factory.mktemp("lora")
    tiny_pipeline(mask_text_padding=True).save_pretrained(folder / "checkpoint")
    check_script("encode_latents.py", "--manifest", tiny_manifest, "--autoencoder", folder / "checkpoint" / "vae",
                 "--output_dir", folder / "latents", "--dtype=bfloat16")  # fmt: skip
    (folder / "lora.yaml").write_text(yaml.safe_dump(SETTINGS))
    return folder


def command(folder: Path, name: str, *changes: object) -> list:
    """The command of a training; later options win."""
    paths = ("--checkpoint", folder / "checkpoint", "--latents", folder / "latents", "--output_dir", folder / name)
    return ["train_dit_lora.py", "--config", folder / "lora.yaml", *paths, *changes]


@pytest.fixture(scope="module")
def trained(folder):
    """Twelve steps at once."""
    check_script(*command(folder, "whole"))
    return folder / "whole"


def test_loss_falls(trained):
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    losses = [row["valid/loss"] for row in rows if "valid/loss" in row]  # always the same windows, noise and times
    assert len(losses) == 3 and losses[2] < losses[1] < losses[0]


def test_six_steps_and_six_more_equal_twelve(folder, trained):
    parts = folder / "parts"
    check_script(*command(folder, "parts", "--max_steps=6"))
    check_script(*command(folder, "parts"))
    one, other = (load_file(run / "lora" / WEIGHTS) for run in (trained, parts))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    files = {file.name for file in (parts / "checkpoint-00000012").iterdir()}
    assert "optimizer.bin" in files and not any(name.startswith("model") for name in files)  # the base is not copied


def test_shorter_windows_give_another_adapter_of_the_same_shape(folder, trained):
    check_script(*command(folder, "short", f"--window_in_s={tiny_pipeline().max_duration_in_s / 2}", "--max_steps=1"))
    one, other = (load_file(run / "lora" / WEIGHTS) for run in (trained, folder / "short"))
    assert {key: value.shape for key, value in one.items()} == {key: value.shape for key, value in other.items()}


def test_adapter_opens_in_the_pipeline(folder, trained):
    pipe = tiny_pipeline(mask_text_padding=True)
    before = generate(pipe, output_type="latent")
    pipe.load_lora_weights(trained / "lora")
    assert pipe.transformer.peft_config["default_0"].lora_alpha == 8
    assert relative_error(generate(pipe, output_type="latent"), before) > 0.01
    pipe.unload_lora_weights()
    assert torch.equal(generate(pipe, output_type="latent"), before)


def test_example_writes_before_and_after(folder, trained):
    finished = check_script(
        ROOT / "examples" / "lora_before_after.py", "--lora", trained / "lora", "--checkpoint", folder / "checkpoint",
        "--duration", "0.1", "--num_inference_steps", "2", "--output_dir", folder / "audio",
    )  # fmt: skip
    before, after = (soundfile.read(folder / "audio" / f"{name}.wav")[0] for name in ("before", "after"))
    assert before.shape == after.shape == (800, 2) and abs(before - after).max() > 1e-3
    assert "of their norm" in finished.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--rank=0", "rank must be a whole number in [1, 65536], got 0"),
        ("--target_modules=[to_x]", "no linear layer whose name ends in 'to_x'"),
        ("--latents=nowhere", "nowhere is not a folder of latents"),
    ],
)
def test_wrong_settings(folder, change, message):
    finished = run_script(*command(folder, "wrong", change))
    assert finished.returncode == 2 and message in finished.stderr.splitlines()[-1]
    assert not (folder / "wrong").exists()


def test_latents_of_another_autoencoder_are_refused(folder):
    other = tiny_pipeline()
    other.vae.encoder.conv2.weight_g.data *= 2
    other.save_pretrained(folder / "other")
    finished = run_script(*command(folder, "wrong", "--checkpoint", folder / "other"))
    assert finished.returncode == 2 and "latents of another autoencoder" in finished.stderr
