"""The scripts of examples/paper: lengths, matrices and ratings whose figure or table is known, and memorization by a
checkpoint of random weights."""

import csv
import json
import runpy
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
from common import png_size
from conftest import synthetic_audio
from pieces import render_form
from simulated_listeners import make_stimuli
from tiny_pipeline import tiny_pipeline

from stable_longform.analysis.features import SAMPLING_RATE
from stable_longform.analysis.listening_test import QUESTIONS, STEREO, rating_order
from stable_longform.analysis.listening_test_results import PAGE_COLUMNS

EXAMPLES = Path(__file__).parents[2] / "examples" / "paper"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a script as a user would; returns its exit code and what it printed and complained of."""

    def run(name: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        code = 0
        try:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        except SystemExit as end:
            code = end.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_figure_1_counts_the_tracks_of_each_window(run, tmp_path):
    lengths = ["30", "90", "100", "285", "286", "600", "0", "-3", "nan", "inf", "", "long"]
    (tmp_path / "tracks.csv").write_text("duration_in_s,title\n" + "".join(f"{length},x\n" for length in lengths))
    code, printed, _ = run("figure_1.py", "--table", tmp_path / "tracks.csv", "--output", tmp_path / "figure.png")
    assert code == 0 and png_size(tmp_path / "figure.png")[0] > 300
    shares = [float(line.split()[0]) for line in printed.splitlines()[:3]]
    assert shares == pytest.approx([2 / 6, 3 / 6, 4 / 6], abs=1e-3)  # 90 s, 190 s, 285 s
    assert "6 tracks, 6 rows left out" in printed
    rows = [json.dumps({"ms": 1000 * float(length)}) for length in lengths[:6]]
    (tmp_path / "tracks.jsonl").write_text("\n".join([*rows, "[]", "{", '{"ms": null}']))
    options = ("--column", "ms", "--unit", "ms", "--output", tmp_path / "other.svg")
    code, again, _ = run("figure_1.py", "--table", tmp_path / "tracks.jsonl", *options)
    assert code == 0 and again.splitlines()[:3] == printed.splitlines()[:3] and "3 rows left out" in again


@pytest.mark.parametrize(
    ("name", "text", "message"),
    (
        ("tracks.txt", "1", "the extension must be .csv or .jsonl"),
        ("tracks.csv", "seconds\n1\n", "no row with a length in the column 'duration_in_s'"),
        ("nowhere.csv", None, "nowhere.csv"),
    ),
)
def test_figure_1_says_what_is_wrong_in_one_line(run, tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    code, printed, complaint = run("figure_1.py", "--table", tmp_path / name, "--output", tmp_path / "figure.png")
    assert (code, printed) == (2, "") and message in complaint and complaint.count("\n") == 1
    assert not (tmp_path / "figure.png").exists()


def test_figure_4_has_a_row_for_each_system_and_a_column_for_each_genre(run, tmp_path):
    for place, form in (("real/jazz", "ABA"), ("real/rock", "AB"), ("ours/jazz", "AAA"), ("ours/rock", "BAB")):
        (tmp_path / place).mkdir(parents=True)
        soundfile.write(tmp_path / place / "piece.wav", render_form(form, 16)[0].numpy(), SAMPLING_RATE)
    rows = [f"{name}={tmp_path / name}" for name in ("real", "ours")]
    code, printed, _ = run("figure_4.py", "--rows", *rows, "--output_dir", tmp_path / "out")
    assert code == 0 and "| number | real, 2 files | ours, 2 files |" in printed
    width, height = png_size(tmp_path / "out" / "figure.png")
    assert 0.8 < width / height < 1.2  # two by two
    assert printed.splitlines()[-1] == str(tmp_path / "out" / "figure.png")
    code, printed, complaint = run("figure_4.py", "--rows", "real=nowhere", "--output_dir", tmp_path / "out")
    assert (code, printed, complaint) == (2, "", "error: nowhere is not a folder.\n")


def test_table_4_is_the_mean_and_deviation_of_known_ratings(run, tmp_path):
    """Two listeners rate every stimulus 4 and 2; one hears stereo and the other doesn't."""
    stimuli = make_stimuli(num_prompts=2)
    plan = {listener: rating_order(stimuli, int(listener), 0) for listener in "12"}
    key = {"settings": {"test_id": "known"}, "stimuli": {s.id: asdict(s) for s in stimuli}, "listeners": plan}
    (tmp_path / "key.json").write_text(json.dumps(key))
    with (tmp_path / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(PAGE_COLUMNS)
        for listener, value, stereo in (("1", 4, "yes"), ("2", 2, "no")):
            for trial in rating_order(stimuli, int(listener), 0):
                for question in QUESTIONS:
                    answer = stereo if question == STEREO else value
                    writer.writerow(["known", listener, trial, question, answer, 40.0, 60000])
    arguments = ("--test", tmp_path, "--results", tmp_path / "results.csv", "--output_dir", tmp_path / "out")
    code, printed, _ = run("table_4.py", *arguments)
    assert code == 0 and "ours, 4m45s (paper)" in printed
    deviation = np.std([4, 4, 2, 2], ddof=1)
    rows = {line.split("|")[1].strip(): line for line in printed.splitlines() if line.startswith("|")}
    for system in ("real", "ours", "baseline"):
        assert rows[f"{system}, 2m"].count(f"3.0 ± {deviation:.1f}") == 4 and " 50 % " in rows[f"{system}, 2m"]
    code, printed, complaint = run("table_4.py", "--test", tmp_path / "out", *arguments[2:])
    assert (code, printed) == (2, "") and complaint.count("\n") == 1 and "key.json" in complaint


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """Four training recordings, of which the last is the first again, and two others."""
    folder = tmp_path_factory.mktemp("music")
    seeds = {"a": 1, "b": 2, "c": 3, "again": 1, "held1": 5, "held2": 6}
    rows = []
    for name, seed in seeds.items():
        soundfile.write(folder / f"{name}.wav", synthetic_audio(5 * 44100, seed=seed).T, 44100)
        split = "test" if name.startswith("held") else "train"
        rows.append({"path": f"{name}.wav", "duration_in_s": 5.0, "split": split, "genre": [f"Genre {seed}"]})
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "manifest.jsonl"


def test_memorization_generates_compares_and_puts_the_verdict_into_the_card(run, music, tmp_path):
    checkpoint, out = tmp_path / "checkpoint", tmp_path / "out"
    tiny_pipeline(sampling_rate=8000, sample_size=768).save_pretrained(checkpoint)  # 3.07 s
    (checkpoint / "README.md").write_text("# Random weights\n")
    arguments = ("--source", music, "--checkpoint", checkpoint, "--embedder", "mel44", "--num_generations", 2)
    arguments += ("--duration_in_s", 3, "--segment_in_s", 3, "--num_inference_steps", 2)
    arguments += ("--card", checkpoint, "--output_dir", out)
    code, printed, _ = run("memorization.py", *arguments)
    assert code == 0 and "5566" in printed and printed.splitlines()[-1] == str(out / "closest.html")
    found = json.loads((out / "memorization.json").read_text())
    (group,) = found["duplicates"]["groups"]
    assert [Path(name).stem for name in group["names"]] == ["a", "again"]
    verdict = json.loads((out / "verdict.json").read_text())
    assert {name: g["num_generations"] for name, g in verdict["generations"].items()} == {
        "training_prompts": 2, "held_out_prompts": 2
    }  # fmt: skip
    assert verdict["answer"] in (checkpoint / "README.md").read_text()
    prompts = [item["prompt"].lower() for item in found["closest"] if item["group"] == "training_prompts"]
    assert len(prompts) == 2 and all("genre 1" in prompt for prompt in prompts)  # the duplicate's come first
    made = {path: path.stat().st_mtime_ns for path in (out / "generated").rglob("*.wav")}
    assert run("memorization.py", *arguments)[1] == printed
    assert made == {path: path.stat().st_mtime_ns for path in (out / "generated").rglob("*.wav")}
    code, printed, complaint = run("memorization.py", *arguments, "--duration_in_s", "-1")
    assert code == 2 and "--duration_in_s" in complaint and complaint.count("\n") == 1
