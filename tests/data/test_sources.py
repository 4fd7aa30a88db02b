"""The same recordings in every format are the same tracks, with the same crops; what cannot be used is told."""

import csv
import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import RATE, encode, items_of, write_folder, write_tar

from stable_longform.data.audio_crops import CropMaker
from stable_longform.data.bad_tracks import TooManyBadTracks
from stable_longform.data.manifest import manifest_row
from stable_longform.data.sources import is_stream, open_source
from stable_longform.data.tracks import Track

NAMES = ("a.wav", "b.flac", "c.ogg", "d.wav", "e.flac", "f.ogg")
FORMATS = ("folder", "table", "csv", "manifest", "tars", "saved", "parquet")


def tracks_of(*arguments, **options) -> Sequence[Track]:
    return open_source(*arguments, **options).tracks


def describe(number: int) -> dict:
    """Metadata of a recording, and its split."""
    row = {"genre": ["Rock"] if number % 2 else ["Jazz", "Blues"], "bpm": 100 + number}
    return row | {"description": f"number {number}", "split": "valid" if number == 4 else "train"}


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, str]:
    """One corpus in every format."""
    datasets = pytest.importorskip("datasets")
    root = tmp_path_factory.mktemp("sources")
    audio = {name: encode(number, name[2:]) for number, name in enumerate(NAMES)}
    rows = [describe(number) for number in range(len(NAMES))]
    folder = write_folder(root / "folder", audio)
    for name, row in zip(NAMES, rows, strict=True):
        (folder / name).with_suffix(".json").write_text(json.dumps(row))
    table = write_folder(root / "table", audio)
    for path in (table / "metadata.csv", root / "music.csv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["file_name", *rows[0]])
            writer.writeheader()
            for name, row in zip(NAMES, rows, strict=True):
                place = name if path.parent == table else f"folder/{name}"
                writer.writerow(row | {"file_name": place, "genre": "; ".join(row["genre"])})
    lines = [
        json.dumps({"path": f"folder/{name}", "duration_in_s": 2.0, **row})
        for name, row in zip(NAMES, rows, strict=True)
    ]
    (root / "manifest.jsonl").write_text("\n".join(lines))
    for shard in range(2):
        files = {}
        for name, row in list(zip(NAMES, rows, strict=True))[shard::2]:
            files |= {f"x/{name[0]}.json": json.dumps(row).encode(), f"x/{name}": audio[name]}
        write_tar(root / f"{shard}.tar", files)
    dataset = datasets.Dataset.from_list(
        [{"audio": {"bytes": audio[n], "path": n}} | row for n, row in zip(NAMES, rows, strict=True)]
    )
    dataset.cast_column("audio", datasets.Audio(decode=False)).save_to_disk(root / "saved")
    (root / "parquet").mkdir()
    dataset.to_parquet(root / "parquet" / "train.parquet")
    return {name: str(root / name) for name in ("folder", "table", "saved", "parquet")} | {
        "csv": str(root / "music.csv"),
        "manifest": str(root / "manifest.jsonl"),
        "tars": str(root / "{0..1}.tar"),
    }


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_tracks_and_crops(sources, name):
    tracks = sorted(tracks_of(sources[name]), key=lambda track: int(track.metadata["bpm"]))
    expected = tracks_of(sources["folder"])
    for track, other in zip(tracks, expected, strict=True):
        assert (track.duration_in_s, track.split, track.weight) == (2.0, other.split, 1.0)
        metadata = track.metadata if name not in ("csv", "table") else {**track.metadata, "bpm": other.metadata["bpm"]}
        assert metadata == other.metadata
    crops, others = (
        items_of(tracks, CropMaker(4000, 16000), seed=1),
        items_of(expected, CropMaker(4000, 16000), seed=1),
    )
    for index in range(6):
        assert torch.equal(crops[index]["waveform"], others[index]["waveform"])
        assert crops[index]["seconds_total"] == 2.0


@pytest.mark.parametrize("name", FORMATS)
def test_splits(sources, name):
    assert [track.metadata["description"] for track in tracks_of(sources[name], "valid")] == ["number 4"]
    assert len(tracks_of(sources[name], "train")) == 5
    with pytest.raises(ValueError, match="has no track in split 'test'"):
        tracks_of(sources[name], "test")
    with pytest.raises(ValueError, match="split must be one of train, valid, test, extra, got 'dev'"):
        tracks_of(sources[name], "dev")


@pytest.mark.parametrize("name", ["folder", "manifest", "stream:tars"])
def test_every_source_limits_the_share_of_unusable_tracks_as_it_was_asked_to(sources, name):
    prefix, _, kind = name.rpartition(":")
    place = f"{prefix}:{sources[kind]}" if prefix else sources[kind]
    assert open_source(place, max_bad_fraction=0.25).bad_tracks.max_fraction == 0.25
    for fraction in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"max_bad_fraction must be in \[0, 1\], got"):
            open_source(place, max_bad_fraction=fraction)
        with pytest.raises(ValueError, match="max_bad_fraction"):  # before the source is looked for
            open_source(f"{place}/not there", max_bad_fraction=fraction)


