"""Forms: the sections of a piece, their lengths, keys and energy."""

import random
from dataclasses import dataclass

from stable_longform.data.composition.theory import Key

NAMES = {
    "I": "Introduction",
    "V": "Verse",
    "C": "Chorus",
    "B": "Bridge",
    "K": "Break",
    "U": "Build-up",
    "E": "Ending",
}
ENERGIES = {"I": 0.35, "V": 0.5, "C": 0.8, "B": 0.6, "K": 0.3, "U": 0.55, "E": 0.55}
# Sections that share the theme of another one; all others have their own.
THEMES = {"I": "V", "K": "V", "U": "C", "E": "V"}
# The sections between introduction and ending, by their number.
FORMS = {
    "song": ("V", "VC", "VVC", "VCBC", "VCVBC", "VCVCBC", "VCVCBCC", "VCVCKBCC", "VVCVVCBCC", "VVCVVCKBCC"),
    "rondo": ("C", "CV", "CVC", "CVBC", "CVCBC", "CVCBKC", "CVCBCVC", "CVCBCVKC", "CVCBCVCBC", "CVCBKCVCBC"),
    "aaba": ("V", "VV", "VBV", "VVBV", "VVBVC", "VVBCBV", "VVBVCBV", "VVBVCCBV", "VVBVCCKBV", "VVBVCCKVBV"),
    "blues": ("V", "VV", "VCV", "VVCV", "VVCCV", "VVCKCV", "VVCCKVV", "VVCCKCVV", "VVCCKCCVV", "VVCCVKCCVV"),
    "free": ("V", "VC", "VCV", "VBCV", "VCBCV", "VCKBCV", "VCVKBCV", "VCVBKCVC", "VCVKBCVCV", "VCBVKCVBCV"),
    "club": ("C", "UC", "VUC", "VUCC", "VUCKC", "VUCKUC", "VUCKUCC", "VVUCKUCC", "VUCCKBUCC", "VVUCCKBUCC"),
    "stem": ("V", "VC", "VCV", "VVCV", "VCVCV", "VCVCVC", "VVCVVCV", "VVCVVCVC", "VVCVVCVVC", "VVCVVCVVCV"),
}
MAX_SECTIONS = 10
SOLO_FORMS = ("aaba", "blues")  # their choruses are solos, each with a new melody
BRIDGE_MODULATES = 0.6  # probability that a bridge is in another key


@dataclass(frozen=True)
class FormSection:
    """A part of a piece.

    Attributes:
        letter: its kind, a key of `NAMES`.
        theme: sections with the same theme have the same melody and chords.
        start_bar, num_bars: its position and length.
        key: its key.
        energy: 0 (very quiet) ... 1 (all players, loud).
        repetition: number of earlier sections of its kind.
    """

    letter: str
    theme: str
    start_bar: int
    num_bars: int
    key: Key
    energy: float
    repetition: int

    @property
    def name(self) -> str:
        """For instance "Verse"."""
        return NAMES[self.letter]

    @property
    def is_solo(self) -> bool:
        """Whether it has a new melody each time, like a solo."""
        return self.theme.startswith("solo")


def plan_sections(
    form: str, num_bars: int, theme_bars: int, key: Key, intensity: float, rng: random.Random
) -> list[FormSection]:
    """Plans the sections of a piece: together they cover its bars without a gap.

    Args:
        form: a key of `FORMS`.
        num_bars: bars of the whole piece, at least 2.
        theme_bars: bars of a theme; sections are whole themes, or parts of one if there is not enough room.
        key: the key of the piece; a bridge may be in a related one.
        intensity: added to the energy of all sections.
        rng: the source of all choices.
    """
    lengths = _section_lengths(form, num_bars, theme_bars)
    bridge_key = rng.choice(key.related()) if form != "club" and rng.random() < BRIDGE_MODULATES else key
    last_chorus = max((index for index, (letter, _) in enumerate(lengths) if letter == "C"), default=None)
    sections, start_bar, counts = [], 0, dict.fromkeys(NAMES, 0)
    for index, (letter, length) in enumerate(lengths):
        count, theme = counts[letter], THEMES.get(letter, letter)
        if letter == "C" and form in SOLO_FORMS:
            theme = f"solo {count}"
        energy = ENERGIES[letter] + 0.05 * count + (0.1 if index == last_chorus else 0) + intensity
        section_key = bridge_key if letter == "B" else key
        sections.append(FormSection(letter, theme, start_bar, length, section_key, min(max(energy, 0.1), 1.0), count))
        start_bar, counts[letter] = start_bar + length, count + 1
    return sections


def _section_lengths(form: str, num_bars: int, theme_bars: int) -> list[tuple[str, int]]:
    """Letters and lengths in bars. Remaining bars extend the introduction and the ending, or form a break."""
    introduction = 0 if form == "stem" else 4 if num_bars >= 5 * theme_bars else 2 if num_bars >= 2 * theme_bars else 0
    ending = 1 if form == "stem" or num_bars < theme_bars + 2 else 4 if num_bars >= 5 * theme_bars else 2
    middle = num_bars - introduction - ending
    if middle < theme_bars:
        return [("V", num_bars - ending), ("E", ending)]
    unit = theme_bars * -(-middle // (theme_bars * (MAX_SECTIONS + 1)))
    letters = FORMS[form][min(middle // unit, MAX_SECTIONS) - 1]
    lengths, rest = [(letter, unit) for letter in letters], middle - unit * len(letters)
    if introduction:
        added = min(rest // 4 * 4, 8)
        introduction, rest = introduction + added, rest - added
    if len(letters) > 2 and rest >= 4 and "K" not in letters[-2:]:
        added = min(rest // 4 * 4, 8)
        lengths.insert(len(lengths) - (2 if letters.endswith("UC") else 1), ("K", added))
        rest -= added
    is_ending_longer = form != "stem"
    lengths[-1] = (lengths[-1][0], lengths[-1][1] + (rest // 4 * 4 if is_ending_longer else rest))
    ending += rest % 4 if is_ending_longer else 0
    return [("I", introduction)] * (introduction > 0) + lengths + [("E", ending)]
