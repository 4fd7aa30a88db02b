"""Metadata are text, numbers or nothing; nothing else gets into a prompt, and what is left out is told."""

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stable_longform.data.metadata import PROMPT_FIELDS, clean, is_nothing, parse_sidecars, rename_fields
from stable_longform.data.prompts import FIELD_TYPES, build_prompt, prompt_fields

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(metadata=st.dictionaries(st.sampled_from(PROMPT_FIELDS) | TEXT, JSON, max_size=6))
def test_whatever_comes_in_text_and_numbers_stay(metadata):
    cleaned, left_out = clean(metadata)
    assert clean(cleaned) == (cleaned, ())  # nothing is left to clean, ...
    assert json.loads(json.dumps(cleaned, allow_nan=False)) == cleaned  # ... and it is read back from a manifest
    assert prompt_fields(cleaned) == prompt_fields(metadata)
    assert all("\n" not in text for text in left_out)
    for field, values in prompt_fields(metadata).items():
        assert all(isinstance(value, str) and value.strip() and not is_nothing(value) for value in values), field


@given(metadata=st.fixed_dictionaries({}, optional={field: JSON for field in PROMPT_FIELDS}), seed=st.integers())
def test_prompts_hold_what_the_metadata_hold(metadata, seed):
    fields = prompt_fields(metadata)
    if fields:
        prompt = build_prompt(metadata, random.Random(seed))
        assert prompt.strip() and any(
            form(value) in prompt for value in sum(fields.values(), []) for form in (str, str.lower, str.upper)
        )


@pytest.mark.parametrize(
    "value", [None, "", "  ", [], math.nan, "nan", "NaN", "None", "null", "N/A", [None, math.nan, ""]]
)
def test_nothing_is_nothing(value):
    assert clean({"genre": value, "bpm": value})[0] == {}


@pytest.mark.parametrize(
    "value", [True, {"name": "Rock"}, [["X"]], math.inf, [True], b"Rock", "caf\udce9", object(), 1j]
)
def test_what_is_no_text_is_left_out_and_told(value):
    cleaned, left_out = clean({"genre": value, "moods": ["Calm"]})
    assert cleaned == {"moods": ["Calm"]} and len(left_out) == 1 and left_out[0].startswith("genre: ")


@pytest.mark.parametrize(
    "value, bpm",
    [
        (120, 120),
        ("120", 120),
        ("120 BPM", 120),
        ("99.5bpm", 99.5),
        (120.0, 120),
        ("fast", None),
        (0, None),
        (-3, None),
    ],
)
def test_a_tempo_is_a_number(value, bpm):
    assert clean({"bpm": value})[0].get("bpm") == bpm


def test_good_values_of_a_list_stay_without_the_others():
    cleaned, left_out = clean({"genre": [" Rock ", None, True, "nan", "Pop", 80]})
    assert cleaned == {"genre": ["Rock", "Pop", 80]} and left_out == ("genre: True", "genre: nan")


def test_other_keys_are_kept_as_json():
    kept = {"title": "nan", "is_live": True, "tags": {"a": [1, None]}}
    assert clean(kept | {"rating": math.nan, "when": object()})[0] == kept


def test_names_of_other_tools():
    assert rename_fields({"caption": "a", "text": "b", "tempo": 90, "genres": []}) == {
        "description": "a", "text": "b", "bpm": 90
    }  # fmt: skip
    assert rename_fields({"caption": math.nan, "text": "b"})["description"] == "b"
    assert rename_fields({"text": "b", "description": "a"}) == {"text": "b", "description": "a"}


def test_sidecars_in_the_encodings_of_windows():
    mark = b"\xef\xbb\xbf"
    assert parse_sidecars({".json": mark + b'{"bpm": 90}', ".txt": mark + b"calm\r\n"}) == {
        "bpm": 90, "description": "calm"
    }  # fmt: skip
    with pytest.raises(ValueError, match="its .txt file is not UTF-8"):
        parse_sidecars({".txt": b"caf\xe9"})
    with pytest.raises(ValueError, match="its .json file must be a JSON object, got list"):
        parse_sidecars({".json": b"[]"})


def test_every_field_has_a_name():
    assert tuple(FIELD_TYPES) == PROMPT_FIELDS
