"""Prompts: laws of the random draws, the paper's examples, and values that are never altered."""

import itertools
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from stable_longform.data.prompts import FIELD_TYPES, available_fields, build_prompt, full_prompt, preview
from stable_longform.data.tracks import Track

PAPER = {"instruments": ["Guitar", "Drums", "Bass Guitar"], "moods": ["Uplifting", "Energetic"]}
FULL = {
    "description": "A hopeful anthem",
    "bpm": 128,
    "key": "A minor",
    "genre": "Rock",
    "moods": ["Uplifting", "Energetic"],
    "instruments": ["Guitar", "Drums"],
}
# How each value of FULL stands in an untyped prompt.
UNTYPED = {"A hopeful anthem", "128 BPM", "A minor", "Rock", "Uplifting", "Energetic", "Guitar", "Drums"}


def draw(metadata: dict, num_prompts: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [build_prompt(metadata, rng) for _ in range(num_prompts)]


def in_binomial_bounds(count: int, num_draws: int, probability: float) -> bool:
    """Within five standard deviations: a correct builder fails once in two million."""
    return abs(count - num_draws * probability) < 5 * (num_draws * probability * (1 - probability)) ** 0.5


def test_examples_of_the_paper_are_reachable():
    prompts = set(draw(PAPER, 3000))
    assert "Instruments: Guitar, Drums, Bass Guitar|Moods: Uplifting, Energetic" in prompts
    assert "Guitar, Drums, Bass Guitar, Uplifting, Energetic" in prompts


def test_the_set_of_prompts_is_exactly_the_documented_one():
    """Every subset, order, form, delimiter and case of two fields, and nothing else."""
    expected = set()
    for size in (1, 2):
        for fields in itertools.permutations(["bpm", "moods"], size):
            for moods in itertools.permutations(["Calm", "Dark"]):
                typed = [{"bpm": "BPM: 90", "moods": "Moods: " + ", ".join(moods)}[field] for field in fields]
                untyped = [value for field in fields for value in {"bpm": ["90 BPM"], "moods": moods}[field]]
                for delimiter, case in itertools.product((", ", "|"), (str, str.lower, str.upper)):
                    expected |= {case(delimiter.join(typed)), case(delimiter.join(untyped))}
    assert set(draw({"bpm": 90, "moods": ["Calm", "Dark"]}, 5000)) == expected


def test_half_of_the_prompts_are_typed():
    prompts = draw(PAPER, 4000)
    assert in_binomial_bounds(sum(": " in prompt for prompt in prompts), 4000, 0.5)


def test_each_delimiter_takes_half_of_the_untyped_and_of_the_typed_prompts():
    metadata = {"genre": "Rock", "moods": "Calm"}
    both = [prompt.lower() for prompt in draw(metadata, 8000)]
    both = [prompt for prompt in both if "rock" in prompt and "calm" in prompt]
    for prompts in ([p for p in both if ": " in p], [p for p in both if ": " not in p]):
        num_bars = sum("|" in prompt for prompt in prompts)
        assert all(("|" in prompt) != (", " in prompt) for prompt in prompts)
        assert in_binomial_bounds(num_bars, len(prompts), 0.5)


def test_the_values_of_one_field_keep_their_comma_in_typed_prompts():
    typed = [prompt for prompt in draw(PAPER, 500) if ": " in prompt]
    assert all(len(part.split(": ")) >= 2 for prompt in typed for part in prompt.split("|"))


def test_number_of_fields_is_uniform():
    metadata = {"genre": "G", "moods": "M", "instruments": "I"}
    untyped = [prompt for prompt in draw(metadata, 6000) if ":" not in prompt]
    sizes = Counter(len(prompt.replace("|", ", ").split(", ")) for prompt in untyped)
    assert set(sizes) == {1, 2, 3}
    assert all(in_binomial_bounds(count, len(untyped), 1 / 3) for count in sizes.values())


@pytest.mark.parametrize("field", FIELD_TYPES)
def test_every_field_occurs_alone(field):
    assert set(draw({field: FULL[field]}, 200)) & set(draw(FULL, 5000))
    assert available_fields({field: FULL[field]}) == [field]


def test_all_orders_of_fields_and_of_values_occur_equally_often():
    prompts = [prompt for prompt in draw({"moods": ["A", "B", "C"]}, 6000) if prompt.isupper() and ":" not in prompt]
    orders = Counter(prompt.replace("|", ", ") for prompt in prompts)
    assert len(orders) == 6
    assert all(in_binomial_bounds(count, len(prompts), 1 / 6) for count in orders.values())

    metadata = {"genre": "G", "moods": "M", "instruments": "I"}
    untyped = [prompt.upper().replace("|", ", ") for prompt in draw(metadata, 9000) if ":" not in prompt]
    complete = Counter(prompt for prompt in untyped if len(prompt) == len("G, M, I"))
    assert set(complete) == {", ".join(order) for order in itertools.permutations("GMI")}
    assert all(in_binomial_bounds(count, complete.total(), 1 / 6) for count in complete.values())


def test_each_case_takes_a_third():
    counts = Counter(
        "lower" if prompt.islower() else "upper" if prompt.isupper() else "as it is" for prompt in draw(PAPER, 3000)
    )
    assert len(counts) == 3
    assert all(in_binomial_bounds(count, 3000, 1 / 3) for count in counts.values())


def test_values_are_never_altered_except_in_case():
    odd = {"genre": "drum'n'bass (90s)", "moods": ["Très Doux", "50/50"], "description": "Slow; then fast."}
    values = [value.lower() for value in ("drum'n'bass (90s)", "Très Doux", "50/50", "Slow; then fast.")]
    for prompt in draw(odd, 500):
        rest = prompt.lower()
        for value in values:
            rest = rest.replace(value, "")
        assert rest.replace("genre: ", "").replace("moods: ", "").strip(",| ") == ""


def test_untyped_prompts_hold_values_only():
    for prompt in draw(FULL, 500):
        if ": " not in prompt:
            parts = set(prompt.lower().replace("|", ", ").split(", "))
            assert parts <= {value.lower() for value in UNTYPED}


def test_description_has_no_type_name():
    typed = {prompt for prompt in draw({"description": "Calm sea", "genre": "Ambient"}, 1000) if ": " in prompt}
    assert "Calm sea|Genre: Ambient" in typed
    assert not any("description" in prompt.lower() for prompt in typed)


@pytest.mark.parametrize(("bpm", "text"), [(120, "120"), (120.0, "120"), ("93.5", "93.5"), (93.5, "93.5")])
def test_tempo_text(bpm, text):
    assert {prompt.upper() for prompt in draw({"bpm": bpm}, 100)} == {f"BPM: {text}", f"{text} BPM"}


def test_same_state_of_the_generator_gives_the_same_prompt():
    assert draw(FULL, 50, seed=3) == draw(FULL, 50, seed=3)
    assert draw(FULL, 50, seed=3) != draw(FULL, 50, seed=4)
    random.seed(0)
    first = draw(FULL, 5)
    random.seed(1)
    assert draw(FULL, 5) == first


def test_metadata_is_left_alone():
    metadata = json.loads(json.dumps(FULL))
    draw(metadata, 100)
    assert metadata == FULL


def test_other_keys_and_empty_values_are_ignored():
    metadata = {"title": "Secret", "artist": "Someone", "album": "X", "genre": [" ", ""], "moods": None, "bpm": 100}
    assert available_fields(metadata) == ["bpm"]
    assert {prompt.upper() for prompt in draw(metadata, 50)} == {"BPM: 100", "100 BPM"}


@pytest.mark.parametrize("metadata", [{}, {"title": "Only a title"}, {"genre": "", "moods": [], "bpm": None}])
def test_no_field_is_an_error(metadata):
    assert available_fields(metadata) == []
    with pytest.raises(ValueError, match="at least one of description, bpm, key, genre, moods, instruments"):
        build_prompt(metadata, random.Random(0))


def test_the_full_prompt_says_everything_that_is_known():
    typed = "BPM: 128|Key: A minor|Genre: Rock|Moods: Uplifting, Energetic|Instruments: Guitar, Drums"
    assert full_prompt(FULL | {"title": "Song"}) == f"A hopeful anthem|{typed}"
    assert full_prompt({"title": "Song"}) == ""


def test_preview():
    tracks = [Track(Path("a.ogg"), 1.0, "train", metadata=FULL), Track(Path("b.ogg"), 1.0, "train")]
    previews = preview(tracks, 3, seed=1)
    assert [track for track, _ in previews] == tracks
    assert previews[0][1] == draw(FULL, 3, seed=1)
    assert previews[1][1] == []
    with pytest.raises(ValueError, match="num_prompts must be at least 1, got 0"):
        preview(tracks, 0)