def test_a_stream_of_one_dataset_is_divided_by_its_column(sources):
    found = {split: list(open_source("stream:" + sources["saved"], split).found()) for split in ("train", "valid")}
    assert [track.metadata["description"] for track in found["valid"]] == ["number 4"] and len(found["train"]) == 5


def test_splits_that_are_given_stay(tmp_path):
    """Also if no track is left for the other one."""
    data = encode(0, "wav", RATE)
    (tmp_path / "music" / "train").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "music" / "train" / f"{number}.wav").write_bytes(data)
    assert [track.split for track in tracks_of(tmp_path / "music")] == ["train"] * 3


def test_workers_read_datasets_and_tars(sources):
    """Tracks of every storage can go to another process."""
    for name in ("tars", "saved"):
        crops = items_of(tracks_of(sources[name]), CropMaker(1000, RATE))
        copy = pickle.loads(pickle.dumps(crops))
        loader = torch.utils.data.DataLoader(copy, batch_sampler=[[0], [1]], num_workers=1, collate_fn=list)
        for index, (item,) in enumerate(loader):
            assert torch.equal(item["waveform"], crops[index]["waveform"])


def test_tar_members_in_a_manifest(sources, tmp_path):
    tracks = tracks_of(sources["tars"])
    lines = [json.dumps(manifest_row(track, tmp_path)) for track in tracks]
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines))
    assert tracks_of(tmp_path / "manifest.jsonl") == tracks
    in_memory = tracks_of(sources["saved"])[0]
    with pytest.raises(ValueError, match="is not a file"):
        manifest_row(in_memory, tmp_path)
    (tmp_path / "short.jsonl").write_text('{"path": "a.tar", "member": "b", "duration_in_s": 1, "split": "train"}')
    with pytest.raises(ValueError, match="short.jsonl:1: missing offset, num_bytes"):
        tracks_of(tmp_path / "short.jsonl")


def test_what_a_folder_says_besides(tmp_path):
    """Folders named like a split, text files as descriptions, other tools' names, upper-case extensions."""
    folder = write_folder(tmp_path / "music", {})
    for place in ("train/one.wav", "validation/deep/two.WAV", "test/three.wav"):
        (folder / place).parent.mkdir(parents=True)
        (folder / place).write_bytes(encode(0, "wav"))
    (folder / "train/one.txt").write_text("A calm piece.\n")
    (folder / "test/three.json").write_text(
        '{"caption": "loud", "tempo": 90, "mood": ["x"], "key": null, "split": ""}'
    )
    by_name = {track.path.stem: track for track in tracks_of(folder)}
    assert {name: track.split for name, track in by_name.items()} == {"one": "train", "two": "valid", "three": "test"}
    assert by_name["one"].metadata == {"description": "A calm piece."}
    assert by_name["three"].metadata == {"description": "loud", "bpm": 90, "moods": ["x"]}


