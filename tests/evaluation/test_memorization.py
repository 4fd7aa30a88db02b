"""Memorization from files to report: planted duplicates and planted copies are found, and nothing else is."""

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import synthetic_audio

from stable_longform import cli
from stable_longform.data.tracks import Track
from stable_longform.evaluation import memorization
from stable_longform.evaluation.memorization import MemorizationAnalysis, MemorizationSettings, choose_prompts
from stable_longform.metrics.embedders.chroma import ChromaEmbedder
from stable_longform.metrics.embedders.mel44 import Mel44Embedder

RATE = 44100
SETTINGS = MemorizationSettings(3.0, 6.0, 2, 3)


def make_piece(seed, seconds=9.0):
    """Music whose tones change every 3 s, `(num_samples, 2)`."""
    parts = [synthetic_audio(3 * RATE, seed=10 * seed + part) for part in range(int(seconds // 3))]
    return np.concatenate(parts, axis=1).T


def write_files(folder, pieces):
    folder.mkdir(parents=True, exist_ok=True)
    for name, piece in pieces.items():
        soundfile.write(folder / f"{name}.wav", piece, RATE, subtype="PCM_24")
    return {name: folder / f"{name}.wav" for name in pieces}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Eight training recordings, of which 6 is 2 at another level; four others; five that are bad."""
    folder = tmp_path_factory.mktemp("corpus")
    pieces = {f"train{n}": make_piece(n) for n in range(6)} | {"train6": 0.3 * make_piece(2), "train7": make_piece(7)}
    write_files(folder, pieces | {f"held{n}": make_piece(20 + n) for n in range(4)})
    bad = {"silent": np.zeros((4 * RATE, 2)), "empty": np.zeros((0, 2)), "short": make_piece(8)[:RATE]}
    write_files(folder, bad)
    soundfile.write(folder / "nan.wav", np.full((4 * RATE, 2), np.nan), RATE, subtype="FLOAT")
    (folder / "broken.wav").write_bytes(b"no audio")
    rows = [(f"train{n}", "train") for n in range(8)] + [(f"held{n}", "test") for n in range(4)]
    rows += [(name, "train") for name in ("silent", "broken", "empty", "short", "nan")]
    lines = [
        {"path": f"{name}.wav", "duration_in_s": 9.0, "split": split, "genre": [f"Genre {number}"]}
        for number, (name, split) in enumerate(rows)
    ]
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """One that is new; one that holds 3 s of train4, from 4.5 s on, among other music; a silent one."""
    folder = tmp_path_factory.mktemp("generated")
    copied = np.concatenate(
        [make_piece(31)[: 3 * RATE], make_piece(4)[3 * RATE : 6 * RATE], make_piece(32)[: 3 * RATE]]
    )
    pieces = {"new": make_piece(40), "copied": 0.5 * copied, "silent": np.zeros((4 * RATE, 2))}
    write_files(folder / "ours", pieces)
    write_files(folder / "other", {"new": make_piece(50)})
    return folder


def arguments(corpus, generated, output):
    folders = ("--generated", f"ours={generated / 'ours'}", "--generated", f"training={generated / 'other'}")
    options = ("--segment", "3", "--duration", "6", "--num-copies", "2", "--num-splices", "3")
    return ["analyze", "memorization", str(corpus / "manifest.jsonl"), "-o", str(output), *folders, *options]


@pytest.fixture(scope="module")
def report(corpus, generated, tmp_path_factory):
    output = tmp_path_factory.mktemp("report")
    card = output / "README.md"
    card.write_text("# Model\n\n## Memorization\n\nout of date\n\n## Licence\n\nfree\n")
    assert cli.main([*arguments(corpus, generated, output), "--card", str(output)]) == 0
    return output


def test_the_planted_duplicate_is_the_only_group(report):
    found = json.loads((report / "memorization.json").read_text())
    (group,) = found["duplicates"]["groups"]
    assert [name.split("/")[-1] for name in group["names"]] == ["train2.wav", "train6.wav"]
    assert group["lowest"] > 0.999 and found["duplicates"]["num_recordings"] == 8
    copies = found["calibration"]["copies"]
    for kind in ("exact", "quieter"):
        assert copies[kind]["found"]["rate"] == 1 and min(copies[kind]["cosines"]) > 0.999
    assert all(len(copy["cosines"]) == 2 and max(copy["cosines"]) <= 1 + 1e-6 for copy in copies.values())
    assert found["calibration"]["duplicate_false_positives"]["rate"] == 0


def test_the_copied_passage_is_found_in_its_place(report):
    found = json.loads((report / "memorization.json").read_text())
    first = found["closest"][0]
    assert (first["group"], first["name"]) == ("ours", "copied") and first["cosine"] > 0.99
    assert first["source"].endswith("train4.wav") and (first["start_in_s"], first["source_start_in_s"]) == (3.0, 3.0)
    ours = found["verdict"]["generations"]["ours"]
    assert (ours["num_generations"], ours["num_flagged"]) == (2, 1)
    assert found["verdict"]["generations"]["training"]["num_flagged"] == 0  # its name is no problem
    assert json.loads((report / "verdict.json").read_text()) == found["verdict"]


def test_more_of_the_training_music_is_found_more_often(report):
    curve = json.loads((report / "memorization.json").read_text())["splices"]
    rates = [rate["rate"] for rate in curve["rates"].values()]
    assert rates == sorted(rates) and rates[0] == 0 and rates[-1] > 0.5
    means = [np.mean(scores["cosines"]) for scores in curve["scores"].values()]
    assert means[0] + 0.1 < min(means[3:])
    assert curve["scores"]["1"]["num_of_source"] >= 2  # train2 and train6 are one piece


def test_what_is_left_out_is_named_and_the_card_has_the_answer(report):
    table, card = (report / "table.md").read_text(), (report / "README.md").read_text()
    assert "silent.wav: mel44: silent" in table and "broken.wav: unreadable" in table and "- silent: mel44" in table
    assert "short.wav: mel44: " in table and "empty.wav: empty" in table and "nan.wav: samples that are not" in table
    assert "5 files of the training set were left out" in table
    answer = json.loads((report / "verdict.json").read_text())["answer"]
    assert (
        answer in table and answer in card and "out of date" not in card and card.endswith("\n\n## Licence\n\nfree\n")
    )


def test_the_page_holds_everything_it_shows(report):
    page = (report / "closest.html").read_text()
    assert page.count("<article") == 3 and page.count("<audio") == page.count("<img") == 6
    assert page.count('<article class="copy">') == 1 and "train4.wav, 3.0 s to 6.0 s" in page
    assert "http" not in page.replace("http-equiv", "") and page.count("src=") == page.count('src="data:')


def make_analysis(corpus, output, *processes):
    sets = [memorization.open_tracks(corpus / "manifest.jsonl", (split,)) for split in ("train", "test")]
    files = [{name: track.path for name, track in tracks.items()} for tracks in sets]
    return MemorizationAnalysis(*files, Mel44Embedder(), output, SETTINGS, None, *processes)


def test_it_goes_on_where_it_stopped(report, corpus, monkeypatch):
    def refuse(_, waveform):
        assert waveform.shape[1] < 3 * RATE, "embedded again"
        raise ValueError("too short")

    analysis, found = make_analysis(corpus, report), json.loads((report / "memorization.json").read_text())
    monkeypatch.setattr(Mel44Embedder, "__call__", refuse)
    analysis.embed()
    assert analysis.calibrate() == found["calibration"]
    assert analysis.find_duplicates(found["duplicates"]["threshold"]) == found["duplicates"]


def test_several_processes_find_the_same(report, corpus, tmp_path):
    barrier, results = threading.Barrier(3), [None] * 3

    def work(process):
        analysis = make_analysis(corpus, tmp_path, process, 3, barrier.wait)
        analysis.embed()
        calibration = analysis.calibrate()
        results[process] = calibration, analysis.find_duplicates(calibration["duplicate_threshold"])

    threads = [threading.Thread(target=work, args=(process,)) for process in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = json.loads((report / "memorization.json").read_text())
    assert results == [(found["calibration"], found["duplicates"])] * 3


def make_melody(seed):
    """Twenty seconds of notes of a quarter of a second, `(num_samples, 2)`."""
    pitches = np.random.default_rng(seed).integers(-12, 24, 80)
    tones = [np.sin(440 * 2 ** (pitch / 12) * np.arange(RATE // 4) / 7000) for pitch in pitches]
    return 0.3 * np.concatenate(tones)[:, None].repeat(2, axis=1)


def test_chroma_finds_duplicates_that_begin_elsewhere(tmp_path):
    pieces = {f"piece{n}": make_melody(n) for n in range(6)}
    pieces |= {"shifted": pieces["piece2"][round(3.3 * RATE) :], "cut": pieces["piece4"][5 * RATE : 15 * RATE]}
    training = write_files(tmp_path / "training", pieces)
    held_out = write_files(tmp_path / "held_out", {f"held{n}": make_melody(20 + n) for n in range(4)})
    settings = MemorizationSettings(4.0, 8.0, 3, 1)
    analysis = MemorizationAnalysis(training, held_out, ChromaEmbedder(), tmp_path / "out", settings)
    analysis.embed()
    found = analysis.calibrate()
    assert max(found["held_out"]) < 0.6
    assert all(min(found["copies"][kind]["cosines"]) > 0.99 for kind in ("exact", "quieter", "re-encoded"))
    assert all(min(found["copies"][kind]["cosines"]) > 0.7 for kind in ("shifted", "cut"))
    duplicates = analysis.find_duplicates(0.7)
    assert [group["names"] for group in duplicates["groups"]] == [["piece2", "shifted"], ["piece4", "cut"]]
    assert len(duplicates["nearest"]) == 8 and sum(np.array(duplicates["nearest"]) > 0.7) == 4


@pytest.mark.parametrize("num_processes", [1, 2])
def test_held_out_music_that_is_gone_or_broken_has_no_excerpt(corpus, tmp_path, num_processes):
    shutil.copytree(corpus, tmp_path / "corpus")
    barrier = threading.Barrier(num_processes)
    analyses = [
        make_analysis(tmp_path / "corpus", tmp_path, number, num_processes, barrier.wait)
        for number in range(num_processes)
    ]
    (tmp_path / "corpus" / "held1.wav").unlink()
    (tmp_path / "corpus" / "held2.wav").write_bytes(b"no audio")
    threads = [threading.Thread(target=analysis.embed) for analysis in analyses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held_out, excerpts = analyses[0].open("held_out"), analyses[0].open("excerpts")
    assert [Path(name).name for name in held_out.names] == ["held0.wav", "held3.wav"]
    assert sorted(Path(name).name for name in held_out.skipped) == ["held1.wav", "held2.wav"]
    assert (excerpts.names, excerpts.skipped) == (held_out.names, {})
    assert tuple(analyses[0].usable_held_out) == held_out.names  # the others cannot be spliced into


def test_prompts_of_duplicates_come_first_then_those_that_are_shared(tmp_path):
    genres = {"a": "Rock", "b": "Jazz", "c": "Jazz", "d": "Folk", "e": None, "f": "Pop"}
    tracks = {
        name: Track(tmp_path / name, 1.0, "train", metadata={"genre": [genre]} if genre else {})
        for name, genre in genres.items()
    }
    for seed in range(5):
        rows = choose_prompts(tracks, [["d", "f"]], 5, "x", seed)
        names = [row.reference for row in rows]
        assert (set(names[:2]), set(names[2:4]), names[4:]) == ({"d", "f"}, {"b", "c"}, ["a"])
        assert [row.id for row in rows] == [f"x-{number:04d}" for number in range(5)]
        assert all(genres[row.reference].lower() in row.prompt.lower() for row in rows)
        assert rows == choose_prompts(tracks, [["d", "f"]], 5, "x", seed)


def test_prompts_do_not_depend_on_where_the_music_lies(tmp_path):
    """The same set in two folders gives the same prompts, for the same recordings in the same order."""
    metadata = {"genre": ["Rock", "Jazz"], "instruments": ["Piano", "Drums", "Bass"], "moods": ["Calm"], "bpm": 120}

    def prompts(folder):
        paths = [folder / "sub" / f"{number}.wav" for number in range(20)]
        tracks = {path.as_posix(): Track(path, 1.0, "train", metadata=metadata) for path in paths}
        rows = choose_prompts(tracks, [[paths[3].as_posix(), paths[5].as_posix()]], 12, "x")
        return [(row.id, row.prompt, Path(row.reference).name) for row in rows]

    found = prompts(tmp_path / "a")
    assert found == prompts(tmp_path / "elsewhere" / "b")
    assert len({prompt for _, prompt, _ in found}) > 6  # they are drawn, so equality says something


@pytest.mark.parametrize(
    ("options", "message"),
    (
        (["nowhere.jsonl", "-o", "{out}"], "nowhere.jsonl"),
        (["{manifest}", "-o", "{out}", "--segment", "0"], "--segment"),
        (["{manifest}", "-o", "{out}", "--generated", "a=nowhere"], "nowhere is not a folder"),
        (["{manifest}", "-o", "{out}", "--embedder", "ears"], "must be one of"),
        (["{train_only}", "-o", "{out}"], "no track in the splits valid, test"),
        (["{one}", "-o", "{out}", "--segment", "9"], "passages that differ; all 1 are the same"),
        (
            ["{manifest}", "-o", "{out}", "--max-duration", "2", "--segment", "3"],
            "No file of the set 'training' can be used: ",
        ),
    ),
)
def test_bad_input_ends_in_one_line(corpus, tmp_path, capsys, options, message):
    lines = (corpus / "manifest.jsonl").read_text().split("\n")
    (corpus / "train.jsonl").write_text("\n".join(lines[:8]))
    (corpus / "one.jsonl").write_text("\n".join([lines[0], lines[8]]))
    places = {"manifest": corpus / "manifest.jsonl", "train_only": corpus / "train.jsonl"}
    places |= {"one": corpus / "one.jsonl", "out": tmp_path / "out"}
    assert cli.main(["analyze", "memorization", *(option.format(**places) for option in options)]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ") and message in line
