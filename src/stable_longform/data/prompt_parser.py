"""Parses prompts into fields: the inverse of `data/prompts.py`, which builds prompts from metadata.

A typed prompt names its fields (`Genre: House|BPM: 122`) and is parsed completely. An untyped one (`House, 122 BPM`)
only holds values: a tempo and a key are recognised by their form, the others by a vocabulary of known values for each
field. Values that are in no vocabulary, or in several, are added to `description`, as is text outside of fields.

Conventions: the case of a prompt is random, so the spelling of the vocabulary is returned, or the prompt's own if the
value is not in it. Keys are spelled as in `data/composition/theory.py`. A value that contains ", ", "|" or a field's
name with a colon cannot be distinguished from several values.
"""

import re
from collections.abc import Collection, Mapping

from stable_longform.data.composition.theory import SCALES, TONICS
from stable_longform.data.prompts import BAR, COMMA, FIELD_TYPES

FIELD = re.compile(rf"(?:^|{COMMA})({'|'.join(name for name in FIELD_TYPES.values() if name)}): ", re.IGNORECASE)
TEMPO = re.compile(r"(\d+(?:\.\d+)?) ?BPM", re.IGNORECASE)
KEY = re.compile(rf"([A-G])(#|♯|b|♭| ?sharp| ?flat)? ({'|'.join(SCALES)})", re.IGNORECASE)
TEMPO_IN_TEXT = re.compile(rf"(?<![\w.]){TEMPO.pattern}\b", re.IGNORECASE)
KEY_IN_TEXT = re.compile(rf"\b(?i:in|key of|key:) ({KEY.pattern.replace('[A-G]', '(?-i:[A-G])')})\b", re.IGNORECASE)
FIELD_NAMES = {name.casefold(): field for field, name in FIELD_TYPES.items() if name}


def parse_prompt(prompt: str, vocabulary: Mapping[str, Collection[str]] | None = None) -> dict[str, list[str]]:
    """Parses a prompt.

    Args:
        prompt: any text, written by `build_prompt` or by a person in the same form. In a sentence, a tempo ("at 122
            BPM") and a key ("in A minor", with the capital letter) are found.
        vocabulary: known values of the fields of `FIELD_TYPES`, for untyped prompts.

    Returns:
        The values of each field in the prompt, in their order; `bpm` and `key` have at most one value. Fields without
        a value are omitted.
    """
    spellings = {field: {value.casefold(): value for value in values} for field, values in (vocabulary or {}).items()}
    found: dict[str, list[str]] = {}
    is_typed = any(FIELD.search(part) for part in prompt.split(BAR))
    for part in prompt.split(BAR):
        for field, text in _split_fields(part):
            if field is None and is_typed:
                found.setdefault("description", []).append(text)
            else:
                for value in text.split(COMMA):
                    chosen, spelled = _place(value.strip(), field, spellings)
                    found.setdefault(chosen, []).append(spelled)
    for field, read in (("bpm", _tempo_in_text), ("key", _key_in_text)):
        if field not in found and (read_value := read(" ".join(found.get("description", ())))):
            found[field] = [read_value]
    return {field: [value for value in values if value] for field, values in found.items() if any(values)}


def read_key(text: str) -> str | None:
    """The standard name of a key, for example "Eb minor" for "d# MINOR"; None if the text is not a key.

    Modes are those of `data/composition/theory.py`: major, minor, dorian.
    """
    match = KEY.fullmatch(text.strip())
    if match is None:
        return None
    tonic, accidental, mode = match.groups()
    shift = {"": 0, "#": 1, "♯": 1, "sharp": 1, "b": -1, "♭": -1, "flat": -1}[(accidental or "").strip().casefold()]
    return f"{TONICS[(TONICS.index(tonic.upper()) + shift) % 12]} {mode.lower()}"


def _split_fields(part: str) -> list[tuple[str | None, str]]:
    """Splits a part between bars: text before any field (None), then each field with its text."""
    names = list(FIELD.finditer(part))
    bounds = [match.start() for match in names] + [len(part)]
    pieces: list[tuple[str | None, str]] = [(None, part[: bounds[0]])]
    for match, end in zip(names, bounds[1:], strict=True):
        pieces.append((FIELD_NAMES[match.group(1).casefold()], part[match.end() : end]))
    return [(field, text.strip()) for field, text in pieces if text.strip()]


def _place(value: str, field: str | None, spellings: Mapping[str, Mapping[str, str]]) -> tuple[str, str]:
    """The field of a value, and its spelling there; `field` is the one named in the prompt, or None."""
    if field in (None, "bpm") and (match := TEMPO.fullmatch(value)):
        return "bpm", match.group(1)
    if field in (None, "key") and (key := read_key(value)):
        return "key", key
    if field is not None:
        return field, spellings.get(field, {}).get(value.casefold(), value)
    fields = [name for name, spelling in spellings.items() if value.casefold() in spelling]
    if len(fields) != 1:
        return "description", value
    return fields[0], spellings[fields[0]][value.casefold()]


def _tempo_in_text(text: str) -> str | None:
    """Finds a tempo in a sentence."""
    match = TEMPO_IN_TEXT.search(text)
    return match.group(1) if match else None


def _key_in_text(text: str) -> str | None:
    """Finds a key in a sentence. The capital letter is required, because "in a minor mood" does not name a key."""
    match = KEY_IN_TEXT.search(text)
    return read_key(match.group(1)) if match else None
