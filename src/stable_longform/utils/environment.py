"""The environment of a result: versions, git commit, machine."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

PACKAGES = (
    "stable_longform torch diffusers transformers accelerate numpy auraloss librosa scikit-learn soxr soundfile "
    "visqol-python"
).split()


def describe_environment() -> dict:
    """The environment as JSON: `git_commit`, `python`, `versions` of packages, `machine`, `gpu`.

    Values are None if there is no repository, package or GPU.
    """
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return {
        "git_commit": commit.stdout.strip() or None,
        "python": platform.python_version(),
        "versions": {name: package_version(name) for name in PACKAGES},
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def package_version(name: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
