"""Moods and their effects on the music."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mood:
    """The effect of a mood on a piece.

    Attributes:
        modes: the modes that fit it.
        tempo: the part of the genre's range of tempi, as shares in [0, 1].
        intensity: added to the energy of every section, which determines loudness and the number of players.
        density: added to the density of melody and accompaniment, -1 ... 1.
        register: degrees by which the melody is moved.
    """

    modes: tuple[str, ...]
    tempo: tuple[float, float]
    intensity: float
    density: float
    register: int


MOODS = {
    "Happy": Mood(("major",), (0.5, 1.0), 0.05, 0.2, 2),
    "Uplifting": Mood(("major",), (0.5, 1.0), 0.1, 0.1, 2),
    "Playful": Mood(("major", "dorian"), (0.5, 1.0), 0.0, 0.4, 3),
    "Romantic": Mood(("major",), (0.1, 0.6), -0.05, -0.2, 1),
    "Calm": Mood(("major", "dorian"), (0.0, 0.4), -0.2, -0.5, 0),
    "Dreamy": Mood(("major", "dorian"), (0.0, 0.5), -0.15, -0.4, 1),
    "Groovy": Mood(("dorian", "minor"), (0.3, 0.8), 0.05, 0.2, 0),
    "Mysterious": Mood(("dorian", "minor"), (0.1, 0.6), -0.1, -0.2, -1),
    "Sad": Mood(("minor",), (0.0, 0.4), -0.15, -0.4, -2),
    "Dark": Mood(("minor",), (0.2, 0.7), 0.05, -0.1, -3),
    "Energetic": Mood(("major", "minor", "dorian"), (0.6, 1.0), 0.15, 0.4, 1),
    "Aggressive": Mood(("minor",), (0.6, 1.0), 0.2, 0.4, -1),
    "Epic": Mood(("minor", "major"), (0.3, 0.8), 0.2, 0.0, 0),
}


def blend(moods: list[Mood]) -> Mood:
    """The mean of several moods that have a mode in common."""
    count = len(moods)
    modes = tuple(mode for mode in moods[0].modes if all(mode in mood.modes for mood in moods))
    tempo = (sum(mood.tempo[0] for mood in moods) / count, sum(mood.tempo[1] for mood in moods) / count)
    register = round(sum(mood.register for mood in moods) / count)
    intensity, density = (sum(getattr(mood, name) for mood in moods) / count for name in ("intensity", "density"))
    return Mood(modes, tempo, intensity, density, register)
