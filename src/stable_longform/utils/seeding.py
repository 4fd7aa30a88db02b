"""Random seeds, and seeds for libraries that draw random numbers from a global generator."""

import contextlib
import secrets
from collections.abc import Iterator

import numpy as np

MAX_DRAWN_SEED = 2**32 - 1  # short enough to type


def draw_seed() -> int:
    """A random seed."""
    return secrets.randbelow(MAX_DRAWN_SEED + 1)


@contextlib.contextmanager
def seeded_numpy(seed: int) -> Iterator[None]:
    """Seeds numpy's global generator inside the block and restores its state after it."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
