"""Configuration of the training scripts: a dataclass from its defaults, a YAML file and the command line."""

import dataclasses
import inspect
import json
import logging
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml
from tqdm.contrib.logging import logging_redirect_tqdm

EXIT_BAD_INPUT, EXIT_NOT_FINITE = 2, 3
PRINT_CONFIG = "--print_config"


def load_config(config_class: type, arguments: Sequence[str], directory: str | os.PathLike = "."):
    """Builds a dataclass from its defaults, then a YAML file, then `--key=value` or `--key value` arguments.

    Args:
        config_class: a dataclass. A field of type dict takes `--field.key=value`.
        arguments: the command line, e.g. `["--config", "tiny.yaml", "--learning_rate=1e-3"]`.
        directory: what a relative `--config` path is relative to.

    Raises:
        ValueError: an unknown key, a value of another type than the field's, a missing one, or an unreadable YAML
            file.
    """
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    hints = typing.get_type_hints(config_class)
    texts = _split_arguments(arguments)
    values = {}
    for path in (text for key, text in texts if key == "config"):
        values |= _read_yaml(Path(directory) / path)
    for key, text in texts:
        name, _, entry = key.partition(".")
        if entry:
            known = values.get(name)
            values[name] = {**(known if isinstance(known, dict) else {}), entry: _parse(text, key)}
        elif key != "config":
            values[key] = text if hints.get(key) is str else _parse(text, key)
    for key, value in values.items():
        if key not in fields:
            raise ValueError(f"Unknown configuration key {key!r}; known keys: {', '.join(sorted(fields))}.")
        values[key] = _convert(key, value, hints[key], fields[key])
    required = [field.name for field in fields.values() if _has_no_default(field)]
    missing = [name for name in required if name not in values]
    if missing:
        raise ValueError(f"Missing configuration: {', '.join('--' + name for name in missing)}.")
    return config_class(**values)


def launch(main: Callable, config_class: type) -> None:
    """Runs `main(config)` with the configuration of the command line; with `--print_config` only prints it, as YAML.

    What the user can put right ends in one line on stderr: exit code 2 for wrong input or a file that cannot be read
    or written, 3 for a training that is no longer finite. Messages of the log do not break the progress bar.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        arguments = [argument for argument in sys.argv[1:] if argument != PRINT_CONFIG]
        config = load_config(config_class, arguments)
        if len(arguments) < len(sys.argv) - 1:
            sys.stdout.write(yaml.safe_dump(plain_values(dataclasses.asdict(config)), sort_keys=False))
            return
        with logging_redirect_tqdm():
            main(config)
    except (ValueError, OSError, FloatingPointError) as error:  # OSError: also a checkpoint that is not there
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(EXIT_NOT_FINITE if isinstance(error, FloatingPointError) else EXIT_BAD_INPUT)


def plain_values(values: Mapping) -> dict:
    """The values of a configuration as YAML and JSON know them: tuples are lists."""
    return json.loads(json.dumps(values))


def _split_arguments(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """The command line as pairs of a key and its text."""
    tokens = []
    for argument in arguments:
        is_key = argument.startswith("--") and len(tokens) % 2 == 0
        tokens.extend(argument.split("=", 1) if is_key else [argument])
    keys = tokens[::2]
    if len(tokens) % 2 or not all(key.startswith("--") for key in keys):
        raise ValueError(f"Arguments must be pairs `--key value` or `--key=value`, got {' '.join(arguments)}.")
    return [(key.removeprefix("--"), text) for key, text in zip(keys, tokens[1::2], strict=True)]


def _read_yaml(path: Path) -> dict:
    """The mapping in a YAML file."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"--config {path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"--config {path} must hold `key: value` lines, got a {type(values).__name__}.")
    return values


def _parse(text: str, key: str):
    """A command-line value read as YAML."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"--{key} cannot be read: {' '.join(str(error).split())}") from error


def _has_no_default(field: dataclasses.Field) -> bool:
    """Whether a dataclass field must be given."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _convert(key: str, value, hint, field: dataclasses.Field):
    """Checks one configuration value against its field's type; integers and '1e-3' pass as floats, lists as tuples."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kind = typing.get_origin(kinds[0]) or kinds[0]
    if value is None and type(None) in kinds:
        return None
    if kind is dict and isinstance(value, dict):
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else {}
        unknown = sorted(set(value) - set(default)) if default else []
        if unknown:
            raise ValueError(f"Unknown entries of {key}: {', '.join(unknown)}; known: {', '.join(default)}.")
        entries = {entry: _like(default.get(entry), item, f"{key}.{entry}") for entry, item in value.items()}
        return {**default, **entries}
    if kind is tuple and isinstance(value, (list, tuple)):
        default = field.default if isinstance(field.default, tuple) else ()
        return tuple(_like(default[0] if default else None, item, key) for item in value)
    if kind is float:
        return _to_float(key, value)
    if kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise ValueError(f"{key} must be of type {getattr(hint, '__name__', hint)}, got {value!r}.")


def _like(default, value, key: str):
    """An entry of a dict or tuple, read as a float where the default is one."""
    return _to_float(key, value) if isinstance(default, float) else value


def _to_float(key: str, value) -> float:
    """Reads a number; YAML takes '1e-3' for text."""
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    raise ValueError(f"{key} must be of type float, got {value!r}.")


def build_model(model_class: type, arguments: Mapping, name: str):
    """Constructs `model_class(**arguments)` from the configuration field `name`.

    Raises:
        ValueError: an argument that the class does not know, or a value that it cannot take.
    """
    known = [key for key in inspect.signature(model_class).parameters if key != "self"]
    unknown = [str(key) for key in arguments if key not in known]
    if unknown:
        raise ValueError(f"Unknown entries of {name}: {', '.join(unknown)}; known: {', '.join(known)}.")
    try:
        return model_class(**arguments)
    except TypeError as error:
        raise ValueError(f"{name} has a value of the wrong type: {error}.") from error
