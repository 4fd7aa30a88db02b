"""CSV files: what is wrong is named with file and line, before anything is read."""

import csv

import pytest
from corpora import RATE, encode, write_folder

from stable_longform.data.sources import open_source


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "music", {name: encode(0, "wav", RATE) for name in ("a.wav", "b.wav")})


def test_tables_in_the_encoding_of_windows(folder):
    (folder / "t.csv").write_bytes(b'\xef\xbb\xbfpath,bpm,genre\r\na.wav,"120 BPM",Rock; Pop\r\nb.wav,nan,\r\n')
    first, second = open_source(folder / "t.csv").tracks
    assert first.metadata == {"bpm": 120, "genre": ["Rock", "Pop"]}
    assert second.metadata == {} and second.left_out == ("bpm: nan",)


def test_a_file_that_is_named_twice_is_counted(folder):
    (folder / "t.csv").write_text("path\na.wav\nb.wav\n./a.wav\n")
    source = open_source(folder / "t.csv", max_bad_fraction=0.5)
    assert len(source.tracks) == 2 and "./a.wav" not in str(source.tracks)
    assert [error.kind for error in source.left_out] == ["repeated"] and "line 4" in str(source.left_out[0])


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "path,description\na.wav," + "x" * (csv.field_size_limit() + 1),
            "t.csv:2 cannot be read as CSV: field larger",
        ),
        ("path,genre,genre\na.wav,x,y\n", "t.csv has two columns 'genre'"),
        ("name\na.wav\n", "t.csv must have a column path or file_name, got"),
        ("", "t.csv must have a column path or file_name, got"),
        ("genre,path\nx\n", "t.csv:2 has no file name"),
    ],
)
def test_wrong_tables_are_told(folder, text, message):
    (folder / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        open_source(folder / "t.csv")


def test_a_table_in_another_encoding_is_named(folder):
    (folder / "t.csv").write_bytes("path\ncaf\u00e9.wav\n".encode("latin-1"))
    with pytest.raises(ValueError, match="t.csv is not UTF-8: byte 8 is 0xe9"):
        open_source(folder / "t.csv")
    (folder / "t.csv").write_bytes("path\na.wav\n".encode("utf-16"))
    with pytest.raises(ValueError, match="t.csv is not UTF-8 .it looks like UTF-16"):
        open_source(folder / "t.csv")
