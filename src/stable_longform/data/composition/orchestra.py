"""The roles in a piece and the instruments that play them: register, loudness and panning of each."""

import random
from dataclasses import dataclass

from stable_longform.data.composition.genres import Genre
from stable_longform.data.composition.instruments import INSTRUMENTS, Instrument

LEAD_CENTRE = 75  # the pitch around which melodies lie
SUSTAINED_CHORDS_IN_DB = -4  # held chords would cover the melody


@dataclass(frozen=True)
class Role:
    """How a role is played.

    Attributes:
        velocity: of its notes, before it is adjusted to the energy of the section.
        loudness: of a single note at velocity 80, in LUFS.
        pan: 0 (left) ... 127 (right).
        lowest, highest: range of the pitches of chords and bass.
    """

    velocity: int
    loudness: int
    pan: int
    lowest: int = 0
    highest: int = 127


ROLES = {
    "lead": Role(88, -33, 70),
    "second": Role(72, -35, 44),
    "chords": Role(68, -34, 40, 48, 69),
    "bass": Role(82, -33, 64, 31, 52),
    "pad": Role(60, -39, 64, 48, 69),
    "arpeggio": Role(64, -36, 92, 45, 64),
    "drums": Role(88, -31, 64),
}
POWER_CHORDS = (0, 4, 7)
POWER_CHORD_RANGE = (40, 64)


def choose_players(genre: Genre, rng: random.Random) -> dict[str, Instrument]:
    """Draws an instrument for each role of a genre, and a different one for a second melody if the genre has it."""
    names = {role: getattr(genre, role) for role in ROLES if role != "second"}
    players = {role: INSTRUMENTS[rng.choice(choices)] for role, choices in names.items() if choices}
    others = [INSTRUMENTS[name] for name in genre.lead if INSTRUMENTS[name] != players["lead"]]
    return players | {"second": rng.choice(others or [players["lead"]])}


def pitch_range(role: str, instrument: Instrument, chord_steps: tuple[int, ...]) -> tuple[int, int]:
    """Lowest and highest pitch of a role's chords or bass on an instrument."""
    lowest, highest = ROLES[role].lowest, ROLES[role].highest
    if role == "chords" and chord_steps == POWER_CHORDS:
        lowest, highest = POWER_CHORD_RANGE
    return max(lowest, instrument.lowest), min(highest, instrument.highest)


def volume(role: str, instrument: Instrument) -> int:
    """The volume (MIDI controller 7, 40 dB a decade) at which an instrument has the loudness of a role."""
    loudness = ROLES[role].loudness
    if role == "chords" and instrument.is_sustained:
        loudness += SUSTAINED_CHORDS_IN_DB
    return min(max(round(100 * 10 ** ((loudness - instrument.loudness) / 40)), 1), 127)
