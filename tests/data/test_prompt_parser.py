"""The parser of prompts: what the builder writes it reads back, and what people write."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stable_longform.data.composition.theory import SCALES, TONICS
from stable_longform.data.prompt_parser import parse_prompt, read_key
from stable_longform.data.prompts import build_prompt

VOCABULARY = {
    "genre": ["House", "Drum and Bass", "Bossa Nova", "90s Rock"],
    "moods": ["Dark", "Très Doux", "Not so calm"],
    "instruments": ["Piano", "Synth Bass", "Pizzicato Strings", "Tr-808 (kit)"],
}
WORDS = st.text("abcXYZ019'", min_size=1, max_size=6)
KEYS = st.builds("{} {}".format, st.sampled_from(TONICS), st.sampled_from(list(SCALES)))
BPMS = st.one_of(st.integers(30, 300), st.integers(300, 3000).map(lambda tenths: tenths / 10))
LISTS = {
    field: st.lists(st.sampled_from(values), min_size=1, max_size=4, unique=True)
    for field, values in VOCABULARY.items()
}
METADATA = st.fixed_dictionaries({}, optional={"bpm": BPMS, "key": KEYS, **LISTS}).filter(bool)
SEEDS = st.integers(0, 2**32)


def as_sets(fields: dict) -> dict:
    """Values by field as sets of text; numbers as the builder writes them."""
    lists = {name: value if isinstance(value, list) else [value] for name, value in fields.items()}
    return {
        name: {f"{item:g}" if type(item) is float else str(item) for item in items} for name, items in lists.items()
    }


@settings(max_examples=150)
@given(METADATA, SEEDS)
def test_what_the_builder_writes_is_read_back(metadata, seed):
    """Typed or not, with either delimiter, in any order and case: fields with all of their values, and no others."""
    found = as_sets(parse_prompt(build_prompt(metadata, random.Random(seed)), VOCABULARY))
    expected = as_sets(metadata)
    assert found and all(values == expected[field] for field, values in found.items())


@settings(max_examples=50)
@given(METADATA, SEEDS)
def test_each_field_is_found(metadata, seed):
    for field, value in metadata.items():
        found = parse_prompt(build_prompt({field: value}, random.Random(seed)), VOCABULARY)
        assert as_sets(found) == as_sets({field: value})


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from(list(VOCABULARY)), WORDS, min_size=1), SEEDS)
def test_typed_prompts_need_no_vocabulary(metadata, seed):
    prompt = build_prompt(metadata, random.Random(seed))
    if ": " in prompt:
        found = parse_prompt(prompt)
        assert found and all(values[0].lower() == metadata[field].lower() for field, values in found.items())


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Genre: House|BPM: 122|Key: A minor", {"genre": ["House"], "bpm": ["122"], "key": ["A minor"]}),
        ("INSTRUMENTS: PIANO, SYNTH BASS, MOODS: DARK", {"instruments": ["Piano", "Synth Bass"], "moods": ["Dark"]}),
        ("Calm sea|Genre: Ambient, Dub", {"description": ["Calm sea"], "genre": ["Ambient", "Dub"]}),
        ("house|93.5 bpm|bb dorian", {"genre": ["House"], "bpm": ["93.5"], "key": ["Bb dorian"]}),
        ("In F# minor at 72 BPM", {"description": ["In F# minor at 72 BPM"], "bpm": ["72"], "key": ["F# minor"]}),
        ("Piano in a minor mood", {"description": ["Piano in a minor mood"]}),
        ("Genre: |BPM: 90", {"bpm": ["90"]}),
        ("Key: H minor", {"key": ["H minor"]}),
        ("BPM: fast", {"bpm": ["fast"]}),
        ("", {}),
    ],
)  # fmt: skip
def test_what_people_write(prompt, expected):
    assert parse_prompt(prompt, VOCABULARY) == expected


def test_what_two_fields_know_is_of_neither():
    vocabulary = {"genre": ["Piano"], "instruments": ["Piano", "Harp"]}
    assert parse_prompt("Piano, Harp", vocabulary) == {"description": ["Piano"], "instruments": ["Harp"]}
    assert parse_prompt("Genre: Piano", vocabulary) == {"genre": ["Piano"]}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A minor", "A minor"), ("eb MAJOR", "Eb major"), ("D# minor", "Eb minor"), ("Db major", "C# major"),
        ("Cb major", "B major"), ("E♯ dorian", "F dorian"), ("F sharp minor", "F# minor"),
        ("bb major", "Bb major"), ("BB MAJOR", "Bb major"), ("A", None), ("minor", None), ("H minor", None),
        ("A minor chord", None), ("A lydian", None),
    ],
)  # fmt: skip
def test_keys_are_spelled_in_one_way(text, name):
    assert read_key(text) == name
