"""`stable-longform info`: what a file says about itself."""

import json

import torch

from stable_longform.cli import main
from stable_longform.cli.settings import Settings
from stable_longform.music_files import make_tags
from stable_longform.utils.audio import write_audio

VALUES = Settings(prompt="piano \u266b", seed=7).to_dict() | {"version": "1", "gain": 1.0}


def test_settings_and_format_are_shown(tmp_path, capsys):
    path = tmp_path / "a.flac"
    write_audio(path, torch.zeros(2, 4000), 8000, tags=make_tags("piano", VALUES))
    assert main(["info", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"duration_in_s: 0.5", "sampling_rate: 8000", "channels: 2"} <= set(lines)
    assert {"settings:", "  prompt: piano \u266b", "  seed: 7"} <= set(lines)
    assert main(["info", str(path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["settings"] == VALUES and shown["duration_in_s"] == 0.5 and shown["path"] == str(path)


def test_files_of_others_have_no_settings(tmp_path, capsys):
    path = tmp_path / "a.wav"
    write_audio(path, torch.zeros(1, 100), 8000, tags={"comment": '{"prompt": "of another program"}'})
    assert main(["info", str(path)]) == 0
    assert "settings: none in the tags" in capsys.readouterr().out.splitlines()
    assert main(["info", str(tmp_path / "none.wav")]) == 2
    assert "cannot be read as audio" in capsys.readouterr().err
