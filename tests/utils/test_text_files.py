"""Text of every system is read the same; what is wrong is named with its file and line."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stable_longform.utils.text_files import is_text, parse_json_object, printable, read_json_lines, read_lines

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(rows=st.lists(st.dictionaries(TEXT, TEXT, max_size=3), max_size=4), mark=st.booleans(), crlf=st.booleans())
def test_json_lines_are_read_back(tmp_path_factory, rows, mark, crlf):
    path = tmp_path_factory.mktemp("lines") / "rows.jsonl"
    text = "".join(json.dumps(row, ensure_ascii=False) + ("\r\n" if crlf else "\n") for row in rows)
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + text.encode())
    assert [row for _, row in read_json_lines(path)] == rows


def test_only_a_line_feed_ends_a_line(tmp_path):
    (tmp_path / "a.txt").write_bytes("one\u2028two\x85three\x0cfour\r\n\n  five \n".encode())
    assert list(read_lines(tmp_path / "a.txt")) == [(1, "one\u2028two\x85three\x0cfour"), (3, "five")]


@pytest.mark.parametrize(
    "data, message",
    [
        (b"caf\xe9\n", "a.jsonl is not UTF-8: byte 3 is 0xe9"),
        ('{"a": 1}'.encode("utf-16"), "a.jsonl is not UTF-8 .it looks like UTF-16"),
        (b"{}\n5\n", "a.jsonl:2 must be a JSON object, got int"),
        (b"null", "a.jsonl:1 must be a JSON object, got NoneType"),
        (b"{}\n{a: 1}\n", "a.jsonl:2 is not JSON"),
        (b'{"a": ' + b"[" * 200_000, "a.jsonl:1 .*nested too deeply"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "a.jsonl:1 .*huge number"),
    ],
)
def test_wrong_files_are_named(tmp_path, data, message):
    (tmp_path / "a.jsonl").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        list(read_json_lines(tmp_path / "a.jsonl"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="gone.jsonl cannot be read: No such file"):
        list(read_json_lines(tmp_path / "gone.jsonl"))


def test_text_and_names():
    assert is_text("caf\u00e9") and not is_text("caf\udce9") and not is_text(5)
    assert printable(os.fsdecode(b"caf\xe9.flac")) == "caf\\xe9.flac" and printable("caf\u00e9") == "caf\u00e9"
    assert parse_json_object('{"a": 1}', "it") == {"a": 1}
