"""Windows: how many latent frames are sampled for a piece of music.

A model samples a whole window and fills what is beyond the music with silence. One that was trained on several windows
needs only the smallest that holds the duration: time grows faster than the window.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

SLACK = 0.05  # frames by which rounded seconds may exceed a window


@dataclass(frozen=True)
class WindowSizes:
    """The windows of a model.

    Args:
        max_length: frames of the longest.
        patch_size: of which every length is a multiple.
        latent_rate: frames a second.
    """

    max_length: int
    patch_size: int
    latent_rate: float

    @property
    def max_in_s(self) -> float:
        """Seconds of the longest window."""
        return self.seconds(self.max_length)

    def seconds(self, length: int) -> float:
        """Seconds that `length` frames hold."""
        return length / self.latent_rate

    def length(self, window_in_s: float) -> int:
        """Frames of the smallest window that holds these seconds.

        Raises:
            ValueError: there are none, or more than the longest window has.
        """
        frames = window_in_s * self.latent_rate - SLACK
        if not window_in_s > 0 or frames > self.max_length:
            raise ValueError(f"window_in_s must be in (0, {self.max_in_s:.3f}] seconds, got {window_in_s}.")
        return max(math.ceil(frames / self.patch_size), 1) * self.patch_size

    def smallest(self, duration_in_s: float, windows_in_s: Sequence[float]) -> int:
        """Frames of the smallest of some windows that holds a duration; those of the longest if none does."""
        lengths = sorted(self.length(window_in_s) for window_in_s in windows_in_s)
        return next((length for length in lengths if duration_in_s <= self.seconds(length)), self.max_length)


def window_starts(length: int, window_length: int, step: int) -> list[int]:
    """First frames of windows that overlap by at least half and cover `length` frames, more than a window has.

    Args:
        length: frames in all.
        window_length: frames of a window.
        step: of which every start is a multiple, but the last.
    """
    hop = max(window_length // 2 // step, 1) * step
    return [*range(0, length - window_length, hop), length - window_length]


def place_window(start: float, total: float, window: float, latest: float) -> tuple[float, float]:
    """Where a window of a piece is said to be, start and total in seconds, for a model that knows no later time.

    A piece that the model knows is taken as it is. In a longer one the first window begins it, the last ends it as far
    from the end as it is, and those between are in the middle.

    Args:
        start: of the window in the piece, in seconds.
        total: duration of the piece.
        window: duration of the window.
        latest: the largest time that the model knows.
    """
    if total <= latest:
        return start, total
    return max(min(start, max(latest - window, 0) / 2), latest - (total - start)), latest
