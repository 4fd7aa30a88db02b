"""The manifest: round trip, order, splits, and an error that names the line for every wrong one."""

import json
from pathlib import Path

import pytest

from stable_longform.data.manifest import read_manifest
from stable_longform.data.tracks import SPLITS, Track

ROW = {"path": "music/a.ogg", "duration_in_s": 12.5, "split": "train"}


def write(folder: Path, *rows: dict) -> Path:
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_round_trip(tmp_path):
    metadata = {"title": "D\u00e4mmerung", "moods": ["Calm", "Dark"], "bpm": 90}
    path = write(tmp_path, ROW | {"weight": 0.5} | metadata)
    assert read_manifest(path) == [Track(tmp_path / "music/a.ogg", 12.5, "train", 0.5, metadata)]


def test_weight_and_metadata_are_optional(tmp_path):
    (track,) = read_manifest(write(tmp_path, ROW))
    assert track.weight == 1.0 and track.metadata == {}


def test_absolute_paths_stay_absolute(tmp_path):
    (track,) = read_manifest(write(tmp_path, ROW | {"path": "/elsewhere/a.ogg"}))
    assert track.path == Path("/elsewhere/a.ogg")


def test_splits_partition_the_tracks_in_the_order_of_the_file(tmp_path):
    rows = [ROW | {"path": f"{index}.ogg", "split": split} for index, split in enumerate(SPLITS * 2)]
    path = write(tmp_path, *rows)
    assert [track.path.name for track in read_manifest(path)] == [row["path"] for row in rows]
    for index, split in enumerate(SPLITS):
        assert [track.path.name for track in read_manifest(path, split)] == [f"{index}.ogg", f"{index + 4}.ogg"]


def test_blank_lines_are_skipped(tmp_path):
    path = tmp_path / "manifest.jsonl"
    path.write_text("\n" + json.dumps(ROW) + "\n   \n")
    assert len(read_manifest(path)) == 1


@pytest.mark.parametrize("key", ["path", "duration_in_s", "split"])
def test_missing_keys_are_named_with_their_line(tmp_path, key):
    row = {name: value for name, value in ROW.items() if name != key}
    with pytest.raises(ValueError, match=f"manifest.jsonl:2: missing {key}"):
        read_manifest(write(tmp_path, ROW, row))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "dev"}, "manifest.jsonl:1: split must be one of train, valid, test, extra, got 'dev'"),
        ({"duration_in_s": 0}, "manifest.jsonl:1: duration_in_s must be a number greater than 0 and finite, got 0"),
        ({"duration_in_s": -3}, "greater than 0"),
        ({"weight": 0}, "greater than 0"),
        ({"weight": float("nan")}, "greater than 0"),
    ],
)
def test_wrong_values_are_named_with_their_line(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        read_manifest(write(tmp_path, ROW | change))


def test_a_wrong_line_of_another_split_is_an_error_too(tmp_path):
    with pytest.raises(ValueError, match="manifest.jsonl:2"):
        read_manifest(write(tmp_path, ROW, ROW | {"split": "test", "duration_in_s": 0}), "train")


def test_text_that_is_not_json_is_an_error(tmp_path):
    path = tmp_path / "manifest.jsonl"
    path.write_text("a.ogg, 12.5, train\n")
    with pytest.raises(ValueError):
        read_manifest(path)


def test_unknown_split_and_no_tracks(tmp_path):
    path = write(tmp_path, ROW)
    with pytest.raises(ValueError, match="split must be one of train, valid, test, extra, got 'dev'"):
        read_manifest(path, "dev")
    with pytest.raises(ValueError, match="has no track in split 'valid'"):
        read_manifest(path, "valid")
    with pytest.raises(ValueError, match="has no track"):
        read_manifest(write(tmp_path))
