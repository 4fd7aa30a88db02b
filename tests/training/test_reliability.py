"""What can happen to a run: a full disk, `kill -9`, a damaged checkpoint, data that are no numbers.

After each the same command goes on, and the result is bit for bit that of a run to which nothing happened. Processes,
kills and files are real; the autoencoder stands for all scripts, which share this code.
"""

import functools
import json
import os
import platform
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from common import assert_all_equal
from launch import RunningScript, check_script, run_script
from safetensors.torch import load_file, save_file
from tiny_training import AUTOENCODER, DIT

SCRIPT = "train_autoencoder.py"
NUM_STEPS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A corpus of one track for training and one for validation, and the settings."""
    folder = tmp_path_factory.mktemp("reliability")
    rows = []
    for number, split in enumerate(("train", "valid")):
        noise = np.random.default_rng(number).uniform(-0.5, 0.5, (88200, 2))
        soundfile.write(folder / f"{split}.wav", noise, 44100)
        rows.append(json.dumps({"path": f"{split}.wav", "duration_in_s": 2.0, "split": split}))
    (folder / "manifest.jsonl").write_text("\n".join(rows))
    settings = AUTOENCODER | {"manifest": str(folder / "manifest.jsonl"), "validate_every": 4, "max_steps": NUM_STEPS}
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    return folder


def arguments(folder: Path, name: str) -> list:
    """The one command of a run."""
    return [SCRIPT, "--config", folder / "settings.yaml", "--output_dir", folder / name]


@pytest.fixture(scope="module")
def undisturbed(folder) -> Path:
    """A run to which nothing happens."""
    check_script(*arguments(folder, "undisturbed"))
    return folder / "undisturbed"


def assert_same_run(run: Path, other: Path) -> None:
    """Compares weights, optimisers, average, exported model and metrics of two finished runs, bit for bit."""
    last = f"checkpoint-{NUM_STEPS:08d}"
    exported = "autoencoder/diffusion_pytorch_model.safetensors"
    for file in (f"{last}/model.safetensors", f"{last}/model_1.safetensors", exported):
        weights, expected = load_file(run / file), load_file(other / file)
        assert weights.keys() == expected.keys()
        assert_all_equal(list(weights.values()), list(expected.values()))
    for file in ("optimizer.bin", "optimizer_1.bin", "custom_checkpoint_0.pkl"):
        states = [torch.load(folder / last / file, weights_only=False) for folder in (run, other)]
        tensors, expected = (torch.utils._pytree.tree_leaves(state) for state in states)
        assert len(tensors) == len(expected) and all(np.array_equal(*pair) for pair in zip(tensors, expected))  # noqa: B905
    assert (run / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()


def checkpoints(run: Path) -> list[str]:
    """Names of all that looks like a checkpoint."""
    return sorted(path.name for path in run.glob("*checkpoint*"))


def wait_for(script: RunningScript, is_there: Callable[[], bool]) -> None:
    """Returns as soon as a condition holds."""
    while script.process.is_alive():
        if is_there():
            return
        time.sleep(0.002)
    raise AssertionError(script.wait().stderr[-3000:])


def has_step(run: Path, step: int) -> bool:
    """Whether a step is in the metrics."""
    file = run / "metrics.jsonl"
    return file.exists() and f'"step": {step},' in file.read_text()


def test_nothing_is_lost(folder, undisturbed):
    run, command = folder / "disturbed", arguments(folder, "disturbed")

    # The disk is full while the first checkpoint is written.
    finished = run_script(*command, max_file_size=20_000)
    assert finished.returncode == 2
    assert "error: The checkpoint of step 2 could not be written" in finished.stderr.splitlines()[-1]
    assert "Traceback" not in finished.stderr and checkpoints(run) == []

    # Killed while the checkpoint of step 4 is written.
    script = RunningScript(*command)
    wait_for(script, (run / "partial-checkpoint-00000004").exists)
    script.kill()
    assert script.process.exitcode == -9
    newest = max(path for path in run.glob("checkpoint-*"))

    # That left the newest checkpoint cut off: the one before is taken, if there is one, and the user is told.
    (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text() + '{"step": 4, "mi')
    script = RunningScript(*command)
    wait_for(script, lambda: has_step(run, 6))
    script.kill()
    assert "Resumed from" in script.output() and newest.name in script.output()
    if len(list(run.glob("checkpoint-*"))) == 1:  # killed before the second one was complete
        script = RunningScript(*command)
        wait_for(script, lambda: has_step(run, 7))
        script.kill()
    newest = max(path for path in run.glob("checkpoint-*"))
    os.truncate(newest / "model.safetensors", (newest / "model.safetensors").stat().st_size // 2)

    finished = check_script(*command)
    assert f"{newest.name} is damaged: model.safetensors has" in finished.stderr.replace("\n", " ")
    assert f"damaged-{newest.name}" in checkpoints(run)
    assert_same_run(run, undisturbed)
    check_script(*command)  # nothing is left to do, and nothing is done
    assert_same_run(run, undisturbed)


def test_one_run_at_a_time_and_in_another_place(folder, undisturbed):
    """A second run in the folder is refused while the first lives. Then folder and music move, and it goes on."""
    run, command = folder / "first", arguments(folder, "first")
    script = RunningScript(*command, "--max_steps=1000")
    wait_for(script, lambda: (run / "checkpoint-00000002").exists())
    refused = run_script(*command)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert f"first is in use by process {script.process.pid} on {platform.node()}, since 20" in refused.stderr
    script.kill()

    for path in run.glob("checkpoint-*"):  # but for the first
        if path.name > "checkpoint-00000002":
            shutil.rmtree(path)
    moved = folder / "elsewhere"
    moved.mkdir()
    run.rename(moved / "second")
    for file in folder.glob("*.wav"):
        shutil.copy(file, moved)
    shutil.copy(folder / "manifest.jsonl", moved / "music.jsonl")
    start = [SCRIPT, "--config", folder / "settings.yaml", "--manifest", moved / "music.jsonl"]
    check_script(*start, "--output_dir", moved / "." / "second")
    assert_same_run(moved / "second", undisturbed)
    changes = json.loads((moved / "second" / "run.json").read_text())["history"][-1]["changes"]
    assert changes == {"manifest": [str(folder / "manifest.jsonl"), str(moved / "music.jsonl")]}


def test_the_discriminator_goes_on_in_another_stage(folder, undisturbed):
    """In the first step, the autoencoder's, it is the one that the stage before has left, bit for bit."""
    command = [*arguments(folder, "stage"), "--max_steps=1", "--discriminator_start_step=0"]
    check_script(*command, "--init_discriminator_from", undisturbed / "discriminator")
    weights = load_file(folder / "stage" / "checkpoint-00000001" / "model_1.safetensors")
    expected = load_file(undisturbed / f"checkpoint-{NUM_STEPS:08d}" / "model_1.safetensors")
    assert_all_equal(list(weights.values()), list(expected.values()))


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a disk of some bytes, or resizes it; skips where that needs more rights."""
    disk, is_mounted = tmp_path / "disk", []
    disk.mkdir()

    def mount(size: int) -> Path:
        options = f"size={size}" + (",remount" if is_mounted else "")
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("needs the right to mount a tmpfs")
        is_mounted.append(True)
        return disk

    yield mount
    if is_mounted:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_costs_nothing(folder, undisturbed, small_disk):
    """The disk is full at the second checkpoint. The first stays, and the run goes on when there is more room."""
    size = sum(file.stat().st_size for file in (undisturbed / f"checkpoint-{NUM_STEPS:08d}").iterdir())
    disk = small_disk(size * 3 // 2 + 2**17)
    command = [SCRIPT, "--config", folder / "settings.yaml", "--output_dir", disk / "run"]
    finished = run_script(*command)
    assert finished.returncode == 2 and "Traceback" not in finished.stderr
    assert "could not be written" in finished.stderr.splitlines()[-1], finished.stderr[-2000:]
    assert checkpoints(disk / "run") == ["checkpoint-00000002"]
    small_disk(2**26)
    check_script(*command)
    assert_same_run(disk / "run", undisturbed)


def test_a_full_disk_leaves_the_exported_model(folder, undisturbed):
    """The export of step 8 is larger than files may be; that of step 4 stays, and so does its checkpoint."""
    command = [*arguments(folder, "export"), "--save_every=4"]
    check_script(*command, "--max_steps=4")
    exported = folder / "export" / "autoencoder"
    before = {file.name: file.read_bytes() for file in exported.iterdir()}
    largest = max(file.stat().st_size for file in exported.glob("*.safetensors"))
    finished = run_script(*command, max_file_size=largest - 1)
    assert finished.returncode == 2 and "Traceback" not in finished.stderr
    assert finished.stderr.splitlines()[-1].startswith("error: ") and "File too large" in finished.stderr
    assert {file.name: file.read_bytes() for file in exported.iterdir()} == before
    assert checkpoints(folder / "export") == ["checkpoint-00000004"]
    assert sorted(path.name for path in (folder / "export").glob(".*")) == []


def test_a_run_with_damaged_checkpoints_only_is_not_started_anew(folder, undisturbed):
    run = folder / "hopeless"
    for name in ("checkpoint-00000006", "checkpoint-00000008"):
        (run / name).mkdir(parents=True)
        for file in (undisturbed / name).iterdir():
            os.link(file, run / name / file.name)
        (run / name / "optimizer.bin").unlink()
    finished = run_script(*arguments(folder, "hopeless"))
    assert finished.returncode == 2
    assert "All checkpoints" in finished.stderr and "optimizer.bin is missing" in finished.stderr
    assert checkpoints(run) == ["checkpoint-00000006", "checkpoint-00000008"]


def test_batches_that_are_not_finite_do_no_harm(folder, latents, clap):
    """After two steps the latents get values whose squares are infinite; later they are put right again.

    The run stops, or leaves such steps out: then its checkpoint is, but for the step, the one before bit for bit. What
    may help is changed on the way, and noted.
    """
    settings = DIT | {"clap": str(clap), "latents": str(folder / "latents"), "validate_every": 100}
    (folder / "dit.yaml").write_text(yaml.safe_dump(settings))
    command = ["train_dit.py", "--config", folder / "dit.yaml", "--max_steps=4", "--output_dir"]
    shutil.copytree(latents, folder / "latents")
    check_script(*command, folder / "dit")
    check_script(*command, folder / "stopped", "--max_steps=2")
    for file in set((folder / "latents").rglob("*.safetensors")):
        damaged = {name: torch.full(tensor.shape, 1e30) for name, tensor in load_file(file).items()}
        save_file(damaged, file)
    shutil.copytree(folder / "stopped", folder / "skipping")
    finished = run_script(*command, folder / "stopped", "--max_skipped_steps=0")
    assert finished.returncode == 3 and checkpoints(folder / "stopped") == ["checkpoint-00000002"]
    message = "error: Step 2: loss, gradient_norm is not finite; its data are (1 of the last 100 steps were not,"
    assert message in finished.stderr.splitlines()[-1]

    finished = check_script(*command, folder / "skipping", "--learning_rate=1e-4", "--max_grad_norm=1")
    shutil.rmtree(folder / "latents")
    assert finished.stderr.count("it is skipped") == 2
    before, after = (folder / "skipping" / f"checkpoint-{step:08d}" for step in (2, 4))
    for file in ("model.safetensors", "optimizer.bin", "custom_checkpoint_0.pkl"):
        load = load_file if file.endswith("safetensors") else functools.partial(torch.load, weights_only=False)
        states = [torch.utils._pytree.tree_leaves(load(checkpoint / file)) for checkpoint in (before, after)]
        tensors = [[leaf for leaf in state if torch.is_tensor(leaf)] for state in states]
        assert_all_equal(*tensors)
    rows = [json.loads(line) for line in (folder / "skipping" / "metrics.jsonl").open()]
    assert [row["skipped_steps"] for row in rows if "skipped_steps" in row] == [0, 0, 1, 2]
    changes = json.loads((folder / "skipping" / "run.json").read_text())["history"][-1]["changes"]
    assert changes == {"learning_rate": [1e-2, 1e-4], "max_grad_norm": [None, 1.0]}

    shutil.copytree(latents, folder / "latents")
    check_script(*command, folder / "stopped")
    for file in ("checkpoint-00000004/model.safetensors", "dit/transformer/diffusion_pytorch_model.safetensors"):
        weights, expected = load_file(folder / "stopped" / file), load_file(folder / "dit" / file)
        assert_all_equal(list(weights.values()), list(expected.values()))


@pytest.mark.slow
def test_killed_at_any_moment(folder, undisturbed):
    """Kills at random times until the run has got to its end in spite of them."""
    rng = random.Random(0)
    run, num_kills = folder / "killed", 0
    while not (run / f"checkpoint-{NUM_STEPS:08d}").exists():
        script = RunningScript(*arguments(folder, "killed"))
        script.process.join(rng.uniform(0.2, 3.0))
        if script.process.is_alive():
            script.kill()
            num_kills += 1
    check_script(*arguments(folder, "killed"))
    assert num_kills > 3
    assert_same_run(run, undisturbed)
