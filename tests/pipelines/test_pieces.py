"""Kept and new parts of a piece: samples, frames, stretches, turns, crossfades."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stable_longform.pipelines.pieces import (
    EditedPiece,
    check_crossfade,
    check_edit,
    check_extension,
    check_regions,
    crossfade,
    find_stretches,
    lay_out,
    merge,
    runs,
)
from stable_longform.utils.audio import AudioInfo

HOP = 4


def wave(num_samples: int) -> torch.Tensor:
    return torch.arange(1.0, num_samples + 1)[None]


@st.composite
def layouts(draw):
    """A recording, regions of it, and new samples around it, of which something is kept and something new."""
    num_samples = draw(st.integers(4, 60))
    cuts = sorted(draw(st.sets(st.integers(0, num_samples), max_size=6)))
    regions = list(zip(cuts[::2], cuts[1::2], strict=False))
    return wave(num_samples), regions, draw(st.integers(0, 30)), draw(st.integers(0, 30))


def laid_out(layout, is_loop=False):
    try:
        return lay_out(*layout, HOP, is_loop)
    except ValueError:
        return None, 0


@settings(max_examples=100)
@given(layouts(), st.data())
def test_what_is_read_is_what_is_known_or_its_mirror_image(layout, data):
    waveform, _, before, after = layout
    piece, _ = laid_out(layout)
    if piece is None:
        return
    whole = piece.read(0, piece.num_samples)[0]
    num_samples = waveform.shape[1]
    mirror = torch.cat([waveform.flip(1), waveform, waveform.flip(1)], dim=1)[0]
    expected = torch.nn.functional.pad(mirror, (max(before - num_samples, 0), max(after - num_samples, 0)))
    first = max(num_samples - before, 0)
    assert torch.equal(whole, expected[first : first + piece.num_samples])
    start = data.draw(st.integers(0, piece.num_samples))
    stop = data.draw(st.integers(start, piece.num_samples))
    assert torch.equal(piece.read(start, stop)[0], whole[start:stop])


@settings(max_examples=100)
@given(layouts())
@example((wave(4), [(0, 1), (2, 3)], 1, 0))
def test_a_loop_that_is_turned_is_the_same_loop(layout):
    piece, shift = laid_out(layout, is_loop=True)
    if piece is None:
        return
    waveform, regions, before, after = layout
    is_new = torch.ones(before + waveform.shape[1] + after, dtype=torch.bool)
    is_new[before : before + waveform.shape[1]] = False
    known = torch.zeros(len(is_new))
    known[before : before + waveform.shape[1]] = waveform[0]
    for start, stop in regions:
        is_new[before + start : before + stop] = True
    turned = torch.zeros_like(is_new)
    for start, stop in piece.regions:
        turned[start:stop] = True
    assert torch.equal(turned, is_new.roll(-shift))
    kept = ~turned
    if (kept & kept.roll(1)).any():  # a single kept sample can't lie on both sides
        assert kept[0] and kept[-1], "new music has kept music on both sides"
    whole = piece.read(0, piece.num_samples)[0]
    assert torch.equal(whole[kept], known.roll(-shift)[kept])
    seam = -shift % piece.num_samples  # what is replaced there is mirrored from what is kept on its own side
    assert not kept[seam] or not kept[seam - 1]
    for start, stop in piece.regions:
        if start <= seam <= stop and stop - start > 1:
            assert whole[start] == whole[start - 1] and whole[stop - 1] == whole[stop]


@settings(max_examples=200)
@given(
    st.lists(st.booleans(), min_size=1, max_size=80).filter(any),
    st.one_of(st.none(), st.integers(0, 20)),
    st.integers(4, 30),
)
def test_stretches_hold_all_that_is_free(free, context, window):
    is_free = torch.tensor(free)
    stretches = find_stretches(is_free, context, window)
    covered = torch.zeros_like(is_free)
    for start, stop in stretches:
        assert 0 <= start < stop <= len(free)
        covered[start:stop] = True
    assert covered[is_free].all()
    assert stretches == merge(stretches)
    for start, stop in stretches:
        free_runs = [run for run in runs(is_free) if start <= run[0] < stop]
        assert free_runs
        if context is not None:
            assert free_runs[0][0] - start == min(context, free_runs[0][0])
            assert stop - free_runs[-1][1] == min(context, len(free) - free_runs[-1][1])
        else:
            assert stop - start >= min(window, len(free))


def test_a_frame_that_is_partly_new_is_free():
    piece, _ = lay_out(wave(22), [(5, 6), (11, 13)], 0, 0, HOP, False)
    assert piece.num_frames == 6
    assert piece.is_free.tolist() == [False, True, True, True, False, False]


def test_a_crossfade_takes_at_most_half_of_the_shortest_part():
    parts = [(1.0, 3.0), (5.0, 5.5)]
    assert check_crossfade(0.25, parts) == 0.25
    assert check_crossfade(None, [(0.0, 0.01)]) == 0.05  # the default is cut to half of each part later
    with pytest.raises(ValueError, match=r"--crossfade must be in \[0, 0.25\] seconds.* got 0.26"):
        check_crossfade(0.26, parts, "--crossfade")
    with pytest.raises(ValueError, match=r"in \[0, 10\] seconds"):
        check_crossfade(11, [(0.0, 100.0)])


def test_the_crossfade_is_inside_and_reaches_neither_end():
    weight = crossfade(torch.arange(100), 100, 10, 20)
    assert (weight[10:80] == 1).all() and 0 < weight[0] < 0.05 and 0 < weight[-1] < 0.05
    assert (weight[:11].diff() > 0).all() and (weight[79:].diff() < 0).all()
    assert torch.equal(crossfade(torch.arange(40, 90), 100, 10, 20), weight[40:90])
    assert (crossfade(torch.arange(100), 100, 0, 0) == 1).all()
    short = crossfade(torch.arange(3), 3, 50, 50)
    assert (short > 0).all() and short[1] == 1


def test_runs():
    assert runs(torch.tensor([True, False, True, True])) == [(0, 1), (2, 4)]
    assert runs(torch.tensor([False])) == []


@pytest.mark.parametrize(
    ("regions", "before", "after", "is_loop", "message"),
    [
        ([], 0, 0, False, "There is nothing to generate"),
        ([(0, 20)], 0, 0, False, "Nothing is kept"),
        ([(1, 19)], 0, 0, False, "No whole frame of 4 samples is kept"),
        ([(8, 12)], 0, 0, True, "A loop needs new music at one end"),
    ],
)
def test_what_cannot_be_laid_out(regions, before, after, is_loop, message):
    with pytest.raises(ValueError, match=message):
        lay_out(wave(20), regions, before, after, HOP, is_loop)


def test_long_music_is_read_block_by_block():
    piece = EditedPiece(3 * 2**20, [(0, torch.ones(1, 2**20))], [(2**20, 3 * 2**20)], HOP)
    assert [block.shape[1] for block in piece.read_blocks(5, 2**21 + 6)] == [2**20, 2**20, 1]


def test_an_edit_is_checked_by_the_header_as_by_the_samples():
    """The parts that a header tells are those of the piece, in seconds."""
    waveform, rate = wave(8000), 8000
    info, edit = AudioInfo(1.0, rate, 1, "WAV/FLOAT"), {"extend_to": 2.0, "prepend_in_s": 0.5}
    parts, duration = check_edit(info, [(0.25, 0.5)], **edit)
    assert parts == [(0, 0.5), (0.75, 1.0), (1.5, 2.0)] and duration == 2.0
    before, after = check_extension(8000, rate, **edit)
    piece, _ = lay_out(waveform, check_regions([(0.25, 0.5)], 8000, rate), before, after, HOP, False)
    assert [(start / rate, stop / rate) for start, stop in piece.regions] == parts
    assert piece.num_samples / rate == duration
    assert check_edit(info, prepend_in_s=0.5) == ([(0, 0.5)], 1.5)


@pytest.mark.parametrize("rate", [8000, 44100, 192000])
def test_the_shortest_extension_by_the_header_is_one_at_every_rate(rate):
    """The header's rate is not the model's: what is accepted at one is accepted at the other, after resampling."""
    info = AudioInfo(1.0, 48000, 1, "WAV/FLOAT")
    assert check_edit(info, extend_to=1.001)[1] == 1.001
    assert check_extension(rate, rate, 1.001, 0.0)[1] > 0 and check_extension(rate + 1, rate, 1.001, 0.0)[1] > 0
    with pytest.raises(ValueError, match=r"--to must be in \[1.001, 3600\] seconds, got 1.0005"):
        check_edit(info, extend_to=1.0005, names=("--to", "--prepend"))
    with pytest.raises(ValueError, match="--prepend must be 0 or at least 0.001 s, got 0.0005"):
        check_edit(info, prepend_in_s=0.0005, names=("--to", "--prepend"))


def test_regions_may_be_an_array():
    regions = [(0.25, 0.5), (0.75, 1.0)]
    for given_regions in (np.array(regions), torch.tensor(regions)):
        assert check_regions(given_regions, 8, 8) == [(2, 4), (6, 8)]
        assert check_edit(AudioInfo(1.0, 8, 1, ""), given_regions)[0] == regions
