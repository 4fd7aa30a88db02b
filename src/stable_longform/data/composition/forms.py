"""Forms: which sections a piece has, how long they are, in which key and how loud."""

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
# What lies between introduction and ending, by the number of sections.
FORMS = {
    "song": ("V", "VC", "VVC", "VCBC", "VCVBC", "VCVCBC", "VCVCBCC", "VCVCKBCC", "VVCVVCBCC", "VVCVVCKBCC"),
    "rondo": ("C", "CV", "CVC", "CVBC", "CVCBC", "CVCBKC", "CVCBCVC", "CVCBCVKC", "CVCBCVCBC", "CVCBKCVCBC"),
    "aaba": ("V", "VV", "VBV", "VVBV", "VVBVC", "VVBCBV", "VVBVCBV", "VVBVCCBV", "VVBVCCKBV", "VVBVCCKVBV"),
    "blues": ("V", "VV", "VCV", "VVCV", "VVCCV", "VVCKCV", "VVCCKVV", "VVCCKCVV", "VVCCKCCVV", "VVCCVKCCVV"),
    "free": ("V", "VC", "VCV", "VBCV", "VCBCV", "VCKBCV", "VCVKBCV", "VCVBKCVC", "VCVKBCVCV", "VCBVKCVBCV"),
    "club": ("C", "UC", "VUC", "VUCC", "VUCKC", "VUCKUC", "VUCKUCC", "VVUCKUCC", "VUCCKBUCC", "VVUCCKBUCC"),
}
MAX_SECTIONS = 10
# Sections in which each form plays something new every time, as soloists do.
SOLOS = {"aaba": "C", "blues": "C"}


@dataclass(frozen=True)
class Section:
    """A part of a piece.

    Attributes:
        letter: its kind, a key of `NAMES`.
        theme: what it plays; sections with the same theme have the same tune and chords.
        start_bar, num_bars: where it is.
        key: its key.
        energy: 0 (a whisper) ... 1 (everybody, loud).
        repetition: how many sections before it had this theme.
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


def plan_sections(form: str, num_bars: int, theme_bars: int, key: Key, intensity: float, rng: random.Random):
    """Plans the sections of a piece: together they cover its bars without a gap.

    Args:
        form: a key of `FORMS`.
        num_bars: bars of the whole piece, at least 2.
        theme_bars: bars of a theme; sections are whole themes, or parts of one where there is no room.
        key: the key of the piece; a bridge may be in a related one.
        intensity: added to the energy of all sections.
        rng: the source of all choices.

    Returns:
        The list of sections.
    """
    lengths = _section_lengths(form, num_bars, theme_bars)
    bridge_key = rng.choice(key.related()) if form != "club" and rng.random() < 0.6 else key
    sections, start_bar, seen = [], 0, {}
    last_chorus = max((index for index, (letter, _) in enumerate(lengths) if letter == "C"), default=None)
    for index, (letter, length) in enumerate(lengths):
        seen[letter] = seen.get(letter, -1) + 1
        theme = {"I": "V", "K": "V", "U": "C", "E": "V"}.get(letter, letter)
        if letter == SOLOS.get(form):
            theme = f"C{seen[letter]}"
        energy = ENERGIES[letter] + 0.05 * seen[letter] + (0.1 if index == last_chorus else 0) + intensity
        section_key = bridge_key if letter == "B" else key
        energy = min(max(energy, 0.1), 1.0)
        sections.append(Section(letter, theme, start_bar, length, section_key, energy, seen[letter]))
        start_bar += length
    return sections


def _section_lengths(form: str, num_bars: int, theme_bars: int) -> list[tuple[str, int]]:
    """Letters and lengths in bars. What does not fill a section lengthens introduction and ending, or is a break."""
    introduction = 4 if num_bars >= 5 * theme_bars else 2 if num_bars >= 2 * theme_bars else 0
    ending = 4 if num_bars >= 5 * theme_bars else 2 if num_bars >= theme_bars + 2 else 1
    middle = num_bars - introduction - ending
    if middle < theme_bars:
        return [("V", num_bars - ending), ("E", ending)]
    unit = theme_bars * -(-middle // (theme_bars * (MAX_SECTIONS + 1)))
    letters, rest = FORMS[form][min(middle // unit, MAX_SECTIONS) - 1], middle % unit
    if middle // unit > MAX_SECTIONS:
        rest = middle - unit * MAX_SECTIONS
    lengths = [(letter, unit) for letter in letters]
    if rest >= 4 and introduction:
        added = min(rest // 4 * 4, 8)
        introduction, rest = introduction + added, rest - added
    if rest >= 4 and len(letters) > 2 and "K" not in letters[-2:]:
        added = min(rest // 4 * 4, 8)
        lengths.insert(len(lengths) - (2 if letters[-2:] == "UC" else 1), ("K", added))
        rest -= added
    lengths[-1] = (lengths[-1][0], lengths[-1][1] + rest // 4 * 4)
    ending += rest % 4
    return [("I", introduction)] * (introduction > 0) + lengths + [("E", ending)]
