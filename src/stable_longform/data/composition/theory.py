"""Keys, scales and chords.

Pitches are MIDI numbers (60 is middle C), pitch classes are 0 (C) to 11 (B). A degree counts the steps of a scale from
its tonic, which is 0: 7 is the tonic an octave higher, -1 the step below the tonic.
"""

from dataclasses import dataclass

TONICS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10), "dorian": (0, 2, 3, 5, 7, 9, 10)}
# Keys of a bridge: semitones from the tonic, and the mode. Each differs from the main key in at most one tone.
RELATED_KEYS = {
    "major": ((9, "minor"), (5, "major"), (7, "major")),
    "minor": ((3, "major"), (5, "minor"), (7, "minor")),
    "dorian": ((10, "major"), (7, "minor"), (5, "dorian")),
}


@dataclass(frozen=True)
class Key:
    """A tonic, which is a pitch class, and a mode of `SCALES`."""

    tonic: int
    mode: str

    @property
    def name(self) -> str:
        """For instance "A minor"."""
        return f"{TONICS[self.tonic]} {self.mode}"

    @property
    def pitch_classes(self) -> frozenset[int]:
        """The seven pitch classes of the scale."""
        return frozenset((self.tonic + step) % 12 for step in SCALES[self.mode])

    def pitch(self, degree: int) -> int:
        """The pitch of a degree; degree 0 is the tonic within 60 ... 71."""
        return 60 + self.tonic + 12 * (degree // 7) + SCALES[self.mode][degree % 7]

    def related(self) -> list["Key"]:
        """The possible keys of a bridge."""
        return [Key((self.tonic + semitones) % 12, mode) for semitones, mode in RELATED_KEYS[self.mode]]


def parse_key(name: str) -> Key:
    """Parses the name of a key, such as "A minor".

    Raises:
        ValueError: the name has another form, or the tonic or mode is unknown.
    """
    tonic, _, mode = name.partition(" ")
    if tonic not in TONICS or mode not in SCALES:
        raise ValueError(
            f"A key is one of {', '.join(TONICS)} and one of {', '.join(SCALES)}, such as 'A minor'; got {name!r}."
        )
    return Key(TONICS.index(tonic), mode)


@dataclass(frozen=True)
class Chord:
    """A chord built on a degree (0 ... 6) of a key.

    `steps` are its tones in degrees above its root: (0, 2, 4) is the triad, (0, 2, 4, 6) the seventh chord, (0, 4) the
    power chord. With `has_leading_tone`, the seventh degree of the key is raised if the mode lowers it. This is for
    the dominant of a minor key, the only chord with a tone outside the key.
    """

    key: Key
    degree: int
    steps: tuple[int, ...] = (0, 2, 4)
    has_leading_tone: bool = False

    def pitch(self, degree: int) -> int:
        """The pitch of a degree of the key while this chord sounds."""
        is_raised = self.has_leading_tone and degree % 7 == 6 and SCALES[self.key.mode][6] == 10
        return self.key.pitch(degree) + is_raised

    @property
    def degrees(self) -> frozenset[int]:
        """Its tones as degrees modulo 7."""
        return frozenset((self.degree + step) % 7 for step in self.steps)

    @property
    def pitch_classes(self) -> tuple[int, ...]:
        """Its tones as pitch classes, the root first."""
        return tuple(self.pitch(self.degree + step) % 12 for step in self.steps)

    def nearest_tone(self, degree: int) -> int:
        """The degree of the chord tone nearest to a degree; the lower one if two are equally near."""
        return min(
            range(degree - 4, degree + 5), key=lambda other: (other % 7 not in self.degrees, abs(other - degree))
        )
