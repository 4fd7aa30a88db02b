"""A training from a stream of tars by the real script: stopped and resumed it equals an undisturbed one."""

import json
from pathlib import Path

import pytest
import yaml
from common import assert_all_equal
from corpora import encode, write_tar
from launch import check_script, run_script
from safetensors.torch import load_file
from tiny_training import AUTOENCODER

pytest.importorskip("webdataset")


def arguments(folder: Path, run: str, max_steps: int) -> list:
    return ["--config", folder / "settings.yaml", f"--output_dir={folder / run}", f"--max_steps={max_steps}"]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two tars of three tracks, and the settings of a small autoencoder."""
    for shard in range(2):
        files = {}
        for number in range(3):
            row = json.dumps({"genre": "x", "split": "valid" if number == 2 else "train"}).encode()
            files |= {f"{number}.json": row, f"{number}.wav": encode(3 * shard + number, "wav")}
        write_tar(tmp_path / f"{shard}.tar", files)
    settings = {"manifest": f"stream:{tmp_path}/{{0..1}}.tar", "batch_size": 2}
    settings |= {key: AUTOENCODER[key] for key in ("model", "discriminator", "fft_sizes", "crop_num_samples")}
    settings |= {"save_every": 3, "validate_every": 6, "num_workers": 2, "num_validation_crops": 2, "num_samples": 0}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


@pytest.mark.slow
def test_a_resumed_run_equals_an_undisturbed_one(folder):
    check_script("train_autoencoder.py", *arguments(folder, "whole", 6))
    check_script("train_autoencoder.py", *arguments(folder, "resumed", 3))
    check_script("train_autoencoder.py", *arguments(folder, "resumed", 6))
    name = "checkpoint-00000006/model.safetensors"
    whole, resumed = (load_file(folder / run / name) for run in ("whole", "resumed"))
    assert_all_equal(list(resumed.values()), list(whole.values()))
    finished = run_script("train_autoencoder.py", *arguments(folder, "resumed", 9), "--num_workers=1")
    assert finished.returncode == 2


@pytest.mark.slow
def test_a_lost_shard_stops_with_one_line_or_is_allowed(folder):
    (folder / "1.tar").unlink()
    finished = run_script("train_autoencoder.py", *arguments(folder, "strict", 2))
    assert finished.returncode == 2
    assert "1 of 2 shards cannot be used" in finished.stderr.splitlines()[-1]
    check_script("train_autoencoder.py", *arguments(folder, "lenient", 2), "--max_bad_fraction=0.5")
