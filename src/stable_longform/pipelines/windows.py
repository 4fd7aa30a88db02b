"""Windows: how many latent frames are sampled for a piece of music.

A model samples a whole window and fills it with silence after the music. A model that was trained on several windows
needs only the smallest one that holds the duration. This saves time, which grows faster than the window.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

SLACK = 0.05  # frames by which rounded seconds may exceed a window


@dataclass(frozen=True)
class WindowSizes:
    """The windows of a model.

    Args:
        max_length: frames of the longest window.
        patch_size: every length is a multiple of it.
        latent_rate: frames a second.
    """

    max_length: int
    patch_size: int
    latent_rate: float

    @property
    def max_in_s(self) -> float:
        """Duration of the longest window in seconds."""
        return self.seconds(self.max_length)

    def seconds(self, length: int) -> float:
        """Duration of `length` frames in seconds."""
        return length / self.latent_rate

    def length(self, window_in_s: float) -> int:
        """Frames of the smallest window that holds these seconds.

        Raises:
            ValueError: the seconds are not positive, or more than the longest window has.
        """
        frames = window_in_s * self.latent_rate - SLACK
        if not window_in_s > 0 or frames > self.max_length:
            raise ValueError(f"window_in_s must be in (0, {self.max_in_s:.3f}] seconds, got {window_in_s}.")
        return max(math.ceil(frames / self.patch_size), 1) * self.patch_size

    def smallest(self, duration_in_s: float, windows_in_s: Sequence[float]) -> int:
        """Frames of the smallest of these windows that holds a duration; the longest window's if none does.

        Windows that are longer than the longest are left out: the model's size may have been changed after loading.
        """
        possible = [seconds for seconds in windows_in_s if seconds * self.latent_rate - SLACK <= self.max_length]
        lengths = sorted(self.length(seconds) for seconds in possible)
        return next((length for length in lengths if duration_in_s <= self.seconds(length)), self.max_length)


def window_starts(length: int, window_length: int, step: int) -> list[int]:
    """First frames of windows that overlap by at least half and cover `length` frames.

    Args:
        length: total number of frames, more than a window has.
        window_length: frames of a window.
        step: every start except the last is a multiple of it.
    """
    hop = max(window_length // 2 // step, 1) * step
    return [*range(0, length - window_length, hop), length - window_length]


def place_window(start: float, total: float, window: float, latest: float) -> tuple[float, float]:
    """The timing (start and total in seconds) that the model is given for a window of a piece.

    If the piece is within the times that the model knows, it is the true timing. For a longer piece, the first window
    is placed at the start, the last ones at their true distance from the end, and those between in the middle.

    Args:
        start: of the window in the piece, in seconds.
        total: duration of the piece.
        window: duration of the window.
        latest: the largest time that the model knows.
    """
    if total <= latest:
        return start, total
    return max(min(start, max(latest - window, 0) / 2), latest - (total - start)), latest
