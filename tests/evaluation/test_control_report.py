"""The report of asked and heard: the table, the picture, what is named, on clicks whose tempo is known."""

import json

import numpy as np
import pytest
import soundfile
from level_tagger import LevelTagger

from stable_longform.data.tracks import Track
from stable_longform.evaluation import control
from stable_longform.evaluation.control import Heard
from stable_longform.evaluation.control_report import evaluate_control
from stable_longform.evaluation.prompt_lists import PromptRow
from stable_longform.utils.audio import write_audio

RATE = 8000


@pytest.fixture
def folder(tmp_path, make_audio):
    """Four files of 8 s with a prompt as title, one without, and one that is none."""
    path = tmp_path / "generated"
    path.mkdir()
    for number in range(4):
        tags = {"title": f"BPM: {100 + number}|Key: C major|Genre: {'House' if number % 2 else 'Jazz'}"}
        write_audio(path / f"{number}.wav", make_audio(8 * RATE, 2, RATE, number), RATE, tags=tags)
    soundfile.write(path / "untitled.wav", np.zeros((RATE, 2)), RATE)
    (path / "bad.wav").write_bytes(b"no audio")
    return path


@pytest.fixture(autouse=True)
def estimates(monkeypatch):
    """What is heard in all files: 100 BPM in C major. The estimators have tests of their own."""

    def listen_to_file(path, end_in_s, excerpt_in_s):
        duration_in_s = min(8.0, end_in_s or 8.0, excerpt_in_s or 8.0)
        notes = (0.5, 0.8) if path.name == "0.wav" else (0.9, 0.8)
        return Heard(100.0, (0, "major"), *notes, duration_in_s, -80.0 if end_in_s else None)

    monkeypatch.setattr(control, "_listen_to_file", listen_to_file)


def test_prompts_come_from_the_tags(folder, tmp_path):
    report = evaluate_control(folder, tmp_path / "report")
    rows = {row["what"]: row for row in report["shares"]}
    assert rows["tempo within 4 %"]["generated"]["value"] == 1.0  # 100 to 103
    assert rows["key"]["generated"] | {"error": 0.0} == {"value": 1.0, "error": 0.0, "num_files": 4, "by_chance": 1.0}
    assert rows["key"]["truth"] is None and rows["key"]["of_ceiling"] is None
    assert report["notes"]["partial_share"] == {
        "generated": {"median": 0.9, "nine_of_ten": pytest.approx(0.62)}, "truth": None
    }  # fmt: skip
    assert report["generated"]["skipped"]["untitled"] == "no prompt in its tags"
    assert "unreadable" in report["generated"]["skipped"]["bad"]
    assert report["generated"]["items"]["1"]["asked"] == {
        "tempo": 101.0, "key": (0, "major"), "genre": ["house"], "instruments": []
    }  # fmt: skip
    table = (tmp_path / "report" / "table.md").read_text(encoding="utf-8")
    assert "| share of four notes | 0.8 | 0.8 | – | – |" in table
    assert "| key | 100 ± 0 % of 4 | 100% | – | – |" in table and "- untitled: no prompt in its tags" in table
    assert json.loads((tmp_path / "report" / "control.json").read_text()) == json.loads(json.dumps(report))
    assert (tmp_path / "report" / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_a_list_of_prompts_names_files_and_lengths(folder, tmp_path):
    rows = [
        PromptRow("0", "BPM: 150", duration=5.0),
        PromptRow("1", "BPM: 100", duration=5.0),
        PromptRow("9", "BPM: 9"),
    ]
    report = evaluate_control(folder, tmp_path / "report", rows)
    assert report["protocol"]["excerpt_in_s"] == 5.0 and report["generated"]["num_files"] == 2
    assert report["shares"][0]["generated"]["value"] == 0.5 and report["shares"][0]["generated"]["by_chance"] == 0.5
    assert report["endings"] == {"num_files": 2, "silent": 1.0, "median_in_db": -80.0}
    assert "100% of 2 files, median -80 dBFS" in (tmp_path / "report" / "table.md").read_text(encoding="utf-8")
    skipped = report["generated"]["skipped"]
    assert skipped["9"] == "missing" and skipped["2"] == "no prompt"


def test_truth_gives_ceiling_and_listeners(folder, tmp_path, make_audio):
    truth = []
    for number in range(40):
        path = tmp_path / f"truth_{number}.wav"
        samples = (
            np.sign(make_audio(2 * RATE, 2, RATE, number).numpy()) if number % 2 else make_audio(2 * RATE).numpy()
        )
        soundfile.write(path, samples.T, RATE)
        genre, bpm = (["House"], 100) if number % 2 else (["Jazz"], 50)
        truth.append(Track(path, 2.0, "train", metadata={"genre": genre, "instruments": genre, "bpm": bpm}))
    arguments = folder, tmp_path / "report", None, truth, [LevelTagger()], LevelTagger()
    report = evaluate_control(*arguments)
    rows = {row["what"]: row for row in report["shares"]}
    assert rows["tempo within 4 %"]["truth"]["value"] == 0.5 and rows["tempo within 4 %"]["of_ceiling"] == 2.0
    assert rows["tempo, or an octave apart"]["truth"]["value"] == 1.0
    assert rows["genre, probe"]["truth"]["value"] == rows["genre, tags"]["truth"]["value"] == 1.0
    assert rows["genre, probe"]["generated"]["num_files"] == 4
    assert rows["instruments, probe"]["generated"] is None  # no prompt asks for one
    truth.append(Track(path, 1.0, "train", storage=object()))
    with pytest.raises(ValueError, match="must be files, not members of tars"):
        evaluate_control(*arguments)


def test_what_cannot_be_compared_is_an_error(folder, tmp_path):
    with pytest.raises(ValueError, match="request no known tempo, key, genre or instrument"):
        evaluate_control(folder, tmp_path / "report", [PromptRow("0", "a nice song")])
    with pytest.raises(ValueError, match="no file that is named after a prompt's id"):
        evaluate_control(folder, tmp_path / "report", [PromptRow("x", "BPM: 100")])
    for path in folder.glob("[0-9].wav"):
        path.unlink()
    with pytest.raises(ValueError, match="No file of .* has its prompt as title"):
        evaluate_control(folder, tmp_path / "report")
    assert not (tmp_path / "report").exists()
