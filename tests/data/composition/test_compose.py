"""Laws of composed pieces, over many seeds and all genres. Nothing here needs a soundfont."""

import pytest

from stable_longform.data.composition.compose import compose_piece
from stable_longform.data.composition.genres import GENRES
from stable_longform.data.composition.moods import MOODS

CASES = [(seed, duration, genre) for seed, genre in enumerate(GENRES) for duration in (20, 47, 190, 285)]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[2]}-{case[1]}")
def piece(request):
    return compose_piece(*request.param)


def section_at(piece, beat: float):
    bar = beat // piece.beats_per_bar
    return next(s for s in piece.sections if s.start_bar <= bar < s.start_bar + s.num_bars)


def pitched(piece):
    return [part for part in piece.parts if not part.instrument.is_drum_kit]


@pytest.mark.parametrize("seed", range(5))
def test_a_seed_decides_on_everything(seed):
    assert compose_piece(seed, 60) == compose_piece(seed, 60)
    assert compose_piece(seed, 60).parts != compose_piece(seed + 1, 60).parts


def test_sections_cover_the_piece_and_the_last_is_its_ending(piece):
    bar = 0
    for section in piece.sections:
        assert section.start_bar == bar and section.num_bars > 0
        bar += section.num_bars
    assert piece.sections[-1].name == "Ending"


def test_notes_are_in_the_range_of_their_instrument(piece):
    for part in piece.parts:
        assert all(part.instrument.lowest <= note.pitch <= part.instrument.highest for note in part.notes)


def test_notes_end_with_the_piece(piece):
    end = piece.num_bars * piece.beats_per_bar
    for part in pitched(piece):
        assert all(0 <= note.start and note.start + note.duration <= end + 1e-9 for note in part.notes)


def test_notes_are_of_the_sections_key_but_for_leading_tones(piece):
    style = GENRES[piece.genre]
    for part in pitched(piece):
        for note in part.notes:
            key = section_at(piece, note.start).key
            leading_tones = {(k.tonic - 1) % 12 for k in (key, piece.key)} if style.has_leading_tone else set()
            allowed = key.pitch_classes | piece.key.pitch_classes | leading_tones
            assert note.pitch % 12 in allowed


def test_what_is_declared_is_what_the_genre_allows(piece):
    style = GENRES[piece.genre]
    assert style.bpm[0] <= piece.bpm <= style.bpm[1]
    assert piece.key.mode in style.modes
    assert set(piece.moods) <= set(style.moods)
    assert all(piece.key.mode in MOODS[mood].modes for mood in piece.moods)
