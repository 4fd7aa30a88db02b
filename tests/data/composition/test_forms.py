"""Forms: sections cover the piece, whatever its length; what returns, what changes."""

import random

import pytest

from stable_longform.data.composition.forms import FORMS, MAX_SECTIONS, NAMES, plan_sections
from stable_longform.data.composition.theory import parse_key

HOME = parse_key("A minor")


def plan(form: str, num_bars: int, theme_bars: int = 8, intensity: float = 0.0, seed: int = 0):
    return plan_sections(form, num_bars, theme_bars, HOME, intensity, random.Random(seed))


@pytest.mark.parametrize("form", FORMS)
def test_sections_cover_the_bars_without_a_gap(form):
    for theme_bars in (8, 12):
        for num_bars in range(2, 230):
            sections, bar = plan(form, num_bars, theme_bars), 0
            for section in sections:
                assert section.start_bar == bar and section.num_bars >= 1
                bar += section.num_bars
            assert bar == num_bars
            assert [section.letter == "E" for section in sections] == [False] * (len(sections) - 1) + [True]


def test_tables():
    for sequences in FORMS.values():
        assert [len(letters) for letters in sequences] == list(range(1, MAX_SECTIONS + 1))
        assert set("".join(sequences)) <= set(NAMES)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "stem"])
def test_long_pieces_have_an_introduction_something_that_returns_and_an_ending(form):
    names = [section.name for section in plan(form, 120)]
    assert names[0] == "Introduction" and names[-1] == "Ending"
    assert max(names.count(name) for name in ("Verse", "Chorus")) >= 2


def test_a_song_has_a_bridge_in_a_related_key_now_and_then_and_a_club_track_never():
    keys = {form: set() for form in ("song", "club")}
    for form in keys:
        for seed in range(40):
            keys[form] |= {section.key for section in plan(form, 150, seed=seed) if section.letter == "B"}
    assert keys["song"] == {HOME, *HOME.related()} and keys["club"] <= {HOME}


def test_energy_rises_to_the_last_chorus_and_stays_in_range():
    sections = plan("song", 150)
    last_chorus = [section for section in sections if section.letter == "C"][-1]
    assert last_chorus.energy == max(section.energy for section in sections)
    for intensity in (-0.5, 0.5):
        assert all(0.1 <= section.energy <= 1 for section in plan("song", 150, intensity=intensity))


def test_sections_of_a_kind_share_their_theme_but_solos():
    assert {section.theme for section in plan("song", 150) if section.letter == "C"} == {"C"}
    solos = [section.theme for section in plan("blues", 150, 12) if section.letter == "C"]
    assert len(solos) >= 2 and len(set(solos)) == len(solos)
