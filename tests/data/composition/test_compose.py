"""Laws of composed pieces, over all genres, lengths and many seeds. Nothing here needs a soundfont."""

from collections import Counter

import numpy as np
import pytest

from stable_longform.data.composition.compose import compose_piece, compose_stem
from stable_longform.data.composition.genres import GENRES
from stable_longform.data.composition.moods import MOODS
from stable_longform.data.composition.theory import TONICS, parse_key

CASES = [(seed, duration, genre) for seed, genre in enumerate(GENRES) for duration in (20, 60, 285)]
# Krumhansl and Kessler's profiles: how well each step of the chromatic scale fits a major and a minor key.
MAJOR_PROFILE = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
MINOR_PROFILE = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[2]}-{case[1]}")
def request_and_piece(request):
    return request.param, compose_piece(*request.param)


@pytest.fixture
def piece(request_and_piece):
    return request_and_piece[1]


def section_at(piece, beat: float):
    bar = beat // piece.beats_per_bar
    return next(s for s in piece.sections if s.start_bar <= bar < s.start_bar + s.num_bars)


def pitched(piece):
    return [part for part in piece.parts if not part.instrument.is_drum_kit]


def sounding(piece, beat: float, roles: tuple[str, ...]) -> set[int]:
    """The pitch classes that parts of some roles play at a beat."""
    notes = [note for part in piece.parts if part.role in roles for note in part.notes]
    return {note.pitch % 12 for note in notes if note.start <= beat + 1e-6 < note.start + note.duration}


def test_a_seed_decides_on_everything(request_and_piece):
    request, piece = request_and_piece
    assert compose_piece(*request) == piece


def test_seeds_differ():
    assert len({compose_piece(seed, 60, "Pop").parts for seed in range(20)}) == 20


def test_the_music_fills_its_time(request_and_piece):
    (_, duration, _), piece = request_and_piece
    bar = piece.time_in_s(piece.beats_per_bar)
    assert duration - 3.5 - bar <= piece.time_in_s(piece.num_bars * piece.beats_per_bar) <= duration - 3.5


def test_notes_are_in_the_range_of_their_instrument(piece):
    for part in piece.parts:
        assert all(part.instrument.lowest <= note.pitch <= part.instrument.highest for note in part.notes)
        assert all(1 <= note.velocity <= 127 for note in part.notes)


def test_notes_begin_and_end_with_the_piece(piece):
    end = piece.num_bars * piece.beats_per_bar
    starts = [note.start for part in piece.parts for note in part.notes]
    ends = [note.start + note.duration for part in pitched(piece) for note in part.notes]
    assert min(starts) < piece.beats_per_bar and max(ends) <= end + 1e-9 and max(ends) > end - 0.5


def test_the_last_bar_is_the_chord_of_the_tonic(piece):
    start = (piece.num_bars - 1) * piece.beats_per_bar
    chord = {piece.key.pitch(degree) % 12 for degree in ((0, 4) if piece.genre in ("Rock", "Metal") else (0, 2, 4, 6))}
    bass = [note for part in piece.parts if part.role == "bass" for note in part.notes if note.start >= start]
    assert all(note.pitch % 12 == piece.key.tonic for note in bass)
    assert sounding(piece, start, ("lead", "chords")) <= chord | {piece.key.pitch(2) % 12}


def test_notes_lie_on_the_beat_grid(piece):
    """On quarters or thirds of a beat, moved by the genre's swing: the tempo is exactly what is declared."""
    swing = GENRES[piece.genre].swing

    def swung(position: float) -> float:
        return position * 2 * swing if position < 0.5 else swing + (position - 0.5) * 2 * (1 - swing)

    grid = [swung(step / 4) for step in range(4)] + [step / 3 for step in range(3)] + [1.0]
    for part in piece.parts:
        for note in part.notes:
            assert min(abs(note.start % 1 - place) for place in grid) < 1e-6


def test_notes_are_of_the_sections_key_but_for_leading_tones(piece):
    style = GENRES[piece.genre]
    for part in pitched(piece):
        for note in part.notes:
            key = section_at(piece, note.start).key
            leading_tones = {(k.tonic - 1) % 12 for k in (key, piece.key)} if style.has_leading_tone else set()
            # The last bar of a bridge is in the key of the piece.
            assert note.pitch % 12 in key.pitch_classes | piece.key.pitch_classes | leading_tones


def test_the_melody_is_not_a_semitone_from_the_harmony_on_strong_beats(piece):
    for part in piece.parts:
        if part.role in ("lead", "second"):
            for note in part.notes:
                if (note.start % piece.beats_per_bar) % 2 == 0:
                    harmony = sounding(piece, note.start, ("chords", "pad", "arpeggio"))
                    if note.pitch % 12 not in harmony:
                        assert not {(note.pitch + 1) % 12, (note.pitch - 1) % 12} & harmony


