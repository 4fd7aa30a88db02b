"""Seeds libraries that draw random numbers from a global generator."""

import contextlib
from collections.abc import Iterator

import numpy as np


@contextlib.contextmanager
def seeded_numpy(seed: int) -> Iterator[None]:
    """Seeds numpy's global generator inside the block and restores its state after it."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
