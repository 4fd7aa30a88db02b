"""Configurations from defaults, YAML files and the command line; how a script ends."""

import re
import sys
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest

from stable_longform.training_utils.config import launch, load_config
from stable_longform.training_utils.options import NumEntries
from stable_longform.utils.ranges import Range


def default_weights():
    return {"mid": 1.0, "kl": 1e-4}


@dataclass(frozen=True)
class Config:
    manifest: str
    learning_rate: float = 0.5
    max_steps: Annotated[int, Range(1, 10**9), "How many."] = 10
    is_fast: bool = False
    name: str = "run"
    precision: Literal["no", "bf16"] = "no"
    betas: Annotated[tuple[float, float], Range(0, 1)] = (0.9, 0.99)
    sizes: Annotated[tuple[int, ...], Range(2, 1024, multiple_of=2), NumEntries(1, 3)] = (4, 2)
    parts: tuple[Literal["left", "right"], ...] = ()
    loss_weights: Annotated[dict, Range(0, 100)] = field(default_factory=default_weights)
    model: dict = field(default_factory=dict)
    limit: int | None = None
    max_norm: float | None = None
    note: str = ""
    start: str | None = None


def load(*arguments, directory="."):
    return load_config(Config, ["--manifest=m.jsonl", *arguments], directory)


def test_defaults_then_yaml_then_arguments(tmp_path):
    (tmp_path / "a.yaml").write_text("learning_rate: 0.25\nmax_steps: 3\nmodel: {width: 8}\n")
    config = load("--max_steps=7", "--config", "a.yaml", "--model.depth", "2", directory=tmp_path)
    assert config == Config("m.jsonl", 0.25, 7, model={"width": 8, "depth": 2})


def test_later_arguments_win_wherever_the_file_stands(tmp_path):
    (tmp_path / "a.yaml").write_text("max_steps: 3\n")
    assert load("--max_steps=4", "--max_steps=5", f"--config={tmp_path / 'a.yaml'}").max_steps == 5


def test_empty_file(tmp_path):
    (tmp_path / "empty.yaml").write_text("# all defaults\n")
    assert load("--config=empty.yaml", directory=tmp_path) == Config("m.jsonl")


@pytest.mark.parametrize(
    "argument, name, expected",
    [
        ("--learning_rate=1e-3", "learning_rate", 1e-3),
        ("--learning_rate=2", "learning_rate", 2.0),
        ("--max_norm=1e-2", "max_norm", 0.01),
        ("--max_norm=null", "max_norm", None),
        ("--limit=3", "limit", 3),
        ("--is_fast=true", "is_fast", True),
        ("--betas=[5e-1, 1]", "betas", (0.5, 1.0)),
        ("--sizes=[8, 4, 2]", "sizes", (8, 4, 2)),
        ("--precision=no", "precision", "no"),
        ("--parts=[right]", "parts", ("right",)),
        ("--name=2024-01-01", "name", "2024-01-01"),
        ("--name=007", "name", "007"),
        ("--name=a=b", "name", "a=b"),
        ("--name=1.10", "name", "1.10"),
        ("--name=1e3", "name", "1e3"),
        ("--note=", "note", ""),
        ("--start=", "start", None),
        ("--start=null", "start", None),
        ("--start=0.50", "start", "0.50"),
        ("--learning_rate=-0.5", "learning_rate", -0.5),
        ("--name=--fast", "name", "--fast"),
        ("--loss_weights.kl=0.1", "loss_weights", {"mid": 1.0, "kl": 0.1}),
        ("--loss_weights.kl=1e-6", "loss_weights", {"mid": 1.0, "kl": 1e-6}),
        ("--model.widths=[1, 2]", "model", {"widths": [1, 2]}),
    ],
)
def test_values(argument, name, expected):
    value = getattr(load(argument), name)
    assert value == expected and type(value) is type(expected)
    key, _, text = argument.partition("=")
    if not text.startswith("--"):
        assert getattr(load(key, text), name) == expected