def test_the_bass_does_not_clash_with_the_harmony_on_the_first_beat(piece):
    for part in piece.parts:
        if part.role == "bass":
            for note in part.notes:
                if note.start % piece.beats_per_bar == 0:
                    # Broken chords are complete only after some notes; two chords may share a bar.
                    beats = [note.start + step / 4 for step in range(2 * piece.beats_per_bar)]
                    harmony = set().union(*(sounding(piece, beat, ("chords", "pad")) for beat in beats))
                    if note.pitch % 12 not in harmony:
                        assert not {(note.pitch + 1) % 12, (note.pitch - 1) % 12} & harmony


def test_what_is_declared_is_what_the_genre_allows(piece):
    style = GENRES[piece.genre]
    assert style.bpm[0] <= piece.bpm <= style.bpm[1]
    assert piece.key.mode in style.modes
    assert set(piece.moods) <= set(style.moods)
    assert all(piece.key.mode in MOODS[mood].modes for mood in piece.moods)


def estimate_key(piece) -> str:
    """Krumhansl's key of the notes between a fourth and three fourths of the piece, weighted by their duration."""
    histogram, end = np.zeros(12), piece.num_bars * piece.beats_per_bar
    for part in pitched(piece):
        for note in part.notes:
            if end / 4 <= note.start < end * 3 / 4:
                histogram[note.pitch % 12] += note.duration * note.velocity
    fits = {
        f"{TONICS[tonic]} {mode}": np.corrcoef(np.roll(profile, tonic), histogram)[0, 1]
        for tonic in range(12)
        for mode, profile in (("major", MAJOR_PROFILE), ("minor", MINOR_PROFILE))
    }
    return max(fits, key=fits.get)


def test_the_key_can_be_told_from_the_notes():
    """In nine of ten pieces; dorian counts as minor, which the profiles know."""
    pieces = [compose_piece(seed, 60) for seed in range(200)]
    hits = sum(estimate_key(piece) == piece.key.name.replace("dorian", "minor") for piece in pieces)
    assert hits >= 0.9 * len(pieces)


def test_all_genres_keys_and_moods_are_drawn():
    pieces = [compose_piece(seed, 20) for seed in range(800)]
    assert {piece.genre for piece in pieces} == set(GENRES)
    assert {mood for piece in pieces for mood in piece.moods} == set(MOODS)
    keys = Counter(piece.key.name for piece in pieces)
    assert len(keys) == 36


@pytest.mark.parametrize("genre", [name for name, genre in GENRES.items() if len(genre.moods) > 1])
def test_moods_change_the_music(genre):
    """The most intense mood of a genre is louder than the least intense one, and its melody is struck harder."""
    moods = sorted(GENRES[genre].moods, key=lambda mood: MOODS[mood].intensity)
    calm, wild = (
        [compose_piece(seed, 60, genre, [mood], key="A minor") for seed in range(8)] for mood in (moods[0], moods[-1])
    )

    def mean_velocity(pieces) -> float:
        leads = [part for piece in pieces for part in piece.parts if part.role == "lead"]
        return np.mean([note.velocity for part in leads for note in part.notes])

    assert mean_velocity(wild) > mean_velocity(calm) + 2
    assert sum(p.level_in_dbfs for p in wild) > sum(p.level_in_dbfs for p in calm)


def test_what_is_given_is_kept_and_the_rest_drawn():
    piece = compose_piece(3, 60, "Jazz", ["Happy"], 150, "Eb major")
    assert (piece.genre, piece.moods, piece.bpm, piece.key.name) == ("Jazz", ("Happy",), 150, "Eb major")
    assert compose_piece(3, 60, bpm=100).genre == compose_piece(3, 60).genre
    assert compose_piece(3, 60, key="C major").bpm == compose_piece(3, 60).bpm


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"duration_in_s": 19}, r"duration_in_s must be in \[20, 285\], got 19"),
        ({"duration_in_s": 286}, r"duration_in_s must be in \[20, 285\], got 286"),
        ({"genre": "Polka"}, "genre must be one of .*, got 'Polka'"),
        ({"moods": ["Bored"]}, "moods must be among .*, got Bored"),
        ({"moods": []}, "moods must be among .*, got none"),
        ({"moods": ["Happy", "Sad"]}, "have no mode in common"),
        ({"bpm": 20}, r"bpm must be in \[40, 240\], got 20"),
        ({"key": "A lydian"}, "A key is one of"),
    ],
)
def test_wrong_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        compose_piece(**{"seed": 0, "duration_in_s": 60} | arguments)


def test_stems_are_one_instrument_from_the_first_bar_to_the_last():
    for seed in range(60):
        stem = compose_stem(seed, 30)
        (part,) = stem.parts
        assert stem.instruments == [part.instrument.name] and stem.kind == "stem"
        assert (stem.key is None) == part.instrument.is_drum_kit
        bars = {int(note.start // stem.beats_per_bar) for note in part.notes}
        assert 0 in bars and stem.num_bars - 1 in bars
    assert {part.role for seed in range(60) for part in compose_stem(seed, 20).parts} >= {
        "lead",
        "chords",
        "bass",
        "drums",
    }


def test_what_is_composed_is_parsed():
    assert parse_key(compose_piece(0, 20).key.name) == compose_piece(0, 20).key
