"""Results that are stored, so that an interrupted command continues; a damaged file is named and computed again."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from stable_longform.utils.files import atomic_path, write_json
from stable_longform.utils.text_files import read_json

logger = logging.getLogger(__name__)


def cached_arrays(
    path: Path, compute: Callable[[], Mapping[str, np.ndarray]], names: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Arrays from a safetensors file, or else computed and stored there; a file without one of `names` is damaged."""
    arrays = _read_stored(path, load_file, names)
    if arrays is None:
        # safetensors would store arrays in another order as if they were in this one
        arrays = {name: np.ascontiguousarray(array) for name, array in compute().items()}
        with atomic_path(path) as temporary:
            save_file(arrays, temporary)
    return arrays


def cached_json(path: Path, compute: Callable[[], Mapping], names: Sequence[str] = ()) -> dict:
    """An object from a JSON file, or else computed and stored there; a file without one of `names` is damaged."""
    values = _read_stored(path, read_json, names)
    if values is None:
        write_json(path, compute())
        values = read_json(path)  # as the next run reads it: tuples are lists
    return values


def _read_stored(path: Path, read: Callable[[Path], dict], names: Sequence[str]) -> dict | None:
    """What is read from a file; None if it is missing or damaged."""
    if not path.is_file():
        return None
    try:
        values = read(path)
        if missing := [name for name in names if name not in values]:
            raise ValueError(f"it has no {', '.join(missing)}")
        return values
    except (ValueError, OSError, SafetensorError) as error:
        logger.warning("%s is damaged and computed again: %s", path, error)
        return None
