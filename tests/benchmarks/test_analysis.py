"""The inputs of the analysis in one run: the right pieces, and prompts that describe them."""

import json
from argparse import Namespace

import analysis
import pytest
import soundfile
import typer

from stable_longform.cli import analyze, evaluate, listening_test

APPS = {"analyze": analyze.app, "evaluate": evaluate.app, "listening-test": listening_test.app}


def write_audio(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, [[0.1, -0.1]] * 100, 44100)
    return path


@pytest.fixture
def manifest(tmp_path):
    rows = [("a", "train", "Rock"), ("b", "test", "Jazz"), ("c", "valid", "Rock")]
    lines = [
        {"path": write_audio(tmp_path / f"{name}.wav").name, "duration_in_s": 1.0, "split": split, "genre": [genre]}
        for name, split, genre in rows
    ]
    path = tmp_path / "manifest.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_each_genre_has_a_held_out_piece_and_its_prompt(manifest, tmp_path):
    for genre in ("Rock", "Jazz"):
        write_audio(tmp_path / "real" / f"{genre}.ogg")
    for _ in range(2):  # again after an interruption
        analysis.write_inputs(manifest, tmp_path / "real", tmp_path / "out")
    music = tmp_path / "out" / "music"
    assert (music / "composed" / "Rock.wav").resolve() == tmp_path / "c.wav"
    assert (music / "real" / "Jazz.ogg").resolve() == tmp_path / "real" / "Jazz.ogg"
    prompts = [json.loads(line) for line in (tmp_path / "out" / "prompts.jsonl").read_text().splitlines()]
    assert [row["id"] for row in prompts] == ["Jazz", "Rock"] and "rock" in prompts[1]["prompt"].lower()
    held_out = sorted(path.resolve() for path in (tmp_path / "out" / "held_out").iterdir())
    assert held_out == [tmp_path / "b.wav", tmp_path / "c.wav"]  # not the training set
    write_audio(tmp_path / "real" / "Polka.ogg")
    with pytest.raises(ValueError, match="no held-out piece of the genre Polka"):
        analysis.write_inputs(manifest, tmp_path / "real", tmp_path / "out")


def test_every_command_has_only_options_that_exist(manifest, tmp_path):
    settings = {"checkpoint": "tiny", "embedder": "chroma", "segment": 8.0, "num_generations": 2, "duration": 11.8}
    settings |= {
        "figure_duration": 47.0,
        "card": "tiny",
        "manifest": manifest,
        "output_dir": tmp_path,
        "baseline": None,
    }
    (tmp_path / "held_out").mkdir()
    commands = [command for command in analysis.make_commands(Namespace(**settings)) if command[0] == "-m"]
    assert [command[2:4] for command in commands] == [
        ["analyze", "structure"],
        ["evaluate", "generate"],
        ["listening-test", "build"],
        ["analyze", "memorization"],
    ]
    for _, _, group, name, *arguments in commands:
        typer.main.get_command(APPS[group]).commands[name].make_context(name, arguments)  # raises for an unknown one