def test_yaml_values_have_the_same_rules(tmp_path):
    text = "learning_rate: 1e-3\nbetas: ['1e-1', 0.5]\nloss_weights: {mid: 2}\nname: 5\nprecision: no\n"
    (tmp_path / "a.yaml").write_text(text)
    config = load("--config=a.yaml", "--loss_weights.kl=3e-1", directory=tmp_path)
    assert config == Config("m.jsonl", 1e-3, betas=(0.1, 0.5), loss_weights={"mid": 2.0, "kl": 0.3}, name="5")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--max_step=3"], "Unknown configuration key 'max_step'; known keys: betas, is_fast"),
        (["--modell.width=3"], "Unknown configuration key 'modell'"),
        (["--loss_weights.k1=3"], "Unknown entries of loss_weights: k1; known: mid, kl"),
        (["--loss_weights.kl=high"], "loss_weights.kl must be a number in [0, 100], got 'high'"),
        (["--max_steps=2.5"], "max_steps must be a whole number in [1, 10^9], got 2.5"),
        (["--max_steps=true"], "max_steps must be a whole number in [1, 10^9], got True"),
        (["--limit=many"], "limit must be a whole number, or null, got 'many'"),
        (["--learning_rate=fast"], "learning_rate must be a number, got 'fast'"),
        (["--learning_rate=true"], "learning_rate must be a number, got True"),
        (["--learning_rate=null"], "learning_rate must be a number, got None"),
        (["--is_fast=1"], "is_fast must be true or false, got 1"),
        (["--betas=0.5"], "betas must be a list of 2 numbers in [0, 1], got 0.5"),
        (["--betas=[0.5, high]"], "betas must be a list of 2 numbers in [0, 1], got [0.5, 'high']"),
        (["--model=5"], "model must be a mapping, got 5"),
        (["--sizes=[1, 2"], "--sizes cannot be read"),
        (["--max_steps=0"], "max_steps must be a whole number in [1, 10^9], got 0"),
        (["--max_steps=.inf"], "max_steps must be a whole number in [1, 10^9], got inf"),
        (["--learning_rate=.nan"], "learning_rate must be a number, got nan"),
        (["--betas=[0.5]"], "betas must be a list of 2 numbers in [0, 1], got [0.5]"),
        (["--betas=[0.5, 1.5]"], "betas must be a list of 2 numbers in [0, 1], got [0.5, 1.5]"),
        (["--sizes=[]"], "sizes must be a list of whole numbers in [2, 1024], a multiple of 2, at least 1"),
        (["--sizes=[3]"], "got [3]"),
        (["--sizes=[2, 2, 2, 2]"], "got [2, 2, 2, 2]"),
        (["--parts=[middle]"], "parts must be a list of left, right, got ['middle']"),
        (["--parts=left"], "parts must be a list of left, right, got 'left'"),
        (["--precision=fp8"], "precision must be one of no, bf16, got 'fp8'"),
        (["--loss_weights.kl=-1"], "loss_weights.kl must be a number in [0, 100], got -1"),
        (["--loss_weights.kl=.nan"], "loss_weights.kl must be a number in [0, 100], got nan"),
        (["--max_steps=2024-13-41"], "max_steps must be a whole number in [1, 10^9], got '2024-13-41'"),
        (["--name="], "name must be text, not empty, got ''"),
        (
            ["--name", "--max_steps=3"],
            "--name needs a value, got --max_steps=3; as a value, write --name=--max_steps=3",
        ),
        (["--max_steps"], "must be pairs"),
        (["max_steps", "3"], "must be pairs"),
        (["--config=missing.yaml"], "missing.yaml cannot be read"),
        (["--config=list.yaml"], "must hold `key: value` lines, got a list"),
        (["--config=broken.yaml"], "broken.yaml cannot be read"),
    ],
)
def test_wrong_configurations_are_one_line(tmp_path, arguments, message):
    (tmp_path / "list.yaml").write_text("- ab\n- cd\n")
    (tmp_path / "broken.yaml").write_text("name: [a\nb: c\n")
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load(*arguments, directory=tmp_path)
    assert "\n" not in str(caught.value)


