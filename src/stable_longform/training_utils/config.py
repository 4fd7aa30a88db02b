"""Configuration of the training scripts: a dataclass filled from defaults, a YAML file and the command line."""

import dataclasses
import json
import logging
import os
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm.contrib.logging import logging_redirect_tqdm

from stable_longform.training_utils.options import options_of
from stable_longform.utils.scripts import EXIT_BAD_INPUT
from stable_longform.utils.text_files import printable
from stable_longform.utils.yaml_files import format_yaml, parse_yaml, read_yaml

EXIT_NOT_FINITE = 3
PRINT_CONFIG, HELP = "--print_config", ("-h", "--help")
HELP_WIDTH = 110


def load_config(config_class: type, arguments: Sequence[str], directory: str | os.PathLike = "."):
    """Builds a dataclass from its defaults, then a YAML file, then `--key=value` or `--key value` arguments.

    Args:
        config_class: a dataclass whose fields are declared as `training_utils.options` describes. A field of type dict
            takes `--field.key=value`.
        arguments: the command line, e.g. `["--config", "tiny.yaml", "--learning_rate=1e-3"]`.
        directory: folder to which a relative `--config` path refers.

    Raises:
        ValueError: a key is unknown or missing, a value does not have its field's type or range, or the YAML file
            cannot be read.
    """
    options = options_of(config_class)
    texts = _split_arguments(arguments)
    values: dict[str, Any] = {}
    for path in (text for key, text in texts if key == "config"):
        file = Path(directory) / path
        values |= read_yaml(file, f"--config {printable(file)}")
    for key, text in texts:
        name, _, entry = key.partition(".")
        if entry:
            known = values.get(name)
            values[name] = {**(known if isinstance(known, dict) else {}), entry: parse_yaml(text, f"--{key}")}
        elif key != "config":
            takes_text = key in options and options[key].takes_text(text)
            values[key] = text if takes_text else parse_yaml(text, f"--{key}")
    for key, value in values.items():
        if key not in options:
            raise ValueError(f"Unknown configuration key {key!r}; known keys: {', '.join(sorted(options))}.")
        values[key] = options[key].convert(value)
    missing = [name for name, option in options.items() if option.is_required and name not in values]
    if missing:
        raise ValueError(f"Missing configuration: {', '.join('--' + name for name in missing)}.")
    return config_class(**values)


def launch(main: Callable, config_class: type) -> None:
    """Runs `main(config)` with the configuration from the command line.

    `--print_config` only prints the configuration as YAML, `--help` the options. Errors that the user can fix end with
    one line on stderr: exit code 2 for wrong input or a file that cannot be read or written, 3 for a training whose
    values are no longer finite. Otherwise the exit code is what `main` returns, 0 for None. Log messages do not break
    the progress bar.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        if any(argument in HELP for argument in sys.argv[1:]):
            sys.stdout.write(describe_options(config_class, main.__globals__["__doc__"]))
            return
        arguments = [argument for argument in sys.argv[1:] if argument != PRINT_CONFIG]
        config = load_config(config_class, arguments)
        if len(arguments) < len(sys.argv) - 1:
            sys.stdout.write(format_yaml(plain_values(dataclasses.asdict(config))))
            return
        with logging_redirect_tqdm():
            exit_code = main(config)
    except (ValueError, OSError, FloatingPointError) as error:  # OSError: also for a missing checkpoint
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(EXIT_NOT_FINITE if isinstance(error, FloatingPointError) else EXIT_BAD_INPUT)
    if exit_code:
        sys.exit(exit_code)


def describe_options(config_class: type, description: str) -> str:
    """The text of `--help`: a description of the script, and each option with its default, range and meaning."""
    lines = [
        description.strip(),
        "",
        "Options, as --key value or --key=value, and as `key: value` in a YAML file:",
        "",
    ]
    lines += ["  --config FILE", "      A YAML file of options; those of the command line come after it."]
    lines += ["  --print_config", "      Print the resulting configuration as YAML and do nothing else."]
    for option in options_of(config_class).values():
        default = "required" if option.is_required else f"default: {_to_yaml(option.default)}"
        lines.append(f"  --{option.name}  ({default})")
        text = f"{option.meaning} Accepted: {option.accepted}.".strip()
        lines += textwrap.wrap(text, HELP_WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines) + "\n"


def plain_values(values: Mapping) -> dict:
    """The values of a configuration in the types of YAML and JSON: tuples become lists."""
    return json.loads(json.dumps(values))


def _to_yaml(value) -> str:
    """A value as it is written on the command line."""
    return format_yaml(json.loads(json.dumps(value)), default_flow_style=True, width=10**6).splitlines()[0]


def _split_arguments(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Splits the command line into pairs of key and text."""
    tokens: list[str] = []
    for argument in arguments:
        is_key = argument.startswith("--") and len(tokens) % 2 == 0
        if argument.startswith("--") and not is_key:
            raise ValueError(f"{tokens[-1]} needs a value, got {argument}; as a value, write {tokens[-1]}={argument}.")
        tokens.extend(argument.split("=", 1) if is_key else [argument])
    keys = tokens[::2]
    if len(tokens) % 2 or not all(key.startswith("--") for key in keys):
        raise ValueError(f"Arguments must be pairs `--key value` or `--key=value`, got {' '.join(arguments)}.")
    return [(key.removeprefix("--"), text) for key, text in zip(keys, tokens[1::2], strict=True)]
