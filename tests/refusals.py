"""What every bad input must end in: one line that says what is wrong."""

from collections.abc import Callable
from pathlib import Path

import pytest

from stable_longform.cli import main


def refused(function: Callable, *named: str) -> str:
    """Calls a function that must raise a ValueError or OSError of one line in which all the texts occur."""
    with pytest.raises((ValueError, OSError)) as caught:
        function()
    message = str(caught.value)
    assert message.strip() and "\n" not in message, message
    assert len(message) < 1000, message
    assert [text for text in named if text not in message] == [], message
    return message


def command_fails(arguments: list[str], folder: Path, capsys) -> str:
    """Runs a command that must end with exit code 2, one line on stderr, no new file in a folder; gives the line."""
    before = sorted(folder.rglob("*"))
    capsys.readouterr()
    assert main(arguments) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith("error: ") and stderr.count("\n") == 1 and stderr.endswith("\n"), stderr
    assert len(stderr) > len("error: \n")
    assert sorted(folder.rglob("*")) == before
    return stderr
