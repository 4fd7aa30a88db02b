"""Checkpoint files: what opens, what is refused, and the model inside a training."""

import pytest
import torch
from safetensors.torch import save_file

from stable_longform.convert.state_dict_files import read_state_dict, unwrap_training

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(1)}


class Callback:
    """What no checkpoint should need."""


@pytest.mark.parametrize("content", [TENSORS, {"state_dict": TENSORS, "epoch": 3}], ids=["plain", "nested"])
def test_torch_files_open(tmp_path, content):
    torch.save(content, tmp_path / "a.ckpt")
    result = read_state_dict(tmp_path / "a.ckpt")
    assert result.keys() == TENSORS.keys() and all(torch.equal(result[key], TENSORS[key]) for key in TENSORS)


def test_safetensors_open(tmp_path):
    save_file(TENSORS, tmp_path / "a.safetensors")
    result = read_state_dict(tmp_path / "a.safetensors")
    assert result.keys() == TENSORS.keys() and all(torch.equal(result[key], TENSORS[key]) for key in TENSORS)


def test_files_that_run_code_are_refused_unless_allowed(tmp_path):
    torch.save({"state_dict": TENSORS, "callback": Callback()}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a.ckpt is broken or holds more than tensors.*--allow-pickle"):
        read_state_dict(tmp_path / "a.ckpt")
    assert read_state_dict(tmp_path / "a.ckpt", allow_pickle=True).keys() == TENSORS.keys()


def test_broken_and_other_files_are_refused(tmp_path):
    for name in ("a.safetensors", "a.ckpt"):
        (tmp_path / name).write_bytes(b"not a checkpoint at all")
        with pytest.raises(ValueError, match=name):
            read_state_dict(tmp_path / name)
    with pytest.raises(ValueError, match="a.ckpt is not a checkpoint"):
        read_state_dict(tmp_path / "a.ckpt", allow_pickle=True)
    for content in (b"", b"hello world", b"RIFF....WAVE", b"PK\x03\x04 no zip", b"\x80\x02e", b"\x80\x02he"):
        (tmp_path / "a.ckpt").write_bytes(content)
        for allow_pickle in (False, True):
            with pytest.raises(ValueError, match="a.ckpt is"):
                read_state_dict(tmp_path / "a.ckpt", allow_pickle)
    for content in ([1, 2], {}, {"epoch": 3}):
        torch.save(content, tmp_path / "b.ckpt")
        with pytest.raises(ValueError, match="holds no state dict"):
            read_state_dict(tmp_path / "b.ckpt")
    with pytest.raises(FileNotFoundError):
        read_state_dict(tmp_path / "missing.ckpt")


def numbered(*keys: str) -> dict[str, torch.Tensor]:
    return {key: torch.tensor(float(i)) for i, key in enumerate(keys)}


DIFFUSION_TRAINING = numbered(
    "diffusion.model.model.a",
    "diffusion.conditioner.b",
    "diffusion.pretransform.model.c",
    "diffusion_ema.ema_model.model.a",
    "diffusion_ema.online_model.model.a",
    "diffusion_ema.initted",
    "diffusion_ema.step",
)
AUTOENCODER_TRAINING = numbered(
    "autoencoder.encoder.a",
    "autoencoder_ema.ema_model.encoder.a",
    "autoencoder_ema.step",
    "discriminator.d",
    "sdstft.e",
    "surprise.f",
)


@pytest.mark.parametrize("use_ema", [None, True, False])
def test_the_model_in_a_training(use_ema):
    model = {key: value.item() for key, value in unwrap_training(DIFFUSION_TRAINING, use_ema).items()}
    averaged = use_ema is not False  # of the transformer alone, as in their exports
    assert model == {"model.model.a": 3 if averaged else 0, "conditioner.b": 1, "pretransform.model.c": 2}
    model = {key: value.item() for key, value in unwrap_training(AUTOENCODER_TRAINING, use_ema).items()}
    assert model == {"encoder.a": 1 if averaged else 0, "surprise.f": 5}  # unknown keys are not lost


def test_a_missing_average_is_only_an_error_when_asked_for():
    training = {key: value for key, value in DIFFUSION_TRAINING.items() if "ema" not in key}
    assert unwrap_training(training)["model.model.a"] == 0
    for state_dict in (training, TENSORS):
        with pytest.raises(ValueError, match="holds no moving average"):
            unwrap_training(state_dict, use_ema=True)
    assert unwrap_training(TENSORS) == TENSORS
