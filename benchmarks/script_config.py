"""Resolves the configuration of a training script by calling the script."""

import argparse
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def script_of(stage: str) -> Path:
    """The script that trains "autoencoder", "clap" or "dit"."""
    return ROOT / "training" / f"train_{stage}.py"


def resolve(stage: str, *arguments: str) -> argparse.Namespace:
    """The configuration that a script resolves from its arguments.

    Raises:
        ValueError: the script rejects them; with its message.
    """
    command = [sys.executable, script_of(stage), *arguments, "--print_config"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise ValueError(finished.stderr.strip().removeprefix("error: "))
    return argparse.Namespace(**yaml.safe_load(finished.stdout))
