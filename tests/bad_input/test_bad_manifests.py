"""Manifests and tables that are wrong, each in its own way: file and line are named, or the row is understood."""

import json
import math

import pyarrow
import pyarrow.parquet
import pytest
from corpora import encode
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from stable_longform.data.manifest import read_manifest, write_manifest
from stable_longform.data.prompts import full_prompt
from stable_longform.data.sources import open_source
from stable_longform.data.tracks import SPLITS, Track

GOOD = {"path": "a.wav", "duration_in_s": 2.0, "split": "train"}
LINE = json.dumps(GOOD)


def row(**changes) -> bytes:
    """A line of a manifest with some fields changed; `...` leaves one out."""
    return json.dumps({name: value for name, value in (GOOD | changes).items() if value is not ...}).encode()


BAD_LINES = {
    "nothing": b"",
    "blank lines": b"\n \n\t\n",
    "not JSON": b"path,duration\na.wav,2\n",
    "cut off": LINE[:-3].encode(),
    "two objects on a line": f"{LINE} {LINE}".encode(),
    "a field twice": LINE[:-1].encode() + b', "path": "b.wav"}',
    "trailing comma": LINE.replace("}", ",}").encode(),
    "single quotes": LINE.replace('"', "'").encode(),
    "number": b"5",
    "text": b'"a.wav"',
    "null": b"null",
    "true": b"true",
    "list": f"[{LINE}]".encode(),
    "deep": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000,
    "empty object": b"{}",
    "binary": bytes(range(256)),
    "zeros": b"\0" * 100,
    "latin-1": '{"path": "é.wav"}'.encode("latin-1"),
    "UTF-16": LINE.encode("utf-16"),
    "cut UTF-8": LINE.encode() + "é".encode()[:1],
    "huge integer": row(duration_in_s=...)[:-1] + b', "duration_in_s": ' + b"9" * 5000 + b"}",
    "path is a number": row(path=5),
    "path is null": row(path=None),
    "path is true": row(path=True),
    "path is a list": row(path=["a.wav"]),
    "path is an object": row(path={"a": "b"}),
    "path is empty": row(path=""),
    "path is missing": row(path=...),
    "path with a zero": row(path="a\0.wav"),
    "path with half a character": row(path=...)[:-1] + b', "path": "\\ud800.wav"}',
    "a track by a detour": LINE.encode() + b"\n" + row(path="x/../a.wav"),
    "duration is missing": row(duration_in_s=...),
    "duration is text": row(duration_in_s="long"),
    "duration is null": row(duration_in_s=None),
    "duration is true": row(duration_in_s=True),
    "duration is a list": row(duration_in_s=[2]),
    "duration is 0": row(duration_in_s=0),
    "duration is negative": row(duration_in_s=-2.5),
    "duration is below a sample": row(duration_in_s=1e-9),
    "duration is NaN": row(duration_in_s=math.nan),
    "duration is infinite": row(duration_in_s=math.inf),
    "duration of centuries": row(duration_in_s=1e308),
    "duration is 1e999": row(duration_in_s=...)[:-1] + b', "duration_in_s": 1e999}',
    "split is missing": row(split=...),
    "split is unknown": row(split="dev"),
    "split is null": row(split=None),
    "split is a list": row(split=["train"]),
    "split is a number": row(split=1),
    "weight is 0": row(weight=0),
    "weight is negative": row(weight=-1),
    "weight is NaN": row(weight=math.nan),
    "weight is infinite": row(weight=math.inf),
    "weight is text": row(weight="heavy"),
    "weights without a sum": row(weight=1e308),
    "weight next to nothing": row(weight=1e-320),
    "weight is a list": row(weight=[1]),
    "offset is negative": row(path="a.tar", member="a.wav", offset=-1, num_bytes=10),
    "offset is text": row(path="a.tar", member="a.wav", offset="x", num_bytes=10),
    "size is missing": row(path="a.tar", member="a.wav", offset=0),
    "size is 0": row(path="a.tar", member="a.wav", offset=0, num_bytes=0),
    "member is a number": row(path="a.tar", member=5, offset=0, num_bytes=10),
}


