"""Several processes (gloo on the CPU) train what one does with the same items in a step; so do micro-batches."""

import json
from pathlib import Path

import pytest
import yaml
from launch import check_processes, check_script, run_script
from safetensors.torch import load_file
from tiny_training import AUTOENCODER, CLAP, DIT

# What `accelerate launch --config_file training/configs/accelerate/fsdp2.yaml` sets.
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "DiTBlock",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
}


def rows(run: Path) -> list[dict]:
    """The metrics of a run."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_close(run: Path, other: Path, tolerance: float, is_validation: bool | None = None) -> None:
    """Compares the metrics of two runs step by step, or only those of validations, or only the others."""
    chosen = [
        [row for row in rows(folder) if is_validation in (None, any(name.startswith("valid/") for name in row))]
        for folder in (run, other)
    ]
    assert [list(row) for row in chosen[0]] == [list(row) for row in chosen[1]] != []
    for row, expected in zip(*chosen, strict=True):
        assert row == pytest.approx(expected, rel=tolerance, abs=tolerance)


def assert_close_weights(run: Path, other: Path, file: str, tolerance: float) -> None:
    """Compares weights, relative to the largest of each tensor."""
    weights, expected = load_file(run / file), load_file(other / file)
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (weights[name] - tensor).abs().max() <= tolerance * max(tensor.abs().max().item(), 1e-3), name


def test_transformer(tmp_path, latents, clap, autoencoder):
    settings = DIT | {"mixed_precision": "no", "max_steps": 4, "latents": str(latents), "clap": str(clap)}
    settings |= {"demo_every": 2, "demo_steps": 1, "demo_duration_in_s": 1, "num_demos": 1}
    settings |= {"autoencoder": str(autoencoder)}
    (tmp_path / "dit.yaml").write_text(yaml.safe_dump(settings))

    def arguments(name: str, *more: object) -> list:
        return ["train_dit.py", "--config", tmp_path / "dit.yaml", "--output_dir", tmp_path / name, *more]

    check_script(*arguments("one"))
    check_script(*arguments("micro"), "--batch_size=1", "--gradient_accumulation_steps=2")
    finished = check_processes(2, *arguments("two"), "--batch_size=1", "--max_steps=2")
    assert len(finished) == 2
    whole = load_file(tmp_path / "two" / "checkpoint-00000002" / "model.safetensors")
    assert not any(name.startswith("module.") for name in whole)
    check_script(*arguments("two"), "--batch_size=2")  # goes on with one process
    for name in ("micro", "two"):
        assert_close(tmp_path / name, tmp_path / "one", 1e-4, is_validation=False)
        assert_close_weights(tmp_path / name, tmp_path / "one", "checkpoint-00000004/model.safetensors", 1e-3)
    validations = [row for row in rows(tmp_path / "two") if "valid/loss" in row]
    assert [row["step"] for row in validations] == [2, 4]  # at the end of each part
    expected = [row for row in rows(tmp_path / "one") if "valid/loss" in row][-1]
    assert validations[-1] == pytest.approx(expected, rel=1e-3)
    assert {name for name in expected if name.startswith("valid/loss_t0")} == {
        "valid/loss_t0.00-0.50", "valid/loss_t0.50-1.00",
    }  # fmt: skip


def test_sharded_transformer(tmp_path, latents, clap):
    """FSDP2: ten steps of two processes, stopped in between, are those of one; without FSDP it does not go on."""
    settings = DIT | {"mixed_precision": "no", "max_steps": 10, "save_every": 5, "validate_every": 10}
    settings |= {"latents": str(latents), "clap": str(clap), "max_grad_norm": 0.5}
    (tmp_path / "dit.yaml").write_text(yaml.safe_dump(settings))
    command = ["train_dit.py", "--config", tmp_path / "dit.yaml", "--output_dir"]
    sharded = [*command, tmp_path / "sharded", "--batch_size=1"]
    check_script(*command, tmp_path / "one")
    check_processes(2, *sharded, "--max_steps=5", environment=FSDP2)
    finished = run_script(*sharded)
    assert finished.returncode == 2
    assert "checkpoint-00000005 was saved with FSDP: continue the same way" in finished.stderr
    check_processes(2, *sharded, environment=FSDP2)
    checkpoint = tmp_path / "sharded" / "checkpoint-00000010"
    assert len(list(checkpoint.glob("pytorch_model_fsdp_0/__?_0.distcp"))) == 2  # a part of each process
    assert_close(tmp_path / "sharded", tmp_path / "one", 1e-3, is_validation=False)
    assert rows(tmp_path / "sharded")[-1] == pytest.approx(rows(tmp_path / "one")[-1], rel=1e-3)
    for part in ("transformer", "timing_conditioner"):
        file = f"dit/{part}/diffusion_pytorch_model.safetensors"
        assert_close_weights(tmp_path / "sharded", tmp_path / "one", file, 1e-2)


@pytest.mark.parametrize(
    "script, environment, message",
    [
        ("train_dit.py", {"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed is not supported: it applies a step before"),
        ("train_dit.py", {"ACCELERATE_USE_FSDP": "true"}, "FSDP needs several processes, got 1"),
        ("train_linear_start.py", {"ACCELERATE_USE_FSDP": "true"}, "trains on several GPUs by DDP only"),
    ],
)
def test_what_cannot_share_out_says_why(training_command, tmp_path, script, environment, message):
    finished = run_script(*training_command(script), tmp_path / "run", environment=environment)
    assert finished.returncode == 2 and message in finished.stderr.splitlines()[-1]


@pytest.mark.slow
def test_autoencoder(tmp_path, tiny_manifest):
    """The spectral convergence has one norm for a micro-batch, as in the paper's code, so those must be the same."""
    settings = AUTOENCODER | {"mixed_precision": "no", "batch_size": 1, "max_steps": 4, "encoder_freeze_step": 3}
    (tmp_path / "ae.yaml").write_text(yaml.safe_dump(settings | {"manifest": str(tiny_manifest)}))
    command = ["train_autoencoder.py", "--config", tmp_path / "ae.yaml", "--output_dir"]
    check_script(*command, tmp_path / "micro", "--gradient_accumulation_steps=2")
    check_processes(2, *command, tmp_path / "two")
    assert_close(tmp_path / "two", tmp_path / "micro", 1e-3)
    for file in ("model.safetensors", "model_1.safetensors"):
        assert_close_weights(tmp_path / "two", tmp_path / "micro", f"checkpoint-00000004/{file}", 1e-3)


@pytest.mark.slow
def test_clap(tmp_path, tiny_manifest):
    """Without dropout, whose draws depend on the process, and with batch norms that see all items."""
    settings = CLAP | {"batch_size": 4, "max_steps": 3, "use_spec_augment": False, "manifest": str(tiny_manifest)}
    settings["text_config"] = CLAP["text_config"] | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    settings["audio_config"] = CLAP["audio_config"] | {"drop_path_rate": 0.0, "enable_fusion": False}
    (tmp_path / "clap.yaml").write_text(yaml.safe_dump(settings))
    command = ["train_clap.py", "--config", tmp_path / "clap.yaml", "--output_dir"]
    check_script(*command, tmp_path / "one")
    check_processes(2, *command, tmp_path / "two", "--batch_size=2")
    assert_close(tmp_path / "two", tmp_path / "one", 1e-3)
