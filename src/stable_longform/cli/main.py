"""The command `stable-longform`: its commands and exit codes.

Progress goes to stderr, the path of the written file to stdout. Bad input ends with exit code 2 and one line,
`error: ...`, on stderr; if possible, before the model is loaded.
"""

import importlib
from collections.abc import Sequence
from typing import Annotated, Any

import typer

import stable_longform
from stable_longform.cli.app import app as serve_app
from stable_longform.cli.common import set_quiet
from stable_longform.cli.convert import convert, export
from stable_longform.cli.doctor import doctor
from stable_longform.cli.edit import extend, inpaint, transform
from stable_longform.cli.generate import generate
from stable_longform.cli.info import info
from stable_longform.cli.options import require_finite
from stable_longform.cli.reconstruct import reconstruct
from stable_longform.utils.scripts import EXIT_BAD_INPUT, EXIT_INTERRUPTED

# The error of typer for unknown options, missing values etc.: click's class or typer's copy of it.
UsageError: Any = typer.BadParameter.__base__

# Groups of commands -> the module that defines them as `app`, imported when one of its commands is called.
GROUPS = {
    "analyze": "stable_longform.cli.analyze",
    "data": "stable_longform.cli.data",
    "evaluate": "stable_longform.cli.evaluate",
    "listening-test": "stable_longform.cli.listening_test",
    "runs": "stable_longform.cli.runs",
}


class CommandGroup(typer.core.TyperGroup):
    """The program. Its groups of commands are imported only when they are called, because imports take seconds."""

    def resolve_command(self, ctx, args):
        """Finds the command that the arguments name."""
        name = args[0] if args else None
        if name not in GROUPS:
            found, command, rest = super().resolve_command(ctx, args)
            _check_numbers(command)
            return found, command, rest
        group = typer.main.get_command(importlib.import_module(GROUPS[name]).app)
        group.name = name
        for command in group.commands.values():
            _check_numbers(command)
        return name, group, args[1:]


def _check_numbers(command) -> None:
    """Makes all numeric options of a command reject values that are not finite."""
    for parameter in command.params:
        if parameter.callback is None:
            parameter.callback = require_finite


app = typer.Typer(
    cls=CommandGroup,
    help=stable_longform.__doc__.splitlines()[0],
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(typer.Typer(), name="analyze", help="Analysis of musical structure and memorization.")
app.add_typer(typer.Typer(), name="data", help="Sources of music: statistics, prompts, mixtures.")
app.add_typer(typer.Typer(), name="evaluate", help="Scores, speed and size of models, as in the tables of the paper.")
app.add_typer(typer.Typer(), name="listening-test", help="Listening tests: build, serve and score.")
app.add_typer(typer.Typer(), name="runs", help="Training runs: progress.")

for command in (generate, transform, inpaint, extend, info, reconstruct, convert, export, doctor):
    app.command()(command)
app.command("app")(serve_app)


@app.callback(invoke_without_command=True)
def stable_longform_command(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False
) -> None:
    # A docstring here would replace the help of the program.
    if version:
        typer.echo(f"stable_longform {stable_longform.__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        The exit code: 0, or 2 for bad input, or 130 when interrupted.
    """
    try:
        return app(args=argv, prog_name="stable-longform", standalone_mode=False) or 0
    except UsageError as error:
        message = describe(error)
    except (ValueError, OSError) as error:
        message = str(error)
    except (typer.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    finally:
        set_quiet(False)
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return EXIT_BAD_INPUT


def describe(error: Any) -> str:
    """Describes a `UsageError` with the option's value and the accepted values, which some versions of typer omit."""
    message, cause, parameter = error.format_message(), error.__cause__, getattr(error, "param", None)
    if not hasattr(cause, "errors"):
        return message
    low, high = getattr(parameter, "min", None), getattr(parameter, "max", None)
    if low is not None or high is not None:
        if low is None:
            accepted = f"at most {high}"
        else:
            accepted = f"at least {low}" if high is None else f"in [{low}, {high}]"
        message = message.partition(": ")[0] + f": must be {accepted}"
    return f"{message}, got {cause.errors()[0]['input']!r}."
