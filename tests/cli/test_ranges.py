"""Every number that a command takes has a range, and what is outside ends with one line before any work."""

import importlib
import inspect
import typing
from dataclasses import dataclass

import pytest
import typer

from stable_longform.cli.main import GROUPS, app, main


@dataclass(frozen=True)
class Parameter:
    """An option or argument of a command."""

    words: tuple[str, ...]
    option: str | None
    kind: type
    is_seconds: bool
    low: float | None
    high: float | None
    is_required: bool

    def bad_values(self) -> list[str]:
        """Texts that it must refuse; none if it is no number."""
        if self.is_seconds:
            return ["nan", "inf", "-inf", "-1", "1e7", "1:60", "long", ""]
        if None in (self.low, self.high):
            return []
        if self.kind is int:
            return [str(self.low - 1), str(self.high + 1), "2.5", "1e3", "nan", "many", ""]
        if self.kind is float:
            return [str(self.low - 1), str(self.high * 2 + 1), "nan", "inf", "-inf", "1e999", "high", ""]
        return []


def read_parameters(words: tuple[str, ...], function: typing.Callable) -> list[Parameter]:
    """The parameters of a command, from the signature of its function."""
    parameters, hints = [], typing.get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        if typing.get_origin(hints[name]) is not typing.Annotated:
            continue  # the context
        kind, (info, *_) = hints[name].__origin__, hints[name].__metadata__
        while typing.get_args(kind):
            kind = tuple if typing.get_origin(kind) is tuple else typing.get_args(kind)[0]
        names = [text for text in (info.default, *(info.param_decls or ())) if isinstance(text, str)]
        is_option = isinstance(info, typer.models.OptionInfo)
        option = (names or [f"--{name.replace('_', '-')}"])[-1] if is_option else None
        is_required = parameter.default is parameter.empty
        parameters.append(Parameter(words, option, kind, info.metavar == "SECONDS", info.min, info.max, is_required))
    return parameters


def all_parameters() -> list[Parameter]:
    """Those of all commands."""
    apps = {(): app} | {(group,): importlib.import_module(module).app for group, module in GROUPS.items()}
    return [
        parameter
        for words, member in apps.items()
        for command in member.registered_commands
        for parameter in read_parameters(
            (*words, command.name or command.callback.__name__.replace("_", "-")), command.callback
        )
    ]


PARAMETERS = all_parameters()
COMMANDS = sorted({parameter.words for parameter in PARAMETERS if parameter.bad_values()})


def test_every_number_has_a_range():
    numbers = [parameter for parameter in PARAMETERS if parameter.kind in (int, float)]
    assert [item for item in numbers if not item.is_seconds and None in (item.low, item.high)] == []
    assert sum(len(parameter.bad_values()) for parameter in PARAMETERS) > 300


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_numbers_out_of_range_end_in_one_line(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    parameters = [parameter for parameter in PARAMETERS if parameter.words == words]
    given = []
    for parameter in parameters:  # what must be given, so that the number is all that is wrong
        if parameter.is_required:
            given += ["x"] if parameter.option is None else [parameter.option, "x"]
    for parameter in parameters:
        for value in parameter.bad_values():
            assert main([*words, *given, f"{parameter.option}={value}"]) == 2, (parameter.option, value)
            output = capsys.readouterr()
            (line,) = output.err.splitlines()
            assert output.out == "" and line.startswith("error: ") and parameter.option in line, (value, line)
            assert value in line or str(float(value)) in line, (parameter.option, line)
    assert list(tmp_path.iterdir()) == []
