"""What tests of the command line share: a tiny random checkpoint, and commands that must fail in one line."""

from pathlib import Path

import pytest
from tiny_pipeline import tiny_pipeline

from stable_longform.cli import main

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
    """Runs a command that must end with exit code 2, one line on stderr and no new file; returns the line."""

    def run(*arguments: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        assert main(list(arguments)) == 2
        stdout, stderr = capsys.readouterr()
        assert stdout == ""
        assert stderr.startswith("error: ") and stderr.count("\n") == 1 and stderr.endswith("\n")
        assert sorted(tmp_path.rglob("*")) == before
        return stderr

    return run


@pytest.fixture
def hollow(tmp_path) -> str:
    """A checkpoint that cannot be loaded, for errors that come before that."""
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow/model_index.json").write_text('{"_class_name": "LongFormMusicPipeline"}')
    return str(tmp_path / "hollow")
