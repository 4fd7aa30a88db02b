"""A tar is read the same in place, as a stream and compressed; what is left out is named."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest
from corpora import RATE, encode, write_tar
from hypothesis import given, settings
from hypothesis import strategies as st

from stable_longform.data.bad_tracks import BadTrackError
from stable_longform.data.manifest import read_manifest, write_manifest
from stable_longform.data.sources import open_source
from stable_longform.data.tars import expand_tars

pytest.importorskip("webdataset")

AUDIO = encode(1, "flac", RATE)


def describe(found) -> tuple:
    """What a track, or what is left out, is, without where its bytes are, and without the split.

    One track's split may change in a list, so that both splits exist; a stream cannot know.
    """
    if isinstance(found, BadTrackError):
        return found.path.name, found.kind
    with found.open() as file:
        data = file.read()
    return found.path.name, found.duration_in_s, json.dumps(found.metadata), data


def read(tar: Path, prefix: str) -> list[tuple]:
    return sorted(map(describe, open_source(f"{prefix}{tar}", max_bad_fraction=1.0).found()))


def read_everyhow(tar: Path) -> list[tuple]:
    """What a tar holds; it must be the same in place, streamed, through a pipe and compressed."""
    listed = read(tar, "")
    (tar.parent / "packed").mkdir()
    packed = tar.parent / "packed" / f"{tar.name}.gz"
    packed.write_bytes(gzip.compress(tar.read_bytes(), 1))
    assert read(tar, "stream:") == read(tar, "pipe:cat ") == listed
    assert [(name.removesuffix(".gz"), *rest) for name, *rest in read(packed, "stream:")] == listed
    return listed


def test_splits_are_the_same_in_place_and_streamed(tmp_path):
    write_tar(tmp_path / "a.tar", {f"{number}.flac": AUDIO for number in range(60)})
    listed, streamed = (
        {track.path: track.split for track in open_source(f"{prefix}{tmp_path}/a.tar").found()}
        for prefix in ("", "stream:")
    )
    assert listed == streamed and set(listed.values()) == {"train", "valid"}


def test_names_with_dots(tmp_path):
    write_tar(tmp_path / "a.tar", {"01. A.flac": AUDIO, "01. A.json": b'{"genre": "Metal"}', "01. B.flac": AUDIO})
    found = {name: metadata for name, _, metadata, _ in read_everyhow(tmp_path / "a.tar")}
    assert found == {"01. A.flac": '{"genre": "Metal"}', "01. B.flac": "{}"}


def test_sidecars_before_and_after_and_what_macos_adds(tmp_path):
    files = {"m/a.json": b'{"bpm": 90}', "m/._a.flac": b"\0\5\x16\7", "m/a.flac": AUDIO, "m/b.flac": AUDIO}
    files |= {"m/._b.json": b"\0\5\x16\7", "m/b.txt": b"calm", "m/a.txt": b"loud", "m/c.json": b"{}"}
    write_tar(tmp_path / "a.tar", files)
    found = read_everyhow(tmp_path / "a.tar")
    assert [entry for entry in found if len(entry) == 2] == [
        ("._a.flac", "hidden"), ("._b.json", "hidden"), ("c.json", "stray")
    ]  # fmt: skip
    assert {entry[0]: json.loads(entry[2]) for entry in found if len(entry) > 2} == {
        "a.flac": {"description": "loud", "bpm": 90}, "b.flac": {"description": "calm"}
    }  # fmt: skip
    assert len(open_source(str(tmp_path / "a.tar")).tracks) == 2  # with the usual limit: none of these is a recording


def test_a_name_that_comes_twice_is_counted_and_costs_nothing_else(tmp_path):
    other = encode(3, "flac", RATE)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, data in (("a.flac", AUDIO), ("a.flac", other), ("b.flac", other), ("a.json", b"{}")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    found = read_everyhow(tmp_path / "a.tar")
    assert [entry[0] for entry in found] == ["a.flac", "a.flac (2)", "b.flac"]
    assert found[0][-1] == AUDIO and found[1] == ("a.flac (2)", "repeated")


def test_links_are_what_they_point_to(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind, target in (
            ("x/s.flac", tarfile.SYMTYPE, "../a.flac"),
            ("a.flac", tarfile.REGTYPE, ""),
            ("h.flac", tarfile.LNKTYPE, "a.flac"),
            ("lost.flac", tarfile.SYMTYPE, "/elsewhere.flac"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, target, 0 if target else len(AUDIO)
            archive.addfile(info, None if target else io.BytesIO(AUDIO))
    found = read_everyhow(tmp_path / "a.tar")
    assert [entry[0] for entry in found if entry[-1] == AUDIO] == ["a.flac", "h.flac", "s.flac"]
    assert ("lost.flac", "broken") in found


def test_what_comes_before_the_damage_is_used(tmp_path):
    write_tar(tmp_path / "a.tar", {"a.flac": AUDIO, "b.flac": AUDIO, "c.flac": AUDIO})
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(data[: data.index(b"c.flac") + 600])
    found = read_everyhow(tmp_path / "a.tar")
    assert [entry[0] for entry in found] == ["a.flac", "a.tar", "b.flac"] and found[1] == ("a.tar", "broken")


def test_errors_name_the_member(tmp_path):
    write_tar(tmp_path / "a.tar", {"m/x.flac": b"no music", "m/y.flac": AUDIO})
    for prefix in ("", "stream:"):
        found = open_source(f"{prefix}{tmp_path}/a.tar", max_bad_fraction=1.0).found()
        (text,) = (str(result) for result in found if isinstance(result, BadTrackError))
        assert "a.tar/m/x.flac: broken: the data cannot be read as audio" in text and "0x" not in text


@pytest.mark.parametrize("name", ["/etc/a.flac", "../../a.flac", "./a.flac", "caf\udce9.flac"])
def test_names_that_lead_out_or_are_no_utf_8_stay_names(tmp_path, name):
    write_tar(tmp_path / "a.tar", {name: AUDIO, "b.flac": AUDIO})
    source = open_source(str(tmp_path / "a.tar"))
    write_manifest(tmp_path / "m.jsonl", source.tracks)
    assert read_manifest(tmp_path / "m.jsonl") == source.tracks
    assert all(track.path.is_relative_to(tmp_path / "a.tar") for track in source.tracks)


NAMES = st.text("ab. ", min_size=1, max_size=4).filter(lambda name: not name.startswith(".") and name.strip(". "))


@settings(max_examples=15)
@given(names=st.lists(NAMES, min_size=1, max_size=4, unique=True), order=st.randoms())
def test_what_is_written_is_read_back(tmp_path_factory, names, order):
    """In any order of the members, with names that hold dots and blanks."""
    files = {f"{name}.flac": AUDIO for name in names}
    files |= {f"{name}.json": json.dumps({"title": name}).encode() for name in names}
    shuffled = order.sample(list(files.items()), len(files))
    tar = tmp_path_factory.mktemp("tar") / "a.tar"
    write_tar(tar, dict(shuffled))
    found = read_everyhow(tar)
    assert sorted(json.loads(entry[2])["title"] for entry in found if len(entry) > 2) == sorted(names)
    assert all(entry[-1] == AUDIO for entry in found)


def test_patterns(tmp_path):
    folder = tmp_path / "music [2020]"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.tar").write_bytes(b"")
    assert expand_tars(f"{folder}/*.tar") == expand_tars(f"{folder}/{{0..2}}.tar")
    assert expand_tars(r"pipe:type C:\{0..1}.tar") == [r"pipe:type C:\0.tar", r"pipe:type C:\1.tar"]  # as on Windows
