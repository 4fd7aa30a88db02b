"""What a seed stands for, without a soundfont: splits, metadata, descriptions, one-shots."""

from collections import Counter

import pytest

from stable_longform.data.composition.corpus import KINDS, compose, metadata_of, split_of
from stable_longform.data.composition.descriptions import describe_in_words
from stable_longform.data.composition.rendering import SAMPLING_RATE
from stable_longform.data.manifest import make_track
from stable_longform.data.prompts import available_fields

SEEDS = range(40)


@pytest.mark.parametrize("first", [0, 7, 400])
def test_twenty_seeds_in_a_row_have_one_of_each_held_out_split(first):
    splits = Counter(split_of(seed) for seed in range(first, first + 20))
    assert splits == {"train": 18, "valid": 1, "test": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_tracks_with_what_a_prompt_needs(kind, tmp_path):
    for seed in SEEDS:
        piece, _ = compose(kind, seed)
        row = metadata_of(piece, 30 * SAMPLING_RATE)
        track = make_track(row, tmp_path / "x.flac", "row")
        assert track.duration_in_s == 30 and track.split == split_of(seed)
        fields = {"description", "bpm", "key", "genre", "moods", "instruments"}
        if kind == "piece":
            assert set(available_fields(track.metadata)) == fields
        assert "description" in available_fields(track.metadata) and None not in row.values()


def test_sections_in_seconds_cover_the_piece():
    for seed in SEEDS:
        piece, duration_in_s = compose("piece", seed, (20.0, 120.0))
        sections = metadata_of(piece, SAMPLING_RATE)["sections"]
        assert sections[0]["start_in_s"] == 0 and sections[-1]["name"] == "Ending"
        assert all(a["end_in_s"] == b["start_in_s"] for a, b in zip(sections, sections[1:], strict=False))
        bar_in_s = piece.beats_per_bar * 60 / piece.bpm
        for section, planned in zip(sections, piece.sections, strict=True):
            duration = section["end_in_s"] - section["start_in_s"]
            assert duration == pytest.approx(planned.num_bars * bar_in_s, abs=2e-3)
        assert sections[-1]["end_in_s"] <= duration_in_s


def test_durations_are_within_their_bounds_and_spread():
    durations = [compose("piece", seed, (60.0, 285.0))[1] for seed in range(100)]
    assert 60 <= min(durations) < 80 and 265 < max(durations) <= 285
    assert all(10 <= compose("stem", seed)[1] <= 60 for seed in SEEDS)


def test_a_duration_is_rounded_down_so_that_the_file_has_it():
    piece, _ = compose("one-shot", 0)
    assert metadata_of(piece, SAMPLING_RATE + 43)["duration_in_s"] == 1.0


def test_descriptions_say_only_what_is_true():
    texts = set()
    for seed in range(100):
        piece, _ = compose("piece", seed, (20.0, 30.0))
        text = describe_in_words(piece)
        texts.add(text.split()[0])
        assert piece.genre.lower() in text.lower()
        assert (" in " + piece.key.name in text) or "minor" not in text.replace(piece.genre, "")
        assert text.endswith(".") and text[0].isupper() and "{" not in text
    assert len(texts) > 5


def test_one_shots_have_no_tempo_no_key_and_one_sound():
    descriptions = set()
    for seed in range(200):
        piece, duration_in_s = compose("one-shot", seed)
        row = metadata_of(piece, SAMPLING_RATE)
        assert not {"bpm", "key", "genre", "moods", "sections"} & set(row) and duration_in_s is None
        (part,) = piece.parts
        assert all(part.instrument.lowest <= note.pitch <= part.instrument.highest for note in part.notes)
        assert {note.start for note in part.notes} == {0.0}
        descriptions.add(row["description"])
    assert len(descriptions) > 100


def test_an_unknown_kind():
    with pytest.raises(ValueError, match="kind must be one of piece, stem, one-shot, got 'song'"):
        compose("song", 0)
