"""The transformer trained on music that is encoded meanwhile, by the real script; which settings go together."""

import json
import shutil

import pytest
import yaml
from common import assert_all_equal
from launch import check_script, run_script
from safetensors.torch import load_file
from tiny_training import DIT


def test_two_steps_and_two_more_equal_four(tmp_path, tiny_manifest, autoencoder, clap):
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(DIT))
    data = ["--manifest", tiny_manifest, "--autoencoder", autoencoder, "--clap", clap]

    def train(name: str, max_steps: int) -> None:
        check_script("train_dit.py", "--config", tmp_path / "settings.yaml", *data, "--output_dir", tmp_path / name,
                     "--max_steps", max_steps)  # fmt: skip

    train("whole", 4)
    train("resumed", 2)
    shutil.rmtree(tmp_path / "resumed" / "dit")
    train("resumed", 4)
    whole, resumed = (load_file(tmp_path / name / "checkpoint-00000004" / "model.safetensors")
                      for name in ("whole", "resumed"))  # fmt: skip
    assert_all_equal(list(resumed.values()), list(whole.values()))
    stage = json.loads((tmp_path / "resumed" / "dit" / "stage.json").read_text())
    assert all(len(sha256) == 64 for sha256 in stage["sources"]["autoencoder"]["sha256"].values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give either --latents, or --manifest"),
        (["--latents=a", "--manifest=b"], "Give either --latents, or --manifest"),
        (["--manifest=b"], "--manifest needs --autoencoder"),
        (["--manifest=b", "--autoencoder=c", "--excerpt_probability=0.5"], "excerpt_probability=0.5 needs --latents"),
        (["--manifest=b", "--autoencoder=c", "--balance_silence=true"], "balance_silence=True needs --latents"),
        (["--latents=a", "--demo_every=5"], "demo_every needs --autoencoder"),
        (
            ["--latents=a", "--num_validation_windows=0"],
            "num_validation_windows must be a whole number in [1, 65536], got 0",
        ),
    ],
)
def test_what_is_refused(tmp_path, arguments, message):
    finished = run_script("train_dit.py", "--clap=clap", "--output_dir", tmp_path / "run", *arguments)
    assert finished.returncode == 2 and message in finished.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()
