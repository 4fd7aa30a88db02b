"""The command line: a file for each command or group of commands, assembled in `main`."""

from stable_longform.cli.main import main

__all__ = ["main"]
