"""Reads text files in UTF-8, with or without a byte order mark; errors name file and line.

Only a line feed ends a line. `str.splitlines` would also split at U+2028 and similar characters, which JSON and
prompts may contain.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
NUM_LISTED = 5  # texts in a message


def read_text(path: str | os.PathLike) -> str:
    """Reads a text file.

    Raises:
        ValueError: it cannot be read, or is not text in UTF-8.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{printable(path)} cannot be read: {error.strerror or error}.") from error
    return decode(data, path)


def decode(data: bytes, name: str | os.PathLike) -> str:
    """Decodes UTF-8, without its byte order mark; `name` is for errors.

    Raises:
        ValueError: the data are not UTF-8, or hold a NUL character, as no text does.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        hint = " (it looks like UTF-16)" if data.startswith(UTF_16_MARKS) else ""
        raise ValueError(
            f"{printable(name)} is not UTF-8{hint}: byte {error.start} is 0x{data[error.start]:02x}. Save it as UTF-8."
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"{printable(name)}:{line} holds a NUL character: the file is not text, or not in UTF-8.")
    return text


def read_lines(path: str | os.PathLike) -> Iterator[tuple[int, str]]:
    """Numbers and stripped texts of the lines that are not blank.

    Raises:
        ValueError: the file cannot be read, or is not UTF-8.
    """
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield number, line.strip()


def read_json_lines(path: str | os.PathLike) -> Iterator[tuple[str, dict]]:
    """The objects in a file of JSON lines, each with its position `file:line`.

    Raises:
        ValueError: the file cannot be read, or a line is not a JSON object.
    """
    for number, line in read_lines(path):
        place = f"{printable(path)}:{number}"
        yield place, parse_json_object(line, place)


def read_json(path: str | os.PathLike, *required: str) -> dict:
    """The object in a JSON file, which must have the `required` fields.

    Raises:
        ValueError: the file cannot be read, is not a JSON object, or lacks a field.
    """
    value = parse_json_object(read_text(path), printable(path))
    missing = [name for name in required if name not in value]
    if missing:
        raise ValueError(f"{printable(path)} is incomplete: it has no {', '.join(missing)}.")
    return value


def parse_json_object(text: str, name: str) -> dict:
    """Parses a JSON object; `name` is for errors.

    Raises:
        ValueError: the text is not JSON, is nested too deeply, has a field twice, or is not an object.
    """
    try:
        value = json.loads(text, object_pairs_hook=lambda pairs: _to_object(pairs, name))
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is not JSON: {error}") from error
    except _RepeatedName as error:
        raise ValueError(str(error)) from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number with thousands of digits
        raise ValueError(f"{name} cannot be read as JSON: it is nested too deeply or holds a huge number.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a JSON object, got {type(value).__name__}.")
    return value


class _RepeatedName(Exception):
    """An object has a field twice. Python's reader would silently take the last one."""


def _to_object(pairs: list[tuple[str, object]], name: str) -> dict:
    """The fields of a JSON object, none of which may occur twice."""
    value = {}
    for key, field in pairs:
        if key in value:
            raise _RepeatedName(f"{name} has the field {key!r} twice.")
        value[key] = field
    return value


def is_text(value: object) -> bool:
    """Whether a value is text that UTF-8 can represent, without half of a surrogate pair."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def printable(name: str | os.PathLike) -> str:
    """A readable path or text; bytes of a file name that are not UTF-8 become escapes such as `\\xe9`."""
    return os.fspath(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def list_some(texts: Sequence[str]) -> str:
    """Lists the first few texts, and says how many more there are."""
    more = f" and {len(texts) - NUM_LISTED} more" if len(texts) > NUM_LISTED else ""
    return ", ".join(texts[:NUM_LISTED]) + more