@pytest.mark.parametrize("data", BAD_LINES.values(), ids=BAD_LINES)
def test_lines_of_a_manifest(tmp_path, data):
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(data)
    refused(lambda: read_manifest(path), "manifest.jsonl")
    if data.strip():  # the same after a good line, with the number of the line
        path.write_bytes(LINE.encode() + b"\n" + data + b"\n")
        message = refused(lambda: read_manifest(path), "manifest.jsonl")
        assert ":2" in message or "UTF-8" in message


GOOD_FILES = {
    "BOM": "\ufeff".encode() + LINE.encode(),
    "CRLF": (LINE + "\r\n\r\n").encode(),
    "no newline at the end": LINE.encode(),
    "blank lines between": f"\n{LINE}\n\n".encode(),
    "spaces around": f"  {LINE}  ".encode(),
    "line separator inside": row(title="a\u2028b"),
    "raw line separator inside": json.dumps(GOOD | {"title": "a\u2028b\x0bc\x0cd\x85e"}, ensure_ascii=False).encode(),
    "escaped surrogates": row(title="\U0001f3b5"),
    "unknown fields": row(whatever={"deep": [1, 2, {"x": None}]}),
    "metadata that is nothing": row(genre=None, bpm=math.nan, moods=[], title=""),
    "whole number as duration": row(duration_in_s=2),
    "a short duration": row(duration_in_s=0.001),
    "a tempo of text": row(bpm="fast"),
    "a tempo beyond any music": row(bpm=1e300),
    "a tempo of 400 digits": row(bpm=10**400),
    "metadata of NaN and infinity": row(bpm=math.nan, key=math.inf),
    "metadata that hold a zero": row(title="a\0b"),
    "a path above the folder": row(path="../a.wav"),
    "a path with spaces and umlauts": row(path="über den/a b.wav"),
}


@pytest.mark.parametrize("data", GOOD_FILES.values(), ids=GOOD_FILES)
def test_manifests_of_other_tools_are_understood(tmp_path, data):
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(data)
    (track,) = read_manifest(path)
    assert track.split == "train" and track.duration_in_s > 0 and track.path.name.endswith(".wav")
    assert len(full_prompt(track.metadata)) < 100


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=30)


@settings(max_examples=50)
@given(
    name=names.filter(lambda name: name not in (".", "..")),
    duration=st.floats(1e-3, 1e6),
    split=st.sampled_from(SPLITS),
    weight=st.floats(1e-3, 1e3),
    title=texts,
)
def test_what_is_written_is_read_back(tmp_path_factory, name, duration, split, weight, title):
    folder = tmp_path_factory.getbasetemp()
    track = Track(folder / f"{name}.wav", duration, split, weight, {"title": title})
    write_manifest(folder / "manifest.jsonl", [track])
    (read,) = read_manifest(folder / "manifest.jsonl")
    assert (read.path, read.duration_in_s, read.split, read.weight) == (track.path, duration, split, weight)
    assert read.metadata.get("title", "") in (title, title.strip(), "")
    write_manifest(folder / "again.jsonl", [read])
    assert read_manifest(folder / "again.jsonl") == [read]


BAD_TABLES = {
    "a quote that is not closed": b'path,title\na.flac,"x\nb.flac,y\n',
    "a quote that is closed too early": b'path,title\na.flac,"x"y\n',
    "empty": b"",
    "only a header": b"path,split\n",
    "no path column": b"file,split\na.wav,train\n",
    "a column twice": b"path,path\na.wav,b.wav\n",
    "a huge cell": b"path,title\na.wav," + b"x" * 200_000 + b"\n",
    "binary": bytes(range(256)),
    "latin-1": "path,title\na.wav,é\n".encode("latin-1"),
    "a zero in a cell": b"path,title\na.wav,x\0y\n",
    "UTF-16 without a mark": "path,title\na.wav,x\n".encode("utf-16-le"),
    "an open quote": b'path,title\n"a.wav,x\n' + b"y" * 200_000,
}


@pytest.mark.parametrize("data", BAD_TABLES.values(), ids=BAD_TABLES)
def test_tables(tmp_path, data):
    path = tmp_path / "tracks.csv"
    path.write_bytes(data)
    refused(lambda: open_source(str(path)), "tracks.csv")