VALUES = {
    "a repeated key": ("max_steps: 3\nname: a\nmax_steps: 4", "the key 'max_steps' occurs twice in line 3"),
    "yes": ("is_fast: yes", "is_fast must be true or false, got 'yes'"),
    "off": ("is_fast: off", "is_fast must be true or false, got 'off'"),
    "a quoted boolean": ("is_fast: 'true'", "is_fast must be true or false, got 'true'"),
    "octal": ("max_steps: 010", "max_steps must be a whole number in [1, 10^9], got '010'"),
    "hexadecimal": ("max_steps: 0x10", "got '0x10'"),
    "minutes": ("max_steps: 1:30", "got '1:30'"),
    "underscores": ("max_steps: 1_000", "got '1_000'"),
    "a fraction": ("max_steps: 1e4", "max_steps must be a whole number in [1, 10^9], got 10000.0"),
    "a quoted number": ("max_steps: '3'", "max_steps must be a whole number in [1, 10^9], got '3'"),
    "null": ("learning_rate:", "learning_rate must be a number, got None"),
    "a list for a number": ("learning_rate: [1e-4]", "learning_rate must be a number, got [0.0001]"),
    "a mapping for a number": ("max_norm: {a: 1}", "max_norm must be a number, or null, got {'a': 1}"),
    "a number for a list": ("betas: 0.5", "betas must be a list of 2 numbers in [0, 1], got 0.5"),
    "a nested list": ("betas: [[0.5, 0.9]]", "betas must be a list of 2 numbers in [0, 1], got [[0.5, 0.9]]"),
    "null in a list": ("betas: [null, 0.9]", "got [None, 0.9]"),
    "null in a mapping": ("loss_weights: {kl: null}", "loss_weights.kl must be a number in [0, 100], got None"),
    "a list in a mapping": ("loss_weights: {kl: [1]}", "loss_weights.kl must be a number in [0, 100], got [1]"),
    "a list for a mapping": ("loss_weights: [1, 2]", "loss_weights must be a mapping with numbers in [0, 100], got"),
    "an unknown nested key": ("loss_weights: {klw: 1}", "Unknown entries of loss_weights: klw; known: mid, kl"),
    "a number as a key": ("3: 4", "Unknown configuration key 3; known keys: betas"),
    "null as a key": ("~: 4", "Unknown configuration key None"),
    "dots in a key": ("loss_weights.kl: 1", "Unknown configuration key 'loss_weights.kl'"),
    "infinity": ("learning_rate: .inf", "learning_rate must be a number, got inf"),
    "too large": ("learning_rate: 1e999", "learning_rate must be a number, got inf"),
    "400 digits": ("learning_rate: 1" + "0" * 400, "learning_rate must be a number, got 1000"),
    "5000 digits": ("learning_rate: 1" + "0" * 5000, "cannot be read: Exceeds the limit (4300"),
    "a rounded name": ("name: 1.10", "name must be text, not empty, got 1.1"),
    "an empty name": ("name: ''", "name must be text, not empty, got ''"),
    "a boolean name": ("name: true", "name must be text, not empty, got True"),
    "NUL in a name": (r'name: "a\0b"', r"name must be text, not empty, got 'a\x00b'"),
    "a long name for a number": ("max_steps: " + "a" * 9999, "got 'aaaa"),
}


@pytest.mark.parametrize("text, message", VALUES.values(), ids=VALUES)
def test_wrong_values_in_yaml_are_one_short_line(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load("--config=a.yaml", directory=tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_references_to_references_are_not_written_out(tmp_path):
    """Nine lists of nine of the list before: a billion entries, if a message had them all."""
    rows = [f"&{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    (tmp_path / "a.yaml").write_text(f"betas: [&a [1, 1], {', '.join(rows)}]")
    with pytest.raises(ValueError, match=r"betas must be a list of 2 numbers in \[0, 1\], got ") as caught:
        load("--config=a.yaml", directory=tmp_path)
    assert len(str(caught.value)) < 10_000


def test_required_values():
    with pytest.raises(ValueError, match="Missing configuration: --manifest"):
        load_config(Config, ["--max_steps=3"])


def test_launch_ends_with_one_line_and_exit_code_2(monkeypatch, capsys):
    configs = []
    monkeypatch.setattr(sys, "argv", ["train.py", "--manifest=m.jsonl", "--max_steps=3"])
    launch(configs.append, Config)
    assert configs == [Config("m.jsonl", max_steps=3)]
    monkeypatch.setattr(sys, "argv", ["train.py", "--manifest=m.jsonl", "--steps=3"])
    with pytest.raises(SystemExit) as caught:
        launch(configs.append, Config)
    assert caught.value.code == 2 and len(configs) == 1
    assert capsys.readouterr().err.startswith("error: Unknown configuration key 'steps'")


def test_print_config_prints_what_can_be_given_again(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["train.py", "--manifest=m.jsonl", "--print_config", "--learning_rate=1e-5"])
    launch(lambda config: pytest.fail("nothing may run"), Config)
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert load_config(Config, ["--config=printed.yaml"], tmp_path) == Config("m.jsonl", 1e-5)


def test_a_missing_checkpoint_ends_in_one_line(capsys, monkeypatch):
    def open_checkpoint(config):
        raise OSError("there is\nno checkpoint")

    monkeypatch.setattr(sys, "argv", ["train.py", "--manifest", "m.jsonl", "--learning_rate", "1e-3"])
    with pytest.raises(SystemExit) as caught:
        launch(open_checkpoint, Config)
    assert caught.value.code == 2 and capsys.readouterr().err == "error: there is no checkpoint\n"


def test_help_names_each_option_with_default_range_and_meaning(monkeypatch, capsys):
    for flag in ("--help", "-h"):
        monkeypatch.setattr(sys, "argv", ["train.py", flag])
        launch(lambda config: pytest.fail("nothing may run"), Config)
        text = capsys.readouterr().out
        assert text.startswith(__doc__.strip())
        assert "  --manifest  (required)\n      Accepted: text, not empty." in text
        assert "  --max_steps  (default: 10)\n      How many. Accepted: a whole number in [1, 10^9]." in text
        assert "  --betas  (default: [0.9, 0.99])\n      Accepted: a list of 2 numbers in [0, 1]." in text
        assert [name for name in Config.__dataclass_fields__ if f"--{name}  (" not in text] == []
