"""Every script stops in good order, after a signal or when `--max_minutes` are over, and the same command goes on."""

import json
import os
import signal
import tarfile
import time
from pathlib import Path

import pytest
from common import assert_all_equal
from launch import RunningScript, check_processes, check_script, process_environments, run_script
from safetensors.torch import load_file

AT_ONCE = "--max_minutes=1e-6"
EXPORTS = {
    "train_linear_start.py": "autoencoder/diffusion_pytorch_model.safetensors",
    "train_autoencoder.py": "autoencoder/diffusion_pytorch_model.safetensors",
    "train_clap.py": "clap/model.safetensors",
    "train_dit.py": "dit/transformer/diffusion_pytorch_model.safetensors",
    "train_dit_lora.py": "lora/pytorch_lora_weights.safetensors",
}
SIGNALS = dict(zip(EXPORTS, [signal.SIGTERM, signal.SIGUSR1] * 3, strict=False))


def wait_for_lock(script: RunningScript, run: Path) -> None:
    """Returns when a script has locked its folder; from then on signals end it in good order."""
    while script.process.is_alive():
        lock = run / "run.lock"
        if lock.exists() and f'"pid": {script.process.pid},' in lock.read_text():
            return
        time.sleep(0.01)
    raise AssertionError(script.wait().stderr[-3000:])


def checkpoints(run: Path) -> list[int]:
    """The steps of a run's checkpoints."""
    return sorted(int(path.name[-8:]) for path in run.glob("checkpoint-*"))


@pytest.mark.parametrize("script", EXPORTS)
def test_a_training_stops_in_good_order_and_goes_on(script, training_command, tmp_path):
    """The signal goes to the whole process group, loader and all. What comes of it is the same bit for bit."""
    start, run = training_command(script), tmp_path / "run"
    running = RunningScript(*start, run, "--num_workers=1")
    wait_for_lock(running, run)
    os.killpg(running.process.pid, SIGNALS[script])
    finished = running.wait()
    assert finished.returncode == 75 and "Traceback" not in finished.stderr
    assert f"Stopping because of {SIGNALS[script].name}; to continue" in finished.stderr
    assert checkpoints(run) == [1] and not (run / EXPORTS[script]).exists()

    finished = check_script(*start, run, AT_ONCE)
    assert "minutes are over" in finished.stderr and checkpoints(run) == [1, 2]
    second = load_file(run / EXPORTS[script])
    check_script(*start, run)
    check_script(*start, tmp_path / "whole")
    weights, expected = (load_file(tmp_path / name / EXPORTS[script]) for name in ("run", "whole"))
    assert_all_equal(list(weights.values()), list(expected.values()))
    assert any((weights[name] != second[name]).any() for name in second)
    rows, expected = (
        [row for row in map(json.loads, (tmp_path / name / "metrics.jsonl").open()) if "learning_rate" in row]
        for name in ("run", "whole")
    )
    assert rows == expected and [row["step"] for row in rows] == [1, 2, 3]


def test_processes_stop_after_the_same_step(training_command, tmp_path):
    """After a signal to one of them, and when the time is over."""
    start, run = [*training_command("train_dit.py"), tmp_path / "run"], tmp_path / "run"
    second, first = (
        RunningScript(*start, environment=environment) for environment in reversed(process_environments(2))
    )
    wait_for_lock(first, run)
    os.kill(second.process.pid, signal.SIGTERM)
    assert [script.wait().returncode for script in (first, second)] == [75, 75]
    assert "Stopping because of a signal in another process" in first.output()
    assert checkpoints(run) == [1]
    check_processes(2, *start, AT_ONCE)
    assert checkpoints(run) == [1, 2]


def test_encoding_goes_on_where_it_stopped(tmp_path, tiny_manifest, autoencoder):
    start = ["encode_latents.py", "--manifest", tiny_manifest, "--autoencoder", autoencoder, "--output_dir", tmp_path]
    finished = check_script(*start, AT_ONCE)
    assert "minutes are over" in finished.stderr and (tmp_path / "index.jsonl").read_text() == ""
    check_script(*start)
    rows = [json.loads(line) for line in (tmp_path / "index.jsonl").read_text().splitlines()]
    assert [row["split"] for row in rows] == ["valid"] + ["train"] * 4


CRASHING = """
import sys
from stable_longform.data.audio_crops import CropMaker
from stable_longform.data.sources import open_source

def main():
    items = open_source(sys.argv[1], "train").items(CropMaker(1000, 44100))
    batches = iter(items.make_loader([[0]] * 5, 1, 1, list))
    next(batches)
    raise RuntimeError("out of memory")

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("prefix", ["", "stream:"])
def test_a_crash_is_the_end_of_the_workers_too(tmp_path, tiny_manifest, prefix):
    """They ignore the signal by which `multiprocessing` ends them before it waits for them."""
    shard = tmp_path / "shard.tar"
    with tarfile.open(shard, "w") as tar:
        for name in ("dawn.wav", "noon.ogg"):
            tar.add(tiny_manifest.parent / name, f"train/{name}")
    script = tmp_path / "crashing.py"
    script.write_text(CRASHING)
    finished = run_script(script, f"{prefix}{shard}" if prefix else tiny_manifest)
    assert finished.returncode == 1 and finished.stderr.endswith("RuntimeError: out of memory\n")