BAD_COLUMNS = {
    "numbers": [1, 2],
    "samples": [[0.1, 0.2]],
    "samples and their rate": [{"array": [0.1] * 10, "sampling_rate": 8000, "path": "a.wav"}],
    "only paths in a record": [{"path": "a.wav"}],
    "true or false": [True],
}
WAV = encode(0, "wav")
GOOD_COLUMNS = {
    "bytes": lambda: pyarrow.array([WAV], pyarrow.binary()),
    "large bytes": lambda: pyarrow.array([WAV], pyarrow.large_binary()),
    "bytes and paths": lambda: pyarrow.array([{"bytes": WAV, "path": "a.wav"}]),
    "paths": lambda: pyarrow.array(["a.wav"]),
}


@pytest.mark.parametrize("prefix", ["", "stream:"])
@pytest.mark.parametrize("values", BAD_COLUMNS.values(), ids=BAD_COLUMNS)
def test_columns_of_parquet_that_hold_no_audio(tmp_path, values, prefix):
    pyarrow.parquet.write_table(pyarrow.table({"audio": values}), tmp_path / "train.parquet")
    refused(lambda: list(open_source(f"{prefix}{tmp_path}").found()), "column audio must hold encoded audio")


@pytest.mark.parametrize("prefix", ["", "stream:"])
@pytest.mark.parametrize("make", GOOD_COLUMNS.values(), ids=GOOD_COLUMNS)
def test_columns_of_parquet_that_hold_audio(tmp_path, monkeypatch, make, prefix):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.wav").write_bytes(WAV)
    pyarrow.parquet.write_table(pyarrow.table({"audio": make()}), tmp_path / "train.parquet")
    (track,) = open_source(f"{prefix}{tmp_path}").found()
    assert track.duration_in_s == pytest.approx(2.0)


@pytest.mark.parametrize("prefix", ["", "stream:"])
@pytest.mark.parametrize("numbers", [(0, 2), (2, 0), (0, 1, 0)], ids=str)
def test_parquet_files_without_rows_are_empty(tmp_path, prefix, numbers):
    for number, num_rows in enumerate(numbers):
        table = pyarrow.table({"audio": pyarrow.array([WAV] * num_rows, pyarrow.binary())})
        pyarrow.parquet.write_table(table, tmp_path / f"{number}.parquet")
    found = list(open_source(f"{prefix}{tmp_path}", max_bad_fraction=0.0).found())
    assert [item.duration_in_s for item in found if isinstance(item, Track)] == pytest.approx([2.0] * sum(numbers))
    empty = [str(item) for item in found if not isinstance(item, Track)]
    assert len(empty) == numbers.count(0) and all(text.endswith(": empty: it has no rows") for text in empty)


def test_parquet_files_without_any_row_are_no_source(tmp_path):
    table = pyarrow.table({"audio": pyarrow.array([], pyarrow.binary())})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    refused(lambda: open_source(str(tmp_path)), tmp_path.name)
    refused(lambda: open_source(f"stream:{tmp_path}").sample(lambda track, rng: {}, 1, 0), "has no track")


def test_parquet_files_with_different_columns_are_told(tmp_path):
    for name, more in (("a", {}), ("b", {"title": ["x"]})):
        pyarrow.parquet.write_table(pyarrow.table({"audio": [WAV]} | more), tmp_path / f"{name}.parquet")
    refused(lambda: open_source(str(tmp_path)), "column names don't match")


BAD_SOURCES = {
    "nothing": "",
    "a blank": " ",
    "a folder that is not there": "missing",
    "a manifest that is not there": "missing.jsonl",
    "a table that is not there": "missing.csv",
    "a tar that is not there": "missing.tar",
    "a pattern that fits nothing": "shard-{000000..000003}.tar",
    "a backward pattern": "shard-{3..0}.tar",
    "an open brace": "shard-{0..3.tar",
    "a pattern of a hundred million": "shard-{0..100000000}.tar",
    "a pattern of a hundred million to stream": "stream:shard-{0..9999}{0..9999}.tar",
    "a stream of nothing": "stream:",
    "a stream of a manifest": "stream:missing.jsonl",
    "a file of another kind": "notes.txt",
    "an empty folder": "empty",
    "composed of nothing": "composed:",
    "composed backwards": "composed:5..2",
    "composed of words": "composed:a..b",
    "composed of negative seeds": "composed:-3..4",
    "a zero inside": "a\0b",
    "a very long name": "x" * 300,
}


@pytest.mark.parametrize("name", BAD_SOURCES.values(), ids=BAD_SOURCES)
def test_names_of_sources(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("no music")
    (tmp_path / "empty").mkdir()
    refused(lambda: list(open_source(name).found()))
