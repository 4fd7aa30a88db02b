"""The manifest: round trip, order, splits, and an error that names the line for every wrong one."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stable_longform.data.manifest import mix_manifests, read_manifest, write_manifest
from stable_longform.data.metadata import clean
from stable_longform.data.tracks import RESERVED, SPLITS, Track

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


def test_a_mixture_gives_each_manifest_its_share_of_the_time(tmp_path):
    folders = [tmp_path / name for name in ("composed", "recorded")]
    for folder in folders:
        folder.mkdir()
    composed = write(folders[0], *(ROW | {"path": f"{n}.flac", "duration_in_s": 100 + n} for n in range(5)))
    held_out = ROW | {"path": "v.ogg", "split": "valid", "duration_in_s": 900}
    recorded = write(folders[1], ROW | {"weight": 0.5}, ROW | {"path": "b.ogg", "duration_in_s": 40}, held_out)
    tracks = mix_manifests({composed: 3, recorded: 1})
    assert len(tracks) == 8
    times = dict.fromkeys(folders, 0.0)
    for track in tracks:
        if track.split == "train":
            times[next(f for f in folders if track.path.is_relative_to(f))] += track.weight * track.duration_in_s
    assert times[folders[0]] == pytest.approx(3 * times[folders[1]])
    first, second, _ = tracks[5:]
    assert first.weight == pytest.approx(0.5 * second.weight)  # within a manifest the proportions stay


def test_a_mixture_with_a_share_of_nothing(tmp_path):
    path = write(tmp_path, ROW)
    for share in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="manifest.jsonl must be greater than 0"):
            mix_manifests({path: share})


def test_a_mixture_in_which_a_manifest_would_vanish(tmp_path):
    paths = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        paths.append(write(tmp_path / name, ROW))
    with pytest.raises(ValueError, match="the share 1e-30 of .*second.*, a track has the weight 2e-30"):
        mix_manifests({paths[0]: 1.0, paths[1]: 1e-30})


def test_a_mixture_of_manifests_that_share_a_track(tmp_path):
    path = write(tmp_path, ROW)
    other = tmp_path / "other.jsonl"
    other.write_text(path.read_text())
    with pytest.raises(ValueError, match="a.ogg is in 2 of the manifests"):
        mix_manifests({path: 1, other: 1})


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
BYTES = st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF)  # that are not UTF-8, in Python's file names
LETTERS = st.characters(exclude_characters="\0/", exclude_categories=["Cs"])
NAMES = st.text(LETTERS | BYTES, min_size=1).filter(lambda name: name not in (".", ".."))
TRACKS = st.builds(
    lambda name, duration_in_s, split, weight, metadata: (name, duration_in_s, split, weight, metadata),
    NAMES,
    st.floats(0.001, 1e6),
    st.sampled_from(SPLITS),
    st.floats(0.001, 1e6),
    st.dictionaries(TEXT.filter(lambda key: key not in RESERVED), TEXT | st.integers() | st.lists(TEXT), max_size=3),
)


@given(rows=st.lists(TRACKS, min_size=1, max_size=4, unique_by=lambda row: row[0]))
def test_what_is_written_is_read_back(tmp_path_factory, rows):
    """Names of any bytes, metadata with line separators of every kind."""
    folder = tmp_path_factory.mktemp("manifest")
    tracks = [
        Track(folder / name, duration_in_s, split, weight, clean(metadata)[0])
        for name, duration_in_s, split, weight, metadata in rows
    ]
    write_manifest(folder / "manifest.jsonl", tracks)
    assert read_manifest(folder / "manifest.jsonl") == tracks


@pytest.mark.parametrize("line", ["5", "null", "[]", '"a"'])
def test_lines_that_are_no_objects_are_told(tmp_path, line):
    (tmp_path / "manifest.jsonl").write_text(line)
    with pytest.raises(ValueError, match="manifest.jsonl:1 must be a JSON object, got"):
        read_manifest(tmp_path / "manifest.jsonl")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": 5}, "manifest.jsonl:1: path must be the name of a file, got 5"),
        ({"path": ["a"]}, "path must be the name of a file"),
        ({"path": ""}, "path must be the name of a file"),
        ({"path": "a\0"}, "path must be the name of a file"),
        ({"duration_in_s": True}, "duration_in_s must be a number .*got True"),
        ({"duration_in_s": float("inf")}, "duration_in_s must be .*got inf"),
        ({"duration_in_s": 10**400}, "duration_in_s must be a number"),
        ({"weight": None}, "weight must be a number"),
        ({"split": []}, "split must be one of"),
        ({"member": "b", "offset": "0", "num_bytes": 1}, "offset must be a whole number"),
        ({"member": "b", "offset": 0, "num_bytes": -1}, "num_bytes must be a whole number"),
    ],
)
def test_values_of_a_wrong_kind_are_told(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        read_manifest(write(tmp_path, ROW | change))


def test_a_track_that_is_named_twice_is_told(tmp_path):
    with pytest.raises(ValueError, match="manifest.jsonl:3 names the track of .*manifest.jsonl:1 again: music/a.ogg"):
        read_manifest(write(tmp_path, ROW, ROW | {"path": "b.ogg"}, ROW))
