"""Splits are drawn from places, and both exist whenever they can."""

import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stable_longform.data.splits import VALID_SHARE, draw_split, split_hash, to_split, with_both_splits
from stable_longform.data.tracks import Track


def tracks_of(places: list[str], split: str | None = None) -> list[Track]:
    return [Track(Path(place), 1.0, split or draw_split(place)) for place in places]


@given(places=st.lists(st.text(min_size=1), min_size=2, unique=True))
def test_two_tracks_have_both_splits(places):
    tracks = with_both_splits(tracks_of(places), places)
    assert {track.split for track in tracks} == {"train", "valid"}
    changed = [track for track, place in zip(tracks, places, strict=True) if track.split != draw_split(place)]
    assert len(changed) <= 1


@pytest.mark.parametrize("split", ["train", "valid"])
def test_one_track_changes_when_chance_made_all_the_same(split):
    places = [f"{number}.flac" for number in range(9)]
    tracks = with_both_splits(tracks_of(places, split), places)
    assert sorted(track.split == split for track in tracks) == [False] + 8 * [True]


def test_a_split_that_the_source_says_stays():
    places = ["a.flac", "b.flac", "c.flac"]
    assert [track.split for track in with_both_splits(tracks_of(places, "train"), 3 * [None])] == 3 * ["train"]
    tracks = with_both_splits(tracks_of(places, "train"), [None, None, "c.flac"])
    assert [track.split for track in tracks] == ["train", "train", "valid"]


def test_albums_of_the_same_names_are_divided_by_their_places():
    places = [f"album {album}/{number:02d}.flac" for album in range(400) for number in range(10)]
    valid = [place for place in places if draw_split(place) == "valid"]
    assert abs(len(valid) / len(places) - VALID_SHARE) < 0.012  # three and a half standard deviations
    assert len({place[-7:] for place in valid}) == 10


def test_a_place_is_the_same_on_every_system():
    composed, decomposed = (unicodedata.normalize(form, "caf\u00e9.flac") for form in ("NFC", "NFD"))
    assert composed != decomposed and split_hash(composed) == split_hash(decomposed)
    assert 0 <= split_hash(os.fsdecode(b"caf\xe9.flac")) < 1


def test_names_of_other_tools():
    assert [to_split(name) for name in ("Training", " validation ", "dev", "test", True)] == [
        "train", "valid", "valid", "test", "true"
    ]  # fmt: skip
