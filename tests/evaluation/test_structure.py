"""The structure of folders: what is left out is named, what is kept is used, what is drawn where."""

import json

import numpy as np
import pytest
import soundfile
from common import png_size
from pieces import render_form

from stable_longform.analysis.features import SAMPLING_RATE
from stable_longform.analysis.structure import DEFINITIONS, Structure
from stable_longform.evaluation import structure
from stable_longform.evaluation.audio_files import ReadingSettings
from stable_longform.evaluation.structure import (
    analyze_folders,
    figure_columns,
    folder_structures,
    read_sections,
    summarize,
)


def write_piece(path, form="ABA", num_chords=24, channels=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, render_form(form, num_chords).repeat(channels, 1).T.numpy(), SAMPLING_RATE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One usable file, one in mono, and every kind that is not usable."""
    folder = tmp_path_factory.mktemp("audio")
    write_piece(folder / "good.wav")
    write_piece(folder / "mono.wav", channels=1)
    write_piece(folder / "short.wav", "A", 18)
    soundfile.write(folder / "silent.wav", np.zeros((12 * SAMPLING_RATE, 2)), SAMPLING_RATE)
    soundfile.write(folder / "empty.wav", np.zeros((0, 2)), SAMPLING_RATE)
    samples = np.zeros((12 * SAMPLING_RATE, 2))
    samples[100000] = np.nan
    soundfile.write(folder / "nan.wav", samples, SAMPLING_RATE, subtype="FLOAT")
    (folder / "broken.mp3").write_bytes(b"no audio" * 100)
    (folder / "notes.txt").write_text("no audio either")
    return folder


def test_every_unusable_file_is_named_and_in_no_number(folder, tmp_path):
    report = analyze_folders({"ours": folder}, tmp_path, has_pictures=False)
    ours = report["systems"]["ours"]
    assert ours["per_file"].keys() == {"good", "mono"} and ours["num_skipped"] == 5
    expected = {
        "short": "too short",
        "silent": "silent",
        "empty": "empty",
        "nan": "not finite",
        "broken": "unreadable",
    }
    for name, reason in expected.items():
        assert reason in ours["skipped"][name]
    assert ours["notes"] == {"mono": ["mono"]} and ours["other_files"] == {".txt": 1}
    table = (tmp_path / "table.md").read_text()
    assert "5 files of ours left out" in table and all(name in table for name in (*DEFINITIONS, *expected))
    assert ours["means"]["late_return"]["num_files"] == 2
    assert json.loads((tmp_path / "structure.json").read_text()) == json.loads(json.dumps(report))
    # The same music in one channel has the same structure.
    assert ours["per_file"]["mono"] == pytest.approx(ours["per_file"]["good"], abs=1e-3)


def test_what_is_kept_is_not_analyzed_again(folder, tmp_path, monkeypatch):
    first = folder_structures(folder, ReadingSettings(), tmp_path)

    def refuse(features):
        raise AssertionError("analyzed again")

    monkeypatch.setattr(structure, "analyze_structure", refuse)
    again = folder_structures(folder, ReadingSettings(), tmp_path)
    assert again.skipped == first.skipped and again.structures.keys() == first.structures.keys()
    for name, kept in again.structures.items():
        np.testing.assert_array_equal(kept.matrix, first.structures[name].matrix)
        assert (kept.values, kept.boundaries) == (first.structures[name].values, first.structures[name].boundaries)


def test_the_trim_is_the_music_s_first_part(tmp_path):
    write_piece(tmp_path / "a" / "long.wav", "ABC", 32)
    write_piece(tmp_path / "b" / "long.wav", "AB", 32)
    trimmed = folder_structures(tmp_path / "a", ReadingSettings(trim_in_s=32.0), tmp_path / "cache")
    whole = folder_structures(tmp_path / "b", ReadingSettings(), tmp_path / "cache")
    assert trimmed.structures["long"].duration_in_s == whole.structures["long"].duration_in_s == 32
    assert trimmed.structures["long"].values == pytest.approx(whole.structures["long"].values, abs=0.02)


def test_boundaries_are_scored_where_the_truth_is_known(tmp_path):
    write_piece(tmp_path / "audio" / "known.wav", "ABABCA", 32)
    write_piece(tmp_path / "audio" / "unknown.wav")
    sections = [{"name": "A", "start_in_s": 16.0 * number, "end_in_s": 16.0 * (number + 1)} for number in range(6)]
    manifest = tmp_path / "manifest.jsonl"
    rows = [{"path": "audio/known.wav", "sections": sections}, {"path": "audio/unknown.wav"}]
    manifest.write_text("\n".join(map(json.dumps, rows)))
    truth = read_sections(manifest)
    report = analyze_folders({"composed": tmp_path / "audio"}, tmp_path / "out", truth=truth, has_pictures=False)
    values = report["systems"]["composed"]["per_file"]
    assert values["known"]["boundary_f_3s"] >= 0.8 and "boundary_f_3s" not in values["unknown"]
    assert report["systems"]["composed"]["means"]["boundary_f_3s"]["num_files"] == 1
    with pytest.raises(ValueError, match="None of the files"):
        truth = {tmp_path / "elsewhere.wav": [0.0, 10.0]}
        analyze_folders({"composed": tmp_path / "audio"}, tmp_path / "out", truth=truth, has_pictures=False)


def test_sections_that_go_on_after_the_end_are_of_other_music(tmp_path):
    write_piece(tmp_path / "audio" / "known.wav", "ABABCA", 32)
    write_piece(tmp_path / "audio" / "other.wav", "ABA", 32)
    starts = [16.0 * number for number in range(6)]
    truth = {tmp_path / "audio" / name: starts for name in ("known.wav", "other.wav")}
    arguments = {"folders": {"x": tmp_path / "audio"}, "truth": truth, "has_pictures": False}
    system = analyze_folders(**arguments, output=tmp_path / "out")["systems"]["x"]
    assert system["means"]["boundary_f_3s"]["num_files"] == 1 and system["num_files"] == 2
    assert system["notes"] == {"other": ["boundaries not compared: the known sections go on after its end at 48.00 s"]}
    trimmed = analyze_folders(**arguments, output=tmp_path / "out", settings=ReadingSettings(40.0))["systems"]["x"]
    assert trimmed["means"]["boundary_f_3s"]["num_files"] == 2 and trimmed["notes"] == {}


def test_bad_manifests_are_named(tmp_path):
    manifest = tmp_path / "manifest.jsonl"
    line = '{"path": "a", "sections": [{"start_in_s": 0}, {"start_in_s": 5}]}\n'
    cases = (
        ("{", ":1 is not JSON"),
        ('{"path": "a"}\n\n', "no track with sections"),
        ("[]", ":1 must be a JSON"),
        (line + line, ":2: another line has the sections of a too"),
        (line.replace('"a"', '"a\\u0000"'), ":1: path must be the name of a file"),
    )
    for text, message in cases:
        manifest.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_sections(manifest)


def make_structure():
    matrix = np.eye(700, dtype=bool)
    matrix[500:600, 100:200] |= np.eye(100, dtype=bool)
    return Structure(matrix, 5.0, 140.0, (70.0,), {"late_return": 0.5})


def test_genres_that_all_systems_share_are_the_columns():
    one = make_structure()
    systems = {
        "real": dict.fromkeys(("rock/b", "rock/a", "jazz/c", "folk/d"), one),
        "ours": dict.fromkeys(("jazz/z", "rock/y"), one),
    }
    assert figure_columns(systems) == {"real": ["jazz/c", "rock/a"], "ours": ["jazz/z", "rock/y"]}
    systems["ours"] = dict.fromkeys("xy", one)
    columns = figure_columns(systems)
    assert columns == {"real": ["folk/d", "jazz/c", "rock/a", "rock/b"], "ours": ["x", "y", None, None]}
    assert len(figure_columns({"real": dict.fromkeys("abcdefg", one)})["real"]) == 5


def test_each_file_and_the_figure_are_drawn(tmp_path):
    write_piece(tmp_path / "real" / "rock" / "a.wav")
    write_piece(tmp_path / "ours" / "rock" / "b.wav", "AB")
    analyze_folders({name: tmp_path / name for name in ("real", "ours")}, tmp_path / "out")
    width, height = png_size(tmp_path / "out" / "figure.png")
    assert height > 1.5 * width
    for name in ("real/rock/a.png", "ours/rock/b.png"):
        assert png_size(tmp_path / "out" / "matrices" / name)[0] > 200


def test_one_file_has_a_mean_and_no_interval():
    summary = summarize({"only": {"late_return": 0.5}})
    assert summary == {"late_return": {"mean": 0.5, "interval": None, "num_files": 1}}
    low, high = summarize({str(n): {"x": float(n)} for n in range(20)})["x"]["interval"]
    assert low < 9.5 < high


def test_a_folder_without_music_is_refused(tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(12 * SAMPLING_RATE), SAMPLING_RATE)
    with pytest.raises(ValueError, match="no usable file: silent: silent"):
        analyze_folders({"ours": tmp_path}, tmp_path / "out")
