"""Every script with `--max_minutes`: it saves, exports and ends; the same command goes on, and nothing is changed."""

import json

import pytest
import yaml
from common import assert_all_equal
from launch import check_processes, check_script
from safetensors.torch import load_file
from tiny_pipeline import tiny_pipeline
from tiny_training import AUTOENCODER, CLAP, DIT

AT_ONCE = "--max_minutes=1e-6"
FEW = {"max_steps": 2, "save_every": 100, "validate_every": 100}
EXPORTS = {
    "train_linear_start.py": "autoencoder/diffusion_pytorch_model.safetensors",
    "train_autoencoder.py": "autoencoder/diffusion_pytorch_model.safetensors",
    "train_clap.py": "clap/model.safetensors",
    "train_dit.py": "dit/transformer/diffusion_pytorch_model.safetensors",
    "train_dit_lora.py": "lora/pytorch_lora_weights.safetensors",
}


@pytest.fixture
def command(tmp_path, tiny_manifest, autoencoder, clap, latents):
    """A function from a script to the command that trains it for two steps, but for the output folder."""

    def settings_of(script: str) -> dict:
        if script == "train_linear_start.py":
            settings = {name: AUTOENCODER[name] for name in ("model", "crop_num_samples", "num_validation_crops")}
            return settings | {"manifest": str(tiny_manifest), "edge_num_samples": 64, "num_workers": 0}
        if script == "train_autoencoder.py":
            return AUTOENCODER | {"manifest": str(tiny_manifest), "discriminator_start_step": 5}
        if script == "train_clap.py":
            return CLAP | {"manifest": str(tiny_manifest), "num_validation_pairs": 2}
        if script == "train_dit.py":
            return DIT | {"latents": str(latents), "clap": str(clap)}
        tiny_pipeline(mask_text_padding=True).save_pretrained(tmp_path / "checkpoint")
        vae = tmp_path / "checkpoint" / "vae"
        check_script("encode_latents.py", "--manifest", tiny_manifest, "--autoencoder", vae,
                     "--output_dir", tmp_path / "latents")  # fmt: skip
        paths = {"checkpoint": str(tmp_path / "checkpoint"), "latents": str(tmp_path / "latents")}
        return {"batch_size": 2, "num_workers": 0, "num_validation_windows": 2, "learning_rate": 1e-2, **paths}

    def make(script: str) -> list:
        (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings_of(script) | FEW))
        return [script, "--config", tmp_path / "settings.yaml", "--output_dir"]

    return make


@pytest.mark.parametrize("script", EXPORTS)
def test_a_training_stops_in_good_order_and_goes_on(script, command, tmp_path):
    start = command(script)
    finished = check_script(*start, tmp_path / "run", AT_ONCE)
    assert "minutes are over" in finished.stderr
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-00000001"]
    first = load_file(tmp_path / "run" / EXPORTS[script])
    check_script(*start, tmp_path / "run", AT_ONCE)
    check_script(*start, tmp_path / "whole")
    weights, expected = (load_file(tmp_path / name / EXPORTS[script]) for name in ("run", "whole"))
    assert_all_equal(list(weights.values()), list(expected.values()))
    assert any((weights[name] != first[name]).any() for name in first)


def test_processes_stop_after_the_same_step(command, tmp_path):
    start = command("train_dit.py")
    check_processes(2, *start, tmp_path / "run", AT_ONCE)
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-00000001"]


def test_encoding_goes_on_where_it_stopped(tmp_path, tiny_manifest, autoencoder):
    start = ["encode_latents.py", "--manifest", tiny_manifest, "--autoencoder", autoencoder, "--output_dir", tmp_path]
    finished = check_script(*start, AT_ONCE)
    assert "minutes are over" in finished.stderr and (tmp_path / "index.jsonl").read_text() == ""
    check_script(*start)
    rows = [json.loads(line) for line in (tmp_path / "index.jsonl").read_text().splitlines()]
    assert [row["split"] for row in rows] == ["valid"] + ["train"] * 4
