"""Imports stable-audio-tools from a folder: its pinned requirements conflict with ours, so it cannot be installed."""

import sys
from pathlib import Path


def use_checkout(folder: Path) -> None:
    """Makes `stable_audio_tools` importable from the folder of its repository, if it isn't installed.

    Raises:
        ValueError: the folder does not contain it.
    """
    if not (folder / "stable_audio_tools").is_dir():
        raise ValueError(f"--stable_audio_tools must be a checkout of stable-audio-tools, got {folder}.")
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
