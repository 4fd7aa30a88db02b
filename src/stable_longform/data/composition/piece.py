"""A composed piece: its parts with their notes, its sections and its metadata."""

from dataclasses import dataclass

from stable_longform.data.composition.forms import FormSection
from stable_longform.data.composition.instruments import Instrument
from stable_longform.data.composition.theory import Key


@dataclass(frozen=True)
class Note:
    """A note: onset and duration in beats, pitch and velocity (1 ... 127) as in MIDI."""

    start: float
    duration: float
    pitch: int
    velocity: int


@dataclass(frozen=True)
class Part:
    """The part of one player: a role, an instrument, notes in order; volume, pan and reverb as in MIDI."""

    role: str
    instrument: Instrument
    notes: tuple[Note, ...]
    volume: int = 100
    pan: int = 64
    reverb: int = 40


@dataclass(frozen=True)
class Piece:
    """A piece of music, or a single sound, which has neither genre, moods, key nor sections.

    Attributes:
        kind: "piece", "stem" (one instrument alone) or "one-shot".
        key: None if nothing is pitched, or for a single sound.
        level_in_dbfs: the root mean square of the rendered piece; for one-shots the peak.
        description: what it is, if the other fields don't say it.
    """

    seed: int
    kind: str
    genre: str | None
    moods: tuple[str, ...]
    bpm: int
    key: Key | None
    beats_per_bar: int
    sections: tuple[FormSection, ...]
    parts: tuple[Part, ...]
    level_in_dbfs: float = -16.0
    description: str | None = None

    @property
    def num_bars(self) -> int:
        """Its length in bars."""
        return sum(section.num_bars for section in self.sections)

    def time_in_s(self, beat: float) -> float:
        """The time of a beat."""
        return beat * 60 / self.bpm

    @property
    def instruments(self) -> list[str]:
        """Names of the instruments that play, each once."""
        names = (part.instrument.name for part in self.parts if part.notes and part.instrument.name)
        return list(dict.fromkeys(names))
