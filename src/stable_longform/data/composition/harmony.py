"""Harmony: progressions of chords, and voicings that lead smoothly from one chord to the next."""

import random

from stable_longform.data.composition.theory import Chord, Key

# Degrees of the chords of a theme, one for each bar; two degrees share a bar. Themes of four bars are played twice.
# Every theme begins or ends on the tonic and stays there for about half of its time, which makes the key clear.
PROGRESSIONS: dict[str, dict[str, tuple]] = {
    "loop": {
        "major": (
            (0, 4, 5, 3, 0, 4, 3, 0),
            (0, 5, 3, 4, 0, 5, 4, 0),
            (0, 3, 4, 0),
            (0, 3, 0, 4, 0, 3, 4, 0),
            (0, 4, 3, 0),
            (0, 5, 1, 4, 0, 3, 4, 0),
        ),
        "minor": (
            (0, 5, 6, 0),
            (0, 3, 4, 0),
            (0, 6, 5, 6, 0, 6, 5, 0),
            (0, 5, 2, 6, 0, 5, 4, 0),
            (0, 0, 5, 4, 0, 0, 3, 0),
            (0, 3, 0, 5, 0, 3, 6, 0),
        ),
        "dorian": (
            (0, 0, 3, 0),
            (0, 6, 0, 3, 0, 6, 4, 0),
            (0, 4, 3, 0),
            (0, 2, 3, 0, 0, 2, 4, 0),
        ),
    },
    "drone": {
        "major": ((0, 0, 3, 0), (0, 0, 4, 0), (0, 0, 5, 3, 0, 0, 4, 0)),
        "minor": ((0, 0, 5, 0), (0, 0, 3, 0), (0, 0, 5, 6, 0, 0, 4, 0)),
        "dorian": ((0, 0, 3, 0), (0, 0, 6, 0), (0, 0, 6, 3, 0, 0, 4, 0)),
    },
    "power": {
        "minor": (
            (0, 0, 5, 6),
            (0, 0, 6, 0),
            (0, 0, 5, 6, 0, 0, 3, 4),
            (0, 0, 2, 6, 0, 0, 5, 0),
            (0, 0, 0, 5, 0, 0, 6, 0),
        )
    },
    "period": {
        "major": (
            (0, 0, 3, 4, 0, 3, (1, 4), 0),
            (0, 5, 1, 4, 0, 5, (3, 4), 0),
            (0, 3, 0, 4, 0, 3, (0, 4), 0),
            (0, 4, 0, 4, 3, 0, 4, 0),
        ),
        "minor": (
            (0, 3, 0, 4, 0, 5, (3, 4), 0),
            (0, 0, 3, 4, 0, 3, (3, 4), 0),
            (0, 6, 5, 4, 0, 3, (0, 4), 0),
            (0, 4, 0, 4, 3, 0, 4, 0),
        ),
        "dorian": (
            (0, 3, 0, 4, 0, 3, (2, 4), 0),
            (0, 6, 0, 3, 0, 6, (3, 4), 0),
            (0, 2, 3, 0, 0, 3, 4, 0),
        ),
    },
    "jazz": {
        "major": (
            (0, 5, 1, 4, 0, 5, (1, 4), 0),
            (0, 0, 1, 4, 0, 3, (1, 4), 0),
            (0, 3, 0, 5, 1, 4, 0, 0),
        ),
        "minor": (
            (0, 0, 3, 3, 1, 4, 0, 0),
            (0, 5, 1, 4, 0, 5, (1, 4), 0),
            (0, 3, 0, 5, 1, 4, 0, 0),
        ),
        "dorian": (
            (0, 0, 3, 3, 0, 0, 4, 0),
            (0, 3, 0, 3, 0, 6, (1, 4), 0),
            (0, 0, 0, 0, 3, 3, 0, 0),
        ),
    },
    "blues": {
        "minor": ((0, 0, 0, 0, 3, 3, 0, 0, 4, 3, 0, 4), (0, 3, 0, 0, 3, 3, 0, 0, 5, 4, 0, 0)),
        "dorian": ((0, 0, 0, 0, 3, 3, 0, 0, 4, 3, 0, 4), (0, 3, 0, 0, 3, 3, 0, 0, 4, 4, 0, 0)),
    },
}
# The last bars of a piece.
CADENCES = {"major": (3, 4, 0), "minor": (5, 4, 0), "dorian": (2, 3, 0)}

BarChords = tuple[Chord, ...]  # the chords of a bar, which share it equally


def theme_bars(harmony: str) -> int:
    """The bars of a theme in a style of harmony."""
    return 12 if harmony == "blues" else 8


def make_chord(key: Key, degree: int, steps: tuple[int, ...], has_leading_tone: bool) -> Chord:
    """A chord; `has_leading_tone` applies only to dominants."""
    return Chord(key, degree, steps, has_leading_tone and degree == 4)


def make_progression(
    harmony: str, key: Key, steps: tuple[int, ...], has_leading_tone: bool, rng: random.Random
) -> list[BarChords]:
    """Draws the chords of a theme, `theme_bars` bars."""
    degrees = rng.choice(PROGRESSIONS[harmony].get(key.mode) or PROGRESSIONS["loop"][key.mode])
    bars = [bar if isinstance(bar, tuple) else (bar,) for bar in degrees]
    bars = bars * (theme_bars(harmony) // len(bars))
    return [tuple(make_chord(key, degree, steps, has_leading_tone) for degree in bar) for bar in bars]


def voice(chord: Chord, previous: list[int] | None, lowest: int, highest: int) -> list[int]:
    """The pitches of a chord, low to high, all within [lowest, highest] and near those of the previous chord.

    The close position whose voices move least is chosen; without a previous chord, the one in the middle. Power
    chords, which contain the root twice, keep it at the bottom.
    """
    pitch_classes = list(chord.pitch_classes)
    candidates = []
    num_inversions = len(pitch_classes) if len(pitch_classes) == len(set(pitch_classes)) else 1
    for inversion in range(num_inversions):
        rotated = pitch_classes[inversion:] + pitch_classes[:inversion]
        for bottom in range(lowest + (rotated[0] - lowest) % 12, highest + 1, 12):
            pitches = [bottom]
            for pitch_class in rotated[1:]:
                pitches.append(pitches[-1] + ((pitch_class - pitches[-1]) % 12 or 12))
            if pitches[-1] <= highest:
                candidates.append(pitches)
    middle = (lowest + highest) / 2

    def cost(pitches: list[int]) -> float:
        from_middle = abs(sum(pitches) / len(pitches) - middle)
        if previous is None:
            return from_middle
        movement = sum(min(abs(pitch - other) for other in previous) for pitch in pitches)
        return movement + 0.3 * from_middle

    return min(candidates, key=lambda pitches: (cost(pitches), pitches))
