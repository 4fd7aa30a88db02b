"""Folders: linked ones are read, once each, and what cannot be used is named."""

import os
from pathlib import Path

import pytest
from corpora import RATE, encode, write_folder

from stable_longform.data.bad_tracks import TooManyBadTracks
from stable_longform.data.listed_source import ListedSource
from stable_longform.data.manifest import read_manifest, write_manifest
from stable_longform.data.sources import open_source

AUDIO = encode(0, "wav", RATE)


def names_of(source: ListedSource, folder: Path) -> list[str]:
    return [track.path.relative_to(folder).as_posix() for track in source.tracks]


def kinds_of(source: ListedSource) -> dict[str, str]:
    return {error.path.name: error.kind for error in source.left_out}


def test_linked_folders_are_read_once(tmp_path):
    other = write_folder(tmp_path / "other", {"in.wav": AUDIO})
    folder = write_folder(tmp_path / "music", {"own.wav": AUDIO})
    (folder / "deep").mkdir()
    (folder / "deep" / "b.wav").write_bytes(AUDIO)
    for name, target in (("a_more", other), ("again", other), ("circle", folder), ("deep_link", folder / "deep")):
        (folder / name).symlink_to(target)
    source = open_source(folder)
    assert names_of(source, folder) == ["a_more/in.wav", "deep/b.wav", "own.wav"]
    assert kinds_of(source) == dict.fromkeys(("again", "circle", "deep_link"), "linked")


def test_what_is_no_file_is_broken(tmp_path):
    folder = write_folder(tmp_path / "music", {"a.wav": AUDIO})
    (folder / "lost.flac").symlink_to(tmp_path / "nowhere.flac")
    os.mkfifo(folder / "pipe.ogg")
    assert kinds_of(open_source(folder, max_bad_fraction=1.0)) == {"lost.flac": "broken", "pipe.ogg": "broken"}


def test_other_formats_of_music_count(tmp_path, caplog):
    files = {f"{number}.m4a": b"\0\0\0 ftypM4A " for number in range(9)}
    folder = write_folder(tmp_path / "music", {"a.wav": AUDIO, "README.txt": b"hello", "cover.jpg": b""} | files)
    with pytest.raises(TooManyBadTracks, match="of 10 tracks cannot be used .*unsupported"):
        open_source(folder)
    source = open_source(folder, max_bad_fraction=0.9)
    assert names_of(source, folder) == ["a.wav"]
    assert "10 of 11 files left out: 9 unsupported, 1 stray" in caplog.text


def test_a_file_that_is_cut_off_is_broken(tmp_path):
    folder = write_folder(tmp_path / "music", {"a.wav": AUDIO, "b.wav": encode(0, "wav", 4 * RATE)[: 5 * RATE]})
    source = open_source(folder, max_bad_fraction=0.5)
    assert names_of(source, folder) == ["a.wav"] and "b.wav: broken: cut off: " in str(source.left_out[0])


def test_sidecars_in_capitals_and_values_that_are_nothing(tmp_path, caplog):
    files = {"A.WAV": AUDIO, "A.JSON": b'{"genre": NaN, "bpm": "90 BPM", "moods": [["X"]]}', "b.wav": AUDIO}
    folder = write_folder(tmp_path / "music", files | {"b.json": b'{"duration_in_s": Infinity}'})
    source = open_source(folder, max_bad_fraction=0.5)
    assert source.tracks[0].metadata == {"bpm": 90}
    assert "2 values of the metadata left out: genre: nan (1), moods: ['X'] (1)" in caplog.text
    assert "duration_in_s must be a number greater than 0 and finite, got inf" in str(source.left_out[0])


def test_names_that_are_not_utf_8(tmp_path):
    folder = write_folder(tmp_path / "music", {"b.wav": AUDIO})
    (folder / os.fsdecode(b"caf\xe9.wav")).write_bytes(AUDIO)
    (folder / os.fsdecode(b"caf\xe9.json")).write_text('{"duration_in_s": 1.0, "genre": "x"}')
    source = open_source(folder)
    assert len(source.tracks) == 2 and {"genre": "x"} in [track.metadata for track in source.tracks]
    write_manifest(tmp_path / "m.jsonl", source.tracks)
    assert read_manifest(tmp_path / "m.jsonl") == source.tracks


def test_the_split_stays_when_the_folder_moves(tmp_path):
    folder = write_folder(tmp_path / "music", {f"{number}.wav": AUDIO for number in range(30)})
    before = [(track.path.name, track.split) for track in open_source(folder).tracks]
    folder.rename(tmp_path / "elsewhere")
    assert [(track.path.name, track.split) for track in open_source(tmp_path / "elsewhere").tracks] == before


def test_songs_that_all_have_one_name_are_divided(tmp_path):
    folder = write_folder(tmp_path / "music", {})
    for song in range(5):
        (folder / f"song {song}").mkdir()
        (folder / f"song {song}" / "track.wav").write_bytes(AUDIO)
    assert sorted(len(open_source(folder, split).tracks) for split in ("train", "valid")) == [1, 4]
