"""What tests of the command line share: a tiny random checkpoint, and commands that must fail in one line."""

import shutil
from pathlib import Path

import pytest
from refusals import command_fails
from tiny_pipeline import tiny_pipeline

RATE = 8000


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """Random weights; a window of 128 frames of 32 samples: 0.512 s."""
    folder = tmp_path_factory.mktemp("checkpoint") / "random"
    pipe = tiny_pipeline(sampling_rate=RATE, sample_size=128)
    pipe.vae.decoder.conv2.weight_g.data *= 0.02  # well within full scale
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def fails(tmp_path, capsys):
    """`refusals.command_fails`, called with a command's words; nothing may be written to `tmp_path`."""

    def run(*arguments: str) -> str:
        return command_fails(list(arguments), tmp_path, capsys)

    return run


@pytest.fixture
def hollow(tmp_path) -> str:
    """A checkpoint that cannot be loaded, for errors that come before that."""
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow/model_index.json").write_text('{"_class_name": "LongFormMusicPipeline"}')
    return str(tmp_path / "hollow")


@pytest.fixture
def weightless(checkpoint, tmp_path) -> str:
    """A checkpoint with its configurations and without weights, for errors that come before these are read."""
    ignored = shutil.ignore_patterns("*.safetensors")
    return str(shutil.copytree(checkpoint, tmp_path / "weightless", ignore=ignored))