def test_splits_are_drawn_by_name(tmp_path):
    """About one in twenty is valid, at least one, whatever else there is and in any order."""
    data = encode(0, "wav", RATE)
    folder = write_folder(tmp_path / "many", {f"{number:03d}.wav": data for number in range(100)})
    splits = {track.path.name: track.split for track in tracks_of(folder)}
    assert set(splits.values()) == {"train", "valid"} and 1 <= list(splits.values()).count("valid") <= 12
    for name in list(splits)[::2]:
        (folder / name).unlink()
    fewer = {track.path.name: track.split for track in tracks_of(folder)}
    assert all(splits[name] == split for name, split in fewer.items())
    for pair in (("000.wav", "001.wav"), ("050.wav", "051.wav"), ("090.wav", "091.wav")):
        small = write_folder(tmp_path / pair[0], dict.fromkeys(pair, data))
        assert sorted(track.split for track in tracks_of(small)) == ["train", "valid"]
    alone = write_folder(tmp_path / "alone", {"000.wav": data})
    assert [track.split for track in tracks_of(alone)] == ["train"]


@pytest.fixture
def spoilt(tmp_path) -> Path:
    """A folder with five good recordings and one of every kind of bad one that shows without listening."""
    folder = write_folder(tmp_path / "spoilt", {f"{number}.wav": encode(number, "wav", RATE) for number in range(5)})
    (folder / "broken.flac").write_bytes(b"this is not audio")
    (folder / "empty.wav").write_bytes(encode(0, "wav", 0))
    (folder / "short.wav").write_bytes(encode(0, "wav", RATE // 4))
    (folder / "labelled.wav").write_bytes(encode(0, "wav"))
    (folder / "labelled.json").write_text("{genre: rock")
    (folder / "split.wav").write_bytes(encode(0, "wav"))
    (folder / "split.json").write_text('{"split": "unheard of"}')
    return folder


def test_bad_recordings_are_left_out_and_named(spoilt, caplog):
    assert {track.path.name for track in tracks_of(spoilt, max_bad_fraction=0.5)} == {f"{i}.wav" for i in range(5)}
    for name, kind in (
        ("broken.flac", "broken"),
        ("empty.wav", "too short"),
        ("short.wav", "too short"),
        ("labelled.wav", "mislabelled: its .json file is not JSON"),
        ("split.wav", "mislabelled"),
    ):
        assert f"{name}: {kind}" in caplog.text
    assert "5 of 10 files left out: 1 broken, 2 too short, 2 mislabelled" in caplog.text


def test_too_many_bad_recordings_stop(spoilt):
    with pytest.raises(TooManyBadTracks, match="5 of 10 tracks cannot be used .*max_bad_fraction=0.4"):
        tracks_of(spoilt, max_bad_fraction=0.4)


def test_lost_and_damaged_tars_are_counted(tmp_path, caplog):
    for shard in range(3):
        write_tar(tmp_path / f"{shard}.tar", {f"{shard}.wav": encode(shard, "wav")})
    (tmp_path / "1.tar").unlink()
    pattern = str(tmp_path / "{0..2}.tar")
    assert [track.path.name for track in tracks_of(pattern, max_bad_fraction=0.34)] == ["0.wav", "2.wav"]
    assert "1.tar: broken" in caplog.text
    with pytest.raises(TooManyBadTracks, match="1 of 3 tars cannot be used"):
        tracks_of(pattern, max_bad_fraction=0.3)
    assert len(tracks_of(str(tmp_path / "*.tar"))) == 2  # what a star does not find is not missed
    (tmp_path / "2.tar").write_bytes((tmp_path / "2.tar").read_bytes()[:700])
    with pytest.raises(TooManyBadTracks, match="1 of 2 tars cannot be used"):
        tracks_of(str(tmp_path / "*.tar"))


def test_wrong_sources_are_told(tmp_path):
    for name in ("nowhere", "nowhere.jsonl", "nowhere.csv", str(tmp_path / "nowhere" / "deep" / "x")):
        with pytest.raises(ValueError, match="is not a source of music"):
            tracks_of(name)
    with pytest.raises(ValueError, match="There is no file"):
        tracks_of(str(tmp_path / "{0..3}.tar"))
    with pytest.raises(ValueError, match="holds no audio"):
        tracks_of(tmp_path)
    (tmp_path / "x.csv").write_text("name,genre\na.wav,rock\n")
    with pytest.raises(ValueError, match="x.csv must have a column path or file_name, got"):
        tracks_of(tmp_path / "x.csv")
    (tmp_path / "y.csv").write_text("path,genre\na.wav\n")
    with pytest.raises(TooManyBadTracks, match="the number of cells in its line differs"):
        tracks_of(tmp_path / "y.csv")


def test_a_dataset_of_the_hub_that_cannot_be_fetched_is_told():
    pytest.importorskip("datasets")
    with pytest.raises(ValueError, match="nobody/nothing cannot be opened as a dataset"):
        tracks_of("nobody/nothing")


def test_datasets_with_a_validation_split(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{"audio": {"bytes": encode(number, "wav"), "path": None}} for number in range(40)]
    parts = {"train": datasets.Dataset.from_list(rows[:30]), "validation": datasets.Dataset.from_list(rows[30:])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "divided")
    assert [len(tracks_of(tmp_path / "divided", split)) for split in ("train", "valid", None)] == [30, 10, 40]
    parts["train"].save_to_disk(tmp_path / "whole")
    counts = [len(tracks_of(tmp_path / "whole", split)) for split in ("train", "valid")]
    assert sum(counts) == 30 and counts[1] >= 1
    datasets.Dataset.from_dict({"genre": ["a"]}).save_to_disk(tmp_path / "silent")
    with pytest.raises(ValueError, match="must have one column of audio, got"):
        tracks_of(tmp_path / "silent")


def test_a_dataset_that_names_files(sources, tmp_path):
    datasets = pytest.importorskip("datasets")
    paths = [{"path": str(path), "bytes": None} for path in sorted(Path(sources["folder"]).glob("*.flac"))]
    datasets.Dataset.from_dict({"audio": paths}).save_to_disk(tmp_path / "named")
    tracks, expected = tracks_of(tmp_path / "named"), tracks_of(sources["folder"])
    assert torch.equal(
        items_of([tracks[0]], CropMaker(1000, RATE))[0]["waveform"],
        items_of([expected[1]], CropMaker(1000, RATE))[0]["waveform"],
    )


@pytest.mark.parametrize(
    "source, expected",
    [
        ("https://x.org/{0..9}.tar", True),
        ("pipe:aws s3 cp s3://x/{0..9}.tar -", True),
        ("stream:shards/0.tar", True),
        ("stream:owner/name", True),
        ("composed:0..9", True),
        ("shards/{0..9}.tar", False),
        ("owner/name", False),
        ("music", False),
    ],
)
def test_is_stream(source, expected):
    assert is_stream(source) == expected


@pytest.mark.parametrize("name", ["folder", "tars", "stream:tars", "stream:saved"])
def test_the_shares_of_all_processes_are_every_track_once(sources, name):
    prefix, _, kind = name.rpartition(":")
    source = open_source(f"{prefix}:{sources[kind]}" if prefix else sources[kind])
    tracks = [track.path for track in source.share()]
    shares = [[track.path for track in source.share(rank, 3)] for rank in range(3)]
    assert len(tracks) == 6 and sorted(sum(shares, [])) == sorted(tracks)
    if not prefix:  # a stream is divided by shards
        assert [len(share) for share in shares] == [2, 2, 2]


def test_streams_of_tars_and_datasets(sources):
    source = open_source("https://x.org/{00..11}.tar?download=1", "train")
    assert source.tracks == () and source.split == "train"
    assert source.shards.num_shards == 12 and source.shards.tars[3] == "https://x.org/03.tar?download=1"
    for name in ("parquet", "saved"):
        source = open_source(f"stream:{sources[name]}")
        assert source.tracks == () and source.shards.num_shards == 1
        found = list(source.found())
        assert all(isinstance(track, Track) for track in found)
        assert [track.metadata for track in found] == [track.metadata for track in tracks_of(sources[name])]


def test_durations_are_those_of_the_files(sources):
    lengths = np.array([track.duration_in_s for track in tracks_of(sources["saved"])])
    assert np.abs(lengths - 2).max() < 1e-6
