"""The script that composes a corpus: files, manifest, resuming, wrong arguments. Rendering needs a soundfont."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from launch import ROOT, check_script
from soundfont import SOUNDFONT, needs_soundfont

from stable_longform.data.sources import open_source
from stable_longform.utils.audio import read_audio, read_info

SCRIPT = ROOT / "training" / "compose_music.py"
SIZES = ("--num_pieces", 3, "--num_stems", 1, "--num_one_shots", 2, "--min_duration_in_s", 20)
SIZES += ("--max_duration_in_s", 22, "--first_seed", 17, "--num_processes", 2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("composed") / "corpus"
    result = check_script("compose_music.py", "--output_dir", folder, "--soundfont", SOUNDFONT, "--parts", *SIZES)
    assert result.stdout.startswith("6 recordings, ") and str(folder / "manifest.jsonl") in result.stdout
    return folder


def rows_of(corpus: Path) -> list[dict]:
    return [json.loads(line) for line in (corpus / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


@needs_soundfont
def test_the_manifest_is_a_source_with_all_splits(corpus):
    tracks = open_source(corpus / "manifest.jsonl").tracks
    pieces = [track for track in tracks if track.metadata["kind"] == "piece"]
    assert [track.split for track in pieces] == ["train", "valid", "test"]
    for track in tracks:
        info = read_info(track.path)
        assert (info.sampling_rate, info.channels) == (44100, 2)
        assert 0 <= info.duration_in_s - track.duration_in_s < 1e-3
    names = [row["path"] for row in rows_of(corpus)]
    assert names == [
        *("audio/one-shot-17.flac", "audio/one-shot-18.flac"),
        *("audio/piece-17.flac", "audio/piece-18.flac", "audio/piece-19.flac", "audio/stem-17.flac"),
    ]


@needs_soundfont
def test_parts_add_up_to_their_piece(corpus):
    row = next(row for row in rows_of(corpus) if row["kind"] == "piece")
    waveform, _ = read_audio(corpus / row["path"])
    parts = sum(read_audio(corpus / path)[0] for path in row["parts"].values())
    torch.testing.assert_close(parts, waveform, atol=len(row["parts"]) * 2**-15, rtol=0)


@needs_soundfont
def test_what_is_there_is_kept_and_what_is_gone_comes_back_the_same(corpus):
    before = (corpus / "manifest.jsonl").read_bytes()
    kept, lost = corpus / "audio" / "piece-17.flac", corpus / "audio" / "one-shot-18.flac"
    stamp, content = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    check_script("compose_music.py", "--output_dir", corpus, "--soundfont", SOUNDFONT, "--parts", *SIZES)
    assert kept.stat().st_mtime_ns == stamp and lost.read_bytes() == content
    assert (corpus / "manifest.jsonl").read_bytes() == before


@needs_soundfont
def test_the_time_limit_leaves_as_many_as_are_asked_for_at_least(tmp_path):
    for least in (3, 5):
        options = ("--num_pieces", 0, "--num_one_shots", 8, "--max_minutes", 1e-6, "--min_recordings", least)
        options += ("--soundfont", SOUNDFONT, "--num_processes", 1)
        check_script("compose_music.py", "--output_dir", tmp_path, *options)
        assert [row["seed"] for row in rows_of(tmp_path)] == list(range(least))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--num_pieces", -1), "argument --num_pieces: must be a whole number in [0, 10^7], got '-1'"),
        (("--num_processes", 0), "argument --num_processes: must be a whole number in [1, 1024], got '0'"),
        (("--min_duration_in_s", 10), "argument --min_duration_in_s: must be a number in [20, 285], got '10'"),
        (
            ("--max_duration_in_s", 50),
            "argument --min_duration_in_s: must be at most max_duration_in_s, got 60 and 50",
        ),
        (("--soundfont", "missing.sf2"), "There is no soundfont missing.sf2."),
    ],
)
def test_wrong_arguments(arguments, message, tmp_path, capsys):
    main = runpy.run_path(str(SCRIPT))["main"]
    assert main(["--output_dir", str(tmp_path / "corpus"), *map(str, arguments)]) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("compose_music.py: error: ") and message in stderr
    assert len(stderr.splitlines()) == 1
    assert not (tmp_path / "corpus").exists()
