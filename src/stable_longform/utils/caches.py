"""Results that are stored, so that an interrupted command continues; a damaged file is named and computed again."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from stable_longform.utils.files import atomic_path, write_json
from stable_longform.utils.text_files import read_json

logger = logging.getLogger(__name__)

Stored = TypeVar("Stored")


def cached_arrays(path: Path, compute: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays from a safetensors file, or else computed and stored there."""

    def write() -> None:
        # safetensors would store arrays in another order as if they were in this one
        arrays = {name: np.ascontiguousarray(array) for name, array in compute().items()}
        with atomic_path(path) as temporary:
            save_file(arrays, temporary)

    return _cached(path, load_file, write)


def cached_json(path: Path, compute: Callable[[], Mapping]) -> dict:
    """An object from a JSON file, or else computed and stored there."""
    return _cached(path, read_json, lambda: write_json(path, compute()))


def _cached(path: Path, read: Callable[[Path], Stored], write: Callable[[], None]) -> Stored:
    """What is read from a file, which is written first if it is missing or damaged."""
    if path.is_file():
        try:
            return read(path)
        except (ValueError, OSError, SafetensorError) as error:
            logger.warning("%s is damaged and computed again: %s", path, error)
    write()
    return read(path)
