"""`stable-longform data`: the commands on a small corpus with mistakes."""

import json
import random

import pytest
from corpora import RATE, encode, write_folder, write_tar

from stable_longform.cli import main
from stable_longform.data.manifest import read_manifest
from stable_longform.data.prompts import build_prompt

ROW = {"genre": ["Rock"], "moods": ["Calm", "Warm"], "bpm": 90}


@pytest.fixture
def music(tmp_path):
    """Three tracks, one of them without metadata, and a file that is none."""
    folder = write_folder(tmp_path / "music", {f"{name}.wav": encode(0, "wav", RATE) for name in "abc"})
    for name in "ab":
        (folder / f"{name}.json").write_text(json.dumps(ROW))
    (folder / "broken.ogg").write_text("no audio")
    return folder


def run(capsys, *arguments):
    """Exit code, standard output and standard error of `data`."""
    code = main(["data", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_inspect_prints_and_writes(capsys, tmp_path, music):
    pytest.importorskip("matplotlib")
    output = "--manifest", tmp_path / "m.jsonl", "--figure", tmp_path / "lengths.png"
    code, out, _ = run(capsys, "inspect", music, *output)
    assert code == 0
    assert out.startswith("3 tracks, 0.00 h\n")
    assert "sampling rates: 22050 (3)" in out and "loudness of 3 tracks" in out
    assert "prompt fields: bpm (2), genre (2), moods (2); without any: 1" in out
    assert "cannot be used: 1 (1 broken)" in out and "broken.ogg" in out
    assert (tmp_path / "lengths.png").read_bytes()[:4] == b"\x89PNG"
    tracks = read_manifest(tmp_path / "m.jsonl")
    assert [track.path.resolve() for track in tracks] == [music / f"{name}.wav" for name in "abc"]
    assert tracks[0].metadata == ROW and tracks[0].duration_in_s == 1.0


def test_inspect_of_a_manifest_checks_the_files(capsys, tmp_path, music):
    rows = [{"path": "music/a.wav", "duration_in_s": 1.0}, {"path": "music/b.wav", "duration_in_s": 3.0}]
    (tmp_path / "m.jsonl").write_text("\n".join(json.dumps(row | {"split": "test"}) for row in rows))
    code, out, _ = run(capsys, "inspect", tmp_path / "m.jsonl", "--json", "--measure", 0)
    summary = json.loads(out)
    assert code == 0 and summary["num_tracks"] == 1 and summary["num_measured"] == 0
    assert summary["bad"]["mislabelled"] == 1 and "b.wav" in summary["bad_tracks"][0]


def test_inspect_of_tars_and_streams(capsys, tmp_path):
    pytest.importorskip("webdataset")
    write_tar(tmp_path / "0.tar", {"a.wav": encode(0, "wav", RATE), "b.wav": encode(1, "wav", RATE), "c.wav": b"no"})
    manifest = "--manifest", tmp_path / "m.jsonl"
    code, out, _ = run(capsys, "inspect", tmp_path / "{0..1}.tar", "--json", *manifest)
    assert code == 0 and len(read_manifest(tmp_path / "m.jsonl")) == 2
    listed = json.loads(out)
    code, out, _ = run(capsys, "inspect", f"stream:{tmp_path}/{{0..1}}.tar", "--json")
    streamed = json.loads(out)
    assert code == 0 and streamed["num_tracks"] == listed["num_tracks"] == 2
    assert streamed["loudness"] == listed["loudness"]
    assert streamed["bad"]["broken"] == 2  # the file and the missing tar
    code, out, _ = run(capsys, "inspect", f"stream:{tmp_path}/0.tar", "--json", "--limit", 1)
    assert json.loads(out)["num_tracks"] == 1
    code, _, err = run(capsys, "inspect", f"stream:{tmp_path}/0.tar", *manifest)
    assert code == 2 and "a manifest lists files" in err


def test_mix_writes_one_manifest(capsys, tmp_path, music):
    assert run(capsys, "inspect", music, "--manifest", music / "m.jsonl", "--measure", 0)[0] == 0
    row = {"path": str(tmp_path / "d.wav"), "duration_in_s": 3, "split": "train"}
    (tmp_path / "other.jsonl").write_text(json.dumps(row) + "\n")
    output, shares = tmp_path / "mixed.jsonl", (f"{music / 'm.jsonl'}=1", f"{tmp_path / 'other.jsonl'}=2")
    code, out, _ = run(capsys, "mix", output, *shares)
    assert code == 0 and out == f"4 tracks: {output}\n"
    paths = {music / f"{name}.wav" for name in "abc"} | {tmp_path / "d.wav"}
    assert {track.path for track in read_manifest(output)} == paths


@pytest.mark.parametrize("argument", ["m.jsonl", "m.jsonl=", "m.jsonl=two"])
def test_mix_without_a_share(capsys, tmp_path, argument):
    code, _, err = run(capsys, "mix", tmp_path / "mixed.jsonl", argument)
    assert code == 2 and "MANIFEST=SHARE" in err and not (tmp_path / "mixed.jsonl").exists()


def test_prompts_are_those_of_the_builder(capsys, music):
    code, out, _ = run(capsys, "prompts", music, "--preview", 2, "--seed", 5)
    rng = random.Random(5)
    expected = []
    for name in "ab":
        expected += [f"{name}.wav", *(f"    {build_prompt(ROW, rng)}" for _ in range(2))]
    assert code == 0 and out.splitlines() == [*expected, "c.wav", "    (no metadata: no prompt)"]
    code, out, _ = run(capsys, "prompts", music, "--preview", 2, "--seed", 5, "--limit", 1)
    assert out.splitlines() == expected[:3]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("inspect", "nowhere"), "nowhere is not a source of music"),
        (("prompts", "nowhere"), "nowhere is not a source of music"),
        (("inspect", "{music}", "--split", "dev"), "split must be one of train"),
        (("inspect", "{music}", "--split", "test"), "no track in split 'test'"),
        (("inspect", "{music}", "--figure", "x.gif"), "extension must be one of .png, .svg, .pdf, got '.gif'"),
        (("inspect", "{music}", "--manifest", "x.json"), "extension must be one of .jsonl, got '.json'"),
        (("inspect", "{music}", "--manifest", "no/where.jsonl"), "does not exist"),
        (("prompts", "{music}", "--preview", "0"), "preview"),
    ],
)
def test_bad_input_ends_in_one_line(capsys, music, arguments, message):
    code, out, err = run(capsys, *(str(part).replace("{music}", str(music)) for part in arguments))
    assert code == 2 and out == "" and message in err
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1
