"""Checkpoints are whole or not there, and bring everything back."""

import errno
import json
import os

import pytest
import torch
from accelerate import Accelerator
from common import assert_all_equal

from stable_longform.training_utils.checkpointing import find_damage, latest_checkpoint, resume, save_checkpoint
from stable_longform.training_utils.items import ItemOrder
from stable_longform.training_utils.run_options import RunOptions
from stable_longform.training_utils.train_step import SkippedSteps

ORDER = ItemOrder(4)
NONE_SKIPPED = SkippedSteps(0)


def make_training():
    """An accelerator with a model and its optimiser, after one step."""
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=0.1))
    train(model, optimizer, 0)
    return accelerator, model, optimizer


def train(model, optimizer, step):
    """One step on data that depend on the step."""
    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    optimizer.step()


def weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_resume_restores_weights_and_optimiser(tmp_path):
    accelerator, model, optimizer = make_training()
    assert resume(accelerator, tmp_path, 4, NONE_SKIPPED) == ORDER
    path = save_checkpoint(accelerator, tmp_path, 1, ORDER, NONE_SKIPPED)
    assert path == tmp_path / "checkpoint-00000001"
    train(model, optimizer, 1)
    expected = weights(model)
    train(model, optimizer, 2)

    accelerator, model, optimizer = make_training()
    train(model, optimizer, 5)
    assert resume(accelerator, tmp_path, 4, NONE_SKIPPED).start_step == 1
    train(model, optimizer, 1)
    assert_all_equal(weights(model), expected)


def test_on_windows_which_opens_no_folders_checkpoints_are_saved_too(tmp_path, monkeypatch):
    accelerator, model, _ = make_training()
    open_file, refused = os.open, []

    def open_no_folder(path, *args, **kwargs):
        if os.path.isdir(path):
            refused.append(path)
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_file(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_no_folder)
        path = save_checkpoint(accelerator, tmp_path, 1, ORDER, NONE_SKIPPED)
    assert refused and find_damage(path) is None
    assert resume(accelerator, tmp_path, 4, NONE_SKIPPED).start_step == 1


def test_the_newest_checkpoints_stay(tmp_path):
    accelerator, _, _ = make_training()
    assert latest_checkpoint(tmp_path) is None
    for step in (5, 20, 9, 100):
        save_checkpoint(accelerator, tmp_path, step, ORDER, NONE_SKIPPED, RunOptions(keep_last=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-00000020", "checkpoint-00000100"]
    (tmp_path / "partial-checkpoint-00000200").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    assert latest_checkpoint(tmp_path) == (tmp_path / "checkpoint-00000100", 100)


def test_milestones_stay(tmp_path):
    accelerator, _, _ = make_training()
    options = RunOptions(keep_last=1, keep_every=20)
    for step in range(5, 50, 5):
        save_checkpoint(accelerator, tmp_path, step, ORDER, NONE_SKIPPED, options)
    assert [int(path.name[-8:]) for path in sorted(tmp_path.iterdir())] == [20, 40, 45]


def test_skipped_steps_are_counted_on(tmp_path):
    accelerator, _, _ = make_training()
    skipped = SkippedSteps(5)
    skipped.add(7, "loss is not finite")
    save_checkpoint(accelerator, tmp_path, 9, ORDER, skipped)
    resumed = SkippedSteps(5)
    resume(accelerator, tmp_path, 4, resumed)
    assert resumed.state_dict() == {"total": 1, "recent": [7]}


def test_a_checkpoint_of_fsdp_is_not_taken_for_another(tmp_path):
    accelerator, _, _ = make_training()
    path = save_checkpoint(accelerator, tmp_path, 1, ORDER, NONE_SKIPPED)
    contents = json.loads((path / "checkpoint.json").read_text())
    (path / "checkpoint.json").write_text(json.dumps(contents | {"is_sharded": True}))
    with pytest.raises(ValueError, match="was saved with FSDP: continue the same way"):
        resume(accelerator, tmp_path, 4, NONE_SKIPPED)


class Unsaveable:
    """State that cannot be saved, like a full disk in the middle of a checkpoint."""

    def state_dict(self):
        raise OSError("No space left on device")

    def load_state_dict(self, state):
        raise AssertionError("never saved")


def test_an_interrupted_checkpoint_does_not_count(tmp_path):
    accelerator, model, optimizer = make_training()
    save_checkpoint(accelerator, tmp_path, 1, ORDER, NONE_SKIPPED)
    expected = weights(model)
    train(model, optimizer, 1)
    accelerator.register_for_checkpointing(Unsaveable())
    with pytest.raises(OSError, match="step 2 could not be written.*No space left"):
        save_checkpoint(accelerator, tmp_path, 2, ORDER, NONE_SKIPPED)
    assert latest_checkpoint(tmp_path)[1] == 1

    accelerator, model, _ = make_training()
    assert resume(accelerator, tmp_path, 4, NONE_SKIPPED).start_step == 1
    assert_all_equal(weights(model), expected)
    save_checkpoint(accelerator, tmp_path, 2, ORDER, NONE_SKIPPED)  # over what the interrupted one left
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-00000001", "checkpoint-00000002"]


def test_saving_a_step_again_replaces_it(tmp_path):
    accelerator, model, optimizer = make_training()
    save_checkpoint(accelerator, tmp_path, 3, ORDER, NONE_SKIPPED)
    train(model, optimizer, 1)
    save_checkpoint(accelerator, tmp_path, 3, ORDER, NONE_SKIPPED)
    expected = weights(model)
    accelerator, model, _ = make_training()
    assert resume(accelerator, tmp_path, 4, NONE_SKIPPED).start_step == 3
    assert_all_equal(weights(model), expected)


@pytest.mark.parametrize("damage", ["one bit", "half a file", "no file", "no list"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, damage):
    """Also one whose files all have the right size."""
    accelerator, model, optimizer = make_training()
    save_checkpoint(accelerator, tmp_path, 1, ORDER, NONE_SKIPPED)
    expected = weights(model)
    train(model, optimizer, 1)
    newest = save_checkpoint(accelerator, tmp_path, 2, ORDER, NONE_SKIPPED)
    assert find_damage(newest) is None
    file = newest / ("checkpoint.json" if damage == "no list" else "model.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    if damage.startswith("no"):
        file.unlink()
    else:
        file.write_bytes(content[: len(content) // 2] if damage == "half a file" else content)
    reasons = {"one bit": "has other contents", "half a file": "bytes instead of"}
    assert reasons.get(damage, "is missing") in find_damage(newest)

    accelerator, model, _ = make_training()
    assert resume(accelerator, tmp_path, 4, NONE_SKIPPED).start_step == 1
    assert_all_equal(weights(model), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-00000001", "damaged-checkpoint-00000002"]
