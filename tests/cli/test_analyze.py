"""`stable-longform analyze`: names of folders, the report, bad input in one line."""

import pytest
import soundfile
from pieces import render_form

from stable_longform import cli
from stable_longform.analysis.features import SAMPLING_RATE
from stable_longform.cli.analyze import name_folders


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "real").mkdir()
    soundfile.write(tmp_path / "real" / "piece.wav", render_form("ABA", 24)[0].numpy(), SAMPLING_RATE)
    return tmp_path / "real"


def test_structure_writes_and_prints_a_table(folder, tmp_path, capsys):
    output = tmp_path / "out"
    assert cli.main(["analyze", "structure", f"real music={folder}", "-o", str(output)]) == 0
    printed = capsys.readouterr().out
    assert printed == (output / "table.md").read_text() and "| number | real music, 1 files |" in printed
    assert {path.name for path in output.iterdir()} == {
        "cache",
        "figure.png",
        "matrices",
        "structure.json",
        "table.md",
    }


def test_folders_have_names(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert name_folders([str(tmp_path / "a"), f"x={tmp_path / 'a' / 'b'}"]) == {
        "a": tmp_path / "a", "x": tmp_path / "a" / "b"
    }  # fmt: skip
    for specs, message in (([f"a={tmp_path}", f"a={tmp_path}"], "names that differ"), (["nowhere"], "not a folder")):
        with pytest.raises(ValueError, match=message):
            name_folders(specs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        (["nowhere"], "nowhere is not a folder"),
        (["{folder}", "--truth", "nowhere.jsonl"], "nowhere.jsonl"),
        (["{folder}", "--trim", "5"], "--trim"),
        (["{folder}", "--max-duration", "20"], "no usable file: piece: too long"),
    ),
)
def test_bad_input_ends_in_one_line(folder, tmp_path, capsys, arguments, message):
    arguments = [argument.format(folder=folder) for argument in arguments]
    assert cli.main(["analyze", "structure", *arguments, "-o", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ") and message in lines[-1]
