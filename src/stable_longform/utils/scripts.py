"""Option parsing and exit codes of the scripts in examples/, benchmarks/ and training/."""

import argparse
import math
import sys
from collections.abc import Callable

import torch

from stable_longform.utils.accepted_values import MAX_SEED, MAX_STEPS
from stable_longform.utils.ranges import Range

EXIT_BAD_INPUT, EXIT_INTERRUPTED = 2, 130
SEEDS, STEPS, SECONDS = Range(0, MAX_SEED), Range(1, MAX_STEPS), Range(0, 1e5, above=True)


class ScriptParser(argparse.ArgumentParser):
    """A parser whose help shows ranges and defaults, and whose errors have one line.

    Args:
        doc: the script's docstring; its first line starts the help.
    """

    def __init__(self, doc: str, **kwargs):
        super().__init__(description=doc.splitlines()[0], formatter_class=_HelpFormatter, **kwargs)

    def add_number(self, name: str, accepted: Range, *, kind: type = int, **kwargs) -> None:
        """Adds an option with a number, or with `nargs` several numbers, in a range."""
        kwargs["help"] = f"{kwargs['help']}; {'whole numbers' if kind is int else 'numbers'} {accepted}"
        self.add_argument(name, type=_number_parser(kind, accepted), metavar=kind.__name__.upper(), **kwargs)

    def add_device(self, default: str = "cpu") -> None:
        """Adds the option `--device`."""
        self.add_argument("--device", type=_check_device, default=default, help="cpu, cuda, cuda:1 ...")

    def error(self, message: str):
        """Raises a ValueError instead of printing the usage and the message."""
        raise ValueError(message)


class _HelpFormatter(argparse.HelpFormatter):
    """Adds the default to each option's help."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_flag = action.nargs == 0 or action.default is None or action.default is argparse.SUPPRESS
        if is_flag or not action.option_strings:
            return action.help
        default = action.default if isinstance(action.default, (list, tuple)) else [action.default]
        return f"{action.help} (default: {' '.join(map(str, default)) or 'none'})".replace("%", "%%")


def _number_parser(kind: type, accepted: Range) -> Callable[[str], float]:
    """A function that parses a number and checks its range."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if value not in accepted:
            noun = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"must be {noun} {accepted}, got {text!r}")
        return value

    return parse


def _check_device(name: str) -> str:
    """Checks that this machine has a device; returns its name."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch without CUDA
        raise argparse.ArgumentTypeError(f"must be a device of this machine, got {name!r}") from error
    return name


def run_main(main: Callable[[], None]) -> None:
    """Calls a script's `main`.

    Errors that the user can fix end with one line on stderr and exit code 2, an interruption (Ctrl-C) with 130.
    """
    try:
        main()
    except (ValueError, OSError) as error:  # OSError: also for a missing file or checkpoint
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
