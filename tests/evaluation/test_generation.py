"""Generating a folder: seeds of items, resuming, sharing, refusing other settings."""

import json

import pytest
import torch

from stable_longform.evaluation.generation import PROTOCOL_FILE, generate_folder, item_seed
from stable_longform.evaluation.prompt_lists import PromptRow
from stable_longform.utils.audio import read_audio, read_tags

ROWS = [
    PromptRow("a", "piano"),
    PromptRow("b", "drums", duration=0.5),
    PromptRow("c", "harp"),
    PromptRow("d", "viola"),
]


class Noise:
    """A generator of seeded noise that records its calls and may fail at one."""

    def __init__(self, fails_at=None, level=0.1):
        self.calls, self.fails_at, self.level = [], fails_at, level

    def __call__(self, prompt, duration, seed):
        self.calls.append((prompt, duration))
        if len(self.calls) == self.fails_at:
            raise KeyboardInterrupt
        generator = torch.Generator().manual_seed(seed)
        return self.level * torch.randn(2, round(duration * 1000), generator=generator).clamp(-5, 5), 1000


def contents(folder):
    """The bytes of all files."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_files_protocol_and_durations(tmp_path):
    assert generate_folder(Noise(), ROWS, tmp_path / "out", 0.2, {"model": "noise"}, seed=3) == 4
    for row in ROWS:
        waveform, rate = read_audio(tmp_path / "out" / f"{row.id}.wav")
        assert rate == 1000 and waveform.shape == (2, 500 if row.id == "b" else 200)
        assert read_tags(tmp_path / "out" / f"{row.id}.wav")["title"] == row.prompt
    protocol = json.loads((tmp_path / "out" / PROTOCOL_FILE).read_text())
    assert protocol["model"] == "noise" and protocol["seed"] == 3 and len(protocol["prompts_sha256"]) == 64


def test_a_run_that_was_cut_off_goes_on(tmp_path):
    generate_folder(Noise(), ROWS, tmp_path / "whole", 0.2, {})
    with pytest.raises(KeyboardInterrupt):
        generate_folder(Noise(fails_at=3), ROWS, tmp_path / "cut", 0.2, {})
    noise = Noise()
    assert generate_folder(noise, ROWS, tmp_path / "cut", 0.2, {}) == 2
    assert [prompt for prompt, _ in noise.calls] == ["harp", "viola"]
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert generate_folder(noise, ROWS, tmp_path / "cut", 0.2, {}) == 0


def test_processes_share_the_prompts_and_make_the_same_files(tmp_path):
    generate_folder(Noise(), ROWS, tmp_path / "one", 0.2, {})
    counts = [generate_folder(Noise(), ROWS, tmp_path / "three", 0.2, {}, 0, index, 3) for index in range(3)]
    assert counts == [2, 1, 1]
    assert contents(tmp_path / "three") == contents(tmp_path / "one")


def test_seeds_depend_on_the_id_and_the_run_only():
    assert item_seed(0, "a") == item_seed(0, "a")
    assert len({item_seed(seed, name) for seed in range(20) for name in "abcde"}) == 100
    assert 0 <= item_seed(5, "x") < 2**32


def test_other_settings_are_refused(tmp_path):
    generate_folder(Noise(), ROWS[:1], tmp_path, 0.2, {"steps": 10})
    for rows, settings, seed, name in (
        (ROWS[:1], {"steps": 11}, 0, "steps"),
        (ROWS[:1], {"steps": 10}, 1, "seed"),
        (ROWS[:2], {"steps": 10}, 0, "prompts_sha256"),
    ):
        with pytest.raises(ValueError, match=f"other values of {name}: choose another folder"):
            generate_folder(Noise(), rows, tmp_path, 0.2, settings, seed)


def test_loud_results_are_turned_down_and_broken_ones_refused(tmp_path):
    generate_folder(Noise(level=10), ROWS[:1], tmp_path / "loud", 0.2, {})
    waveform = read_audio(tmp_path / "loud" / "a.wav")[0]
    assert 0.99 < float(waveform.abs().max()) <= 1 and (waveform.abs() > 0.99).sum() < 5
    with pytest.raises(ValueError, match="a: the model returned audio that is not finite"):
        generate_folder(Noise(level=float("nan")), ROWS[:1], tmp_path / "nan", 0.2, {})
    assert not (tmp_path / "nan" / "a.wav").exists()
    with pytest.raises(ValueError, match="duration must be greater than 0"):
        generate_folder(Noise(), ROWS, tmp_path, 0.0, {})
