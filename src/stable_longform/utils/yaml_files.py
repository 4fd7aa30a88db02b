"""Reads and writes YAML in the types of JSON, by the rules of YAML 1.2, which readers expect of a configuration.

PyYAML follows YAML 1.1 and takes more than one would think: `010` is 8, `1:30` is 90, `no` is false, `1e-4` is text,
and of a key that occurs twice the last one wins without a word.
"""

import os
import re

import yaml

from stable_longform.utils.text_files import printable, read_text

CORE = "tag:yaml.org,2002:"
PATTERNS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"0|-?[1-9][0-9]*", list("-0123456789")),
    "float": (
        r"-?(?:0|[1-9][0-9]*)?\.[0-9]+(?:[eE][-+]?[0-9]+)?|-?(?:0|[1-9][0-9]*)(?:\.|\.?[eE][-+]?[0-9]+)"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "merge": (r"<<", ["<"]),
}


class _Loader(yaml.SafeLoader):
    """Knows the types of JSON; refuses a key that occurs twice."""

    yaml_implicit_resolvers: dict = {}
    yaml_constructors = {
        tag: yaml.SafeLoader.yaml_constructors[tag]
        for tag in (*(CORE + name for name in ("null", "bool", "int", "float", "str", "seq", "map")), None)
    }

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        known: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in known:
                raise yaml.composer.ComposerError(None, None, f"the key {key.value!r} occurs twice", key.start_mark)
            known.update([key.value] if isinstance(key, yaml.ScalarNode) else [])
        return node


class _Dumper(yaml.SafeDumper):
    """Writes in quotes what either version of YAML would not read as text."""


for _name, (_pattern, _first) in PATTERNS.items():
    for _owner in (_Loader, _Dumper):
        _owner.add_implicit_resolver(CORE + _name, re.compile(f"^(?:{_pattern})$"), _first)


def parse_yaml(text: str, name: str):
    """Parses a YAML document; `name` is for errors.

    Raises:
        ValueError: it is not YAML, or has a key twice or other types than JSON.
    """
    try:
        return yaml.load(text, _Loader)
    except (ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: a number with thousands of digits
        reason = " ".join(str(error).replace('"<unicode string>", ', "").split())
        raise ValueError(f"{name} cannot be read: {reason}.") from error


def read_yaml(path: str | os.PathLike, name: str = "") -> dict:
    """Reads a YAML file with a mapping; an empty file is an empty mapping. `name` is that of the file in errors.

    Raises:
        ValueError: the file cannot be read, is not UTF-8 or YAML, or holds something else.
    """
    name = name or printable(path)
    try:
        text = read_text(path)
    except ValueError as error:
        raise ValueError(f"{name} cannot be read: {error}") from error
    values = parse_yaml(text, name)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"{name} must hold `key: value` lines, got a {type(values).__name__}.")
    return values


def format_yaml(values, **options) -> str:
    """Writes JSON's types as YAML; `options` are those of `yaml.dump`."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, **options)
