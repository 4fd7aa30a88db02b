"""Composed music as a source. What plays it is skipped without a soundfont (Debian: timgm6mb-soundfont)."""

import itertools

import pytest
import torch
from soundfont import SOUNDFONT, needs_soundfont

from stable_longform.data.composed_music import ComposedShards, open_composed
from stable_longform.data.composition import rendering
from stable_longform.data.composition.corpus import render_piece
from stable_longform.data.sources import is_stream, open_source
from stable_longform.utils.audio import read_audio


def test_seeds_say_the_split(tmp_path):
    shards = ComposedShards(tuple(range(40)), tmp_path)
    parts = [shards.of_split(split) for split in ("train", "valid", "test")]
    assert [part.num_shards for part in parts] == [36, 2, 2]
    assert sorted(itertools.chain(*(part.seeds for part in parts))) == list(range(40))
    with pytest.raises(ValueError, match="None of the seeds 0 to 39 is in split 'extra'"):
        shards.of_split("extra")


@pytest.mark.parametrize("name", ["composed:", "composed:3", "composed:5..4", "composed:a..b", "composed:-1..4"])
def test_wrong_names(name):
    with pytest.raises(ValueError, match="composed:FIRST_SEED..LAST_SEED"):
        open_composed(name)


@needs_soundfont
def test_the_source_gives_the_pieces_with_their_metadata(monkeypatch):
    monkeypatch.setattr(rendering, "SOUNDFONTS", {"smallest": SOUNDFONT})
    assert is_stream("composed:97..98")
    (track,) = open_source("composed:97..98", "valid").share()
    waveform, metadata = render_piece("piece", 98, SOUNDFONT)
    with track.open() as file:
        read, rate = read_audio(file)
    assert rate == 44100 and track.split == "valid" and track.metadata["key"] == metadata["key"]
    torch.testing.assert_close(read, waveform, atol=2**-15, rtol=0)
