"""Random prompts from metadata.

A track's metadata becomes a text prompt as described in the paper (Paper: §3.1): a random subset of the fields, with
or without their names, in random order, with one of two delimiters and a random case. All models that learn from text
use the same builder.

Fields, in this order, all optional: `description` (natural language), `bpm`, `key` ("A minor"; not in the paper),
`genre`, `moods`, `instruments`. A value is text, a number, or a list of them; other values, and texts such as "none",
count as absent (`stable_longform.data.metadata`). Title, artist and album are never used.

`stable-longform data prompts SOURCE` shows prompts made from a source of music.
"""

import random
from collections.abc import Iterable, Mapping, Sequence

from stable_longform.data.metadata import PROMPT_FIELDS, prompt_values
from stable_longform.data.tracks import Track

# Names of the fields in a typed prompt. A description has no name.
FIELD_TYPES = dict(zip(PROMPT_FIELDS, (None, "BPM", "Key", "Genre", "Moods", "Instruments"), strict=True))
COMMA, BAR = ", ", "|"
CASE_TRANSFORMS = (str, str.lower, str.upper)


def prompt_fields(metadata: Mapping) -> dict[str, list[str]]:
    """The fields available for a prompt and their values, in the order of `FIELD_TYPES`; may be empty."""
    fields = {field: values_of(metadata, field) for field in FIELD_TYPES}
    return {field: values for field, values in fields.items() if values}


def available_fields(metadata: Mapping) -> list[str]:
    """The names of the fields available for a prompt, in the order of `FIELD_TYPES`; may be empty."""
    return list(prompt_fields(metadata))


def build_prompt(metadata: Mapping, rng: random.Random) -> str:
    """Builds one random prompt.

    Paper: §3.1. The draws, in this order, all from `rng` (the result depends on nothing else):

    1. the number of fields, uniform in 1 ... the number available;
    2. which fields, and their order (`rng.sample`);
    3. typed or untyped, one half each. Typed: `Instruments: Guitar, Drums|Moods: Uplifting`. Untyped:
       `Guitar, Drums, Uplifting`;
    4. the delimiter as above or the other of the two, one half each: ", " instead of "|" between the fields of a typed
       prompt (the values of one field keep their comma), "|" instead of ", " between all values of an untyped one;
    5. the order of the values of each chosen field, field after field;
    6. the case of the whole prompt: unchanged, lower or upper, one third each.

    Choices that the paper leaves open: an untyped tempo is written as `120 BPM`, because a bare number would be
    ambiguous; a description has no type name.

    Args:
        metadata: a track's metadata (`Track.metadata`); keys other than the six fields are ignored.
        rng: the source of all randomness; it advances.

    Returns:
        The prompt, never empty.

    Raises:
        ValueError: no field is available. A training should find these tracks beforehand with `available_fields`, and
            use them with the empty prompt "" or leave them out.
    """
    fields = prompt_fields(metadata)
    if not fields:
        raise ValueError(f"A prompt needs at least one of {', '.join(FIELD_TYPES)}; got {sorted(metadata)}.")
    return draw_prompt(fields, rng)


def full_prompt(metadata: Mapping) -> str:
    """The prompt with all fields, as in `BPM: 120|Genre: Rock|Instruments: Guitar, Drums`; may be empty."""
    return BAR.join(_typed_field(name, values) for name, values in prompt_fields(metadata).items())


def draw_prompt(fields: Mapping[str, Sequence[str]], rng: random.Random) -> str:
    """Draws a prompt like `build_prompt`, from the fields and values of `prompt_fields`."""
    names = rng.sample(list(fields), rng.randint(1, len(fields)))
    is_typed = rng.random() < 0.5
    is_swapped = rng.random() < 0.5
    values = {name: rng.sample(fields[name], len(fields[name])) for name in names}
    if is_typed:
        delimiter = COMMA if is_swapped else BAR
        prompt = delimiter.join(_typed_field(name, values[name]) for name in names)
    else:
        delimiter = BAR if is_swapped else COMMA
        prompt = delimiter.join(_untyped_value(name, value) for name in names for value in values[name])
    return rng.choice(CASE_TRANSFORMS)(prompt)


def preview(tracks: Iterable[Track], num_prompts: int, seed: int = 0) -> list[tuple[Track, list[str]]]:
    """Draws `num_prompts` (> 0) prompts for each track; a track without any field gets an empty list."""
    if num_prompts < 1:
        raise ValueError(f"num_prompts must be at least 1, got {num_prompts}.")
    rng = random.Random(seed)
    previews = []
    for track in tracks:
        fields = prompt_fields(track.metadata)
        previews.append((track, [draw_prompt(fields, rng) for _ in range(num_prompts if fields else 0)]))
    return previews


def values_of(metadata: Mapping, field: str) -> list[str]:
    """The values of a field as text; whole numbers without decimals. Other types are left out."""
    values, _ = prompt_values(field, metadata.get(field))
    return [f"{value:g}" if isinstance(value, float) else str(value) for value in values]


def _typed_field(field: str, values: list[str]) -> str:
    """`Type: value, value`, or the values alone for a field without a type name."""
    text, type_name = COMMA.join(values), FIELD_TYPES[field]
    return f"{type_name}: {text}" if type_name else text


def _untyped_value(field: str, value: str) -> str:
    """The value alone; a tempo with its unit."""
    return f"{value} BPM" if field == "bpm" else value
