"""Prompts made from metadata, differently at every draw.

A track's metadata becomes a text prompt as the paper describes (Paper: §3.1): a random subset of what is known, with
or without the names of the fields, in random order, with one of two delimiters and a random case. The same builder
serves every model that learns from text.

Fields, in this order, all optional: `description` (natural language), `bpm`, `key` ("A minor"; not in the paper),
`genre`, `moods`, `instruments`. A value is text, a number, or a list of them; what is none of it, or says "nothing",
counts as absent (`stable_longform.data.metadata`). Title, artist and album are never used.

`stable-longform data prompts SOURCE` shows the prompts that a source of music gives.
"""

import random
from collections.abc import Iterable, Mapping, Sequence

from stable_longform.data.metadata import PROMPT_FIELDS, prompt_values
from stable_longform.data.tracks import Track

# Names of the fields in a typed prompt. A description speaks for itself and carries no name.
FIELD_TYPES = dict(zip(PROMPT_FIELDS, (None, "BPM", "Key", "Genre", "Moods", "Instruments"), strict=True))
COMMA, BAR = ", ", "|"
CASE_TRANSFORMS = (str, str.lower, str.upper)


def prompt_fields(metadata: Mapping) -> dict[str, list[str]]:
    """The fields that a prompt can use, in the order of `FIELD_TYPES`, and their values; empty when there are none."""
    fields = {field: values_of(metadata, field) for field in FIELD_TYPES}
    return {field: values for field, values in fields.items() if values}


def available_fields(metadata: Mapping) -> list[str]:
    """Lists the fields that a prompt can use, in the order of `FIELD_TYPES`; empty when there are none."""
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
    6. the case of the whole prompt: as it is, lower or upper, one third each.

    The paper leaves open: an untyped tempo is written `120 BPM`, because a bare number says nothing; a description has
    no type name.

    Args:
        metadata: a track's metadata (`Track.metadata`); keys other than the six fields are ignored.
        rng: the source of all randomness; it advances.

    Returns:
        The prompt, never empty.

    Raises:
        ValueError: none of the fields is available. A trainer should find such tracks before it starts, with
            `available_fields`, and train them on the empty prompt "" or leave them out.
    """
    fields = prompt_fields(metadata)
    if not fields:
        raise ValueError(f"A prompt needs at least one of {', '.join(FIELD_TYPES)}; got {sorted(metadata)}.")
    return draw_prompt(fields, rng)


def full_prompt(metadata: Mapping) -> str:
    """The prompt of everything that is known, `BPM: 120|Genre: Rock|Instruments: Guitar, Drums`; empty for nothing."""
    return BAR.join(_typed_field(name, values) for name, values in prompt_fields(metadata).items())


def draw_prompt(fields: Mapping[str, Sequence[str]], rng: random.Random) -> str:
    """Draws a prompt as `build_prompt` does, of the fields and values that `prompt_fields` gave."""
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
    """The values of a field as text; whole numbers without decimals. What is neither text nor number is left out."""
    values, _ = prompt_values(field, metadata.get(field))
    return [f"{value:g}" if isinstance(value, float) else str(value) for value in values]


def _typed_field(field: str, values: list[str]) -> str:
    """`Type: value, value`, or the values alone for a field without a type name."""
    text, type_name = COMMA.join(values), FIELD_TYPES[field]
    return f"{type_name}: {text}" if type_name else text


def _untyped_value(field: str, value: str) -> str:
    """The value alone; a tempo with its unit."""
    return f"{value} BPM" if field == "bpm" else value
