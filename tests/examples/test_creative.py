"""The example scripts that make music from music, on a tiny random checkpoint."""

import runpy
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from tiny_pipeline import tiny_pipeline

from stable_longform.utils.audio import read_audio

EXAMPLES = Path(__file__).parents[2] / "examples"
RATE = 8000


@pytest.fixture
def run(tmp_path, make_audio, monkeypatch):
    """Runs a script on a file of 0.2 s; returns the file, the result and the exit code."""
    pipe = tiny_pipeline()
    pipe.vae.decoder.conv2.weight_g.data *= 0.02  # well within full scale
    pipe.save_pretrained(tmp_path / "checkpoint")
    soundfile.write(tmp_path / "music.wav", make_audio(1600, sampling_rate=RATE).numpy().T, RATE)

    def run(name: str, *arguments: str) -> tuple[torch.Tensor, Path, int]:
        output = tmp_path / "result.wav"
        options = ["--input", str(tmp_path / "music.wav"), "--checkpoint", str(tmp_path / "checkpoint")]
        options += ["--num_inference_steps", "2", "--output", str(output)]
        monkeypatch.setattr(sys, "argv", [name, *options, *arguments])
        code = 0
        try:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        return read_audio(tmp_path / "music.wav")[0], output, code

    return run


def test_transform(run):
    for source in ([], ["--source_prompt", "solo piano"]):
        music, output, code = run("transform.py", "--prompt", "rock", *source)
        assert code == 0
        result = read_audio(output)[0]
        assert result.shape == music.shape and not torch.equal(result, music)


def test_inpaint(run):
    music, output, code = run("inpaint.py", "--prompt", "rock", "--start", "0.05", "--stop", "0.1")
    assert code == 0
    change = (read_audio(output)[0] - music).abs()
    assert change[:, :400].max() < 1e-4 and change[:, 800:].max() < 1e-4  # 16 bits
    assert change[:, 400:800].max() > 0.01
    for name in ("result.before.png", "result.after.png"):
        assert (output.parent / name).read_bytes().startswith(b"\x89PNG")


def test_continue_in_sections(run):
    music, output, code = run("continue_in_sections.py", "--prompts", "piano", "rock", "drums", "--seconds", "0.1")
    assert code == 0
    result = read_audio(output)[0]
    assert result.shape == (2, 3200)
    assert (result[:, :1600] - music).abs().max() < 1e-4  # 16 bits


def test_one_prompt_is_no_continuation(run, capsys):
    _, output, code = run("continue_in_sections.py", "--prompts", "piano")
    assert code == 2 and not output.exists()
    assert "--prompts must be at least two, got 1" in capsys.readouterr().err
