"""YAML in the types of JSON: what is written is read back, by both versions of YAML, and nothing is taken for more."""

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stable_longform.utils.yaml_files import format_yaml, parse_yaml, read_yaml

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
LIKE_NUMBERS = st.from_regex(r"[-+]?[0-9_.:eExo]{1,6}", fullmatch=True)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXT, LIKE_NUMBERS)
VALUES = st.recursive(SCALARS, lambda value: st.lists(value, max_size=3) | st.dictionaries(TEXT, value, max_size=3))


@given(VALUES)
def test_what_is_written_is_read_back_also_by_other_readers(value):
    text = format_yaml(value)
    assert parse_yaml(text, "it") == value == yaml.safe_load(text)


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-4", 1e-4),
        ("-2E3", -2000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-17", -17),
        (".inf", math.inf),
        ("true", True),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("on", "on"),
        ("010", "010"),
        ("0x1F", "0x1F"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("1.2.3", "1.2.3"),
        ("2024-13-41", "2024-13-41"),
        ("{a: &a {b: 1}, c: {<<: *a, d: 2}}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
        ("{a: &a {b: 1}, c: {<<: *a, b: 2}}", {"a": {"b": 1}, "c": {"b": 2}}),
    ],
)
def test_types_are_those_of_yaml_1_2(text, value):
    read = parse_yaml(text, "it")
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: 1\nb: 2\na: 3", "the key 'a' occurs twice in line 3, column 1"),
        ("a: {b: {c: 1, c: 1}}", "the key 'c' occurs twice"),
        ("1: 2\n1: 3", "the key '1' occurs twice"),
        ("a:\n\tb: 1", "found character '\\t'"),
        ("a: !!binary aGk=", "'tag:yaml.org,2002:binary'"),
        ("a: !!set {b}", "'tag:yaml.org,2002:set'"),
        ("a: !!python/object/apply:os.system [ls]", "python/object/apply:os.system'"),
        ("? [a]\n: 1", "unhashable key"),
        ("a: *nobody", "undefined alias 'nobody'"),
        ("a: 1\n---\na: 2", "expected a single document"),
        ("<<: 5", "expected a mapping"),
        ("a: [1", "expected ',' or ']'"),
        ("a: " + "[" * 1500, "recursion"),
        ("a: " + "1" * 5000, "Exceeds the limit (4300"),
        ("a: \x07", "special characters are not allowed"),
    ],
)
def test_wrong_documents_are_one_line(text, message):
    with pytest.raises(ValueError) as caught:
        parse_yaml(text, "settings")
    assert str(caught.value).startswith("settings cannot be read: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data, message",
    [
        ("a: é".encode("latin-1"), "a.yaml cannot be read: .* is not UTF-8: byte 3 is 0xe9"),
        ("a: 1".encode("utf-16"), "looks like UTF-16"),
        (b"a: \0", "a.yaml:1 holds a NUL character"),
        (b"- 1\n", "a.yaml must hold `key: value` lines, got a list"),
        (b"false", "got a bool"),
        (b"0", "got a int"),
        (b'""', "got a str"),
        (b"[]", "got a list"),
    ],
)
def test_wrong_files_are_named(tmp_path, data, message):
    (tmp_path / "a.yaml").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize("data", [b"", b"# nothing\n", b"\xef\xbb\xbf", b"---\n", b"null\n"])
def test_a_file_without_values_is_an_empty_mapping(tmp_path, data):
    (tmp_path / "a.yaml").write_bytes(data)
    assert read_yaml(tmp_path / "a.yaml") == {}
    (tmp_path / "b.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 1e-4\r\n")
    assert read_yaml(tmp_path / "b.yaml") == {"a": 1, "b": 1e-4}


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="--config .*none.yaml cannot be read: .*No such file"):
        read_yaml(tmp_path / "none.yaml", f"--config {tmp_path / 'none.yaml'}")
