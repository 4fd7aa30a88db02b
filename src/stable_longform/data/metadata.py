"""Metadata of a recording: our names for other tools' fields, and values cleaned to text and numbers.

Tables and programs write missing values in many ways (`null`, an empty cell, NaN, "nan"), and contain values that are
useless in a prompt (nested lists, true and false). They must not become words of a prompt, so `clean` removes and
reports them.
"""

import numbers
import re
from collections.abc import Mapping
from typing import cast

from stable_longform.utils.text_files import decode, is_text, parse_json_object

PROMPT_FIELDS = ("description", "bpm", "key", "genre", "moods", "instruments")
LIST_FIELDS = ("genre", "moods", "instruments")  # in a CSV cell, their values are separated by semicolons
FIELD_ALIASES = {
    "caption": "description",
    "text": "description",
    "tempo": "bpm",
    "genres": "genre",
    "mood": "moods",
    "instrument": "instruments",
}
NOTHING = ("", "nan", "none", "null", "n/a", "<na>")  # in any case
MAX_NUMBER, MAX_TEMPO = 1e15, 1000  # larger values are not properties of music
BPM_VALUE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:bpm)?", re.IGNORECASE)


def is_empty(value: object) -> bool:
    """Whether a value is null, blank text or an empty list."""
    return value is None or (isinstance(value, str) and not value.strip()) or value in ([], ())


def is_nothing(value: object) -> bool:
    """Whether a value is missing: it is empty, NaN, or a text such as "none"."""
    if isinstance(value, str):
        return value.strip().lower() in NOTHING
    return value != value if isinstance(value, numbers.Real) else is_empty(value)  # true of NaN alone


def rename_fields(row: Mapping) -> dict:
    """Renames the fields of a row to our names, with the first of several aliases; empty values are dropped."""
    row = {str(key): value for key, value in row.items() if not is_empty(value)}
    for alias, name in FIELD_ALIASES.items():
        if name not in row and not is_nothing(row.get(alias)):
            row[name] = row.pop(alias)
    return row


def clean(metadata: Mapping) -> tuple[dict, tuple[str, ...]]:
    """Reduces metadata to text and numbers in the fields for prompts, and to JSON in all others.

    Returns:
        The metadata, and the values left out, as in "genre: True".
    """
    cleaned, left_out = {}, []
    for key, value in metadata.items():
        if key in PROMPT_FIELDS:
            values, refused = prompt_values(key, value)
            left_out += [f"{key}: {text}" for text in refused]
            if values:
                cleaned[key] = values if isinstance(value, (list, tuple)) else values[0]
        elif is_text(key) and _is_json(value):
            cleaned[key] = value
        else:
            left_out.append(f"{key!a}: {_short(value)}")
    return cleaned, tuple(left_out)


def prompt_values(field: str, value: object) -> tuple[list[str | int | float], list[str]]:
    """The values of a field for prompts (stripped text or numbers), and the values left out, as text."""
    values, left_out = [], []
    for item in value if isinstance(value, (list, tuple)) else [value]:
        item = item.strip() if isinstance(item, str) else item
        cleaned = None if is_nothing(item) else _tempo(item) if field == "bpm" else _text_or_number(item)
        if cleaned is not None:
            values.append(cleaned)
        elif not is_empty(item):
            left_out.append(_short(item))
    return values, left_out


def parse_sidecars(sidecars: Mapping[str, bytes]) -> dict:
    """Parses sidecar files, given by extension: a JSON object, and a text that becomes the description.

    Raises:
        ValueError: invalid JSON, JSON that is not an object, or a text that is not UTF-8.
    """
    row = {"description": decode(sidecars[".txt"], "its .txt file").strip()} if ".txt" in sidecars else {}
    if ".json" in sidecars:
        row |= parse_json_object(decode(sidecars[".json"], "its .json file"), "its .json file")
    return row


def _text_or_number(value: object) -> str | int | float | None:
    """Text or a number of at most `MAX_NUMBER`; None for anything else."""
    if isinstance(value, str) and is_text(value):
        return value
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and abs(cast(float, value)) <= MAX_NUMBER:
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    return None


def _tempo(value: object) -> int | float | None:
    """Beats a minute from a number or a text like "120 BPM"; None for anything else."""
    if isinstance(value, str):
        match = BPM_VALUE.fullmatch(value)
        value = float(match[1]) if match else None
    number = _text_or_number(value)
    if not isinstance(number, (int, float)) or not 0 < number <= MAX_TEMPO:
        return None
    return int(number) if number == int(number) else number


def _is_json(value: object) -> bool:
    """Whether a value can be written as JSON and read back."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_json, value))
    if isinstance(value, dict):
        return all(is_text(key) and _is_json(item) for key, item in value.items())
    return value is None or isinstance(value, (bool, int)) or _text_or_number(value) is not None


def _short(value: object) -> str:
    """A value for a message, shortened to one line."""
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(ascii(text)[1:-1].split()) if not is_text(text) else " ".join(text.split())
    return text if len(text) <= 40 else f"{text[:37]}..."
