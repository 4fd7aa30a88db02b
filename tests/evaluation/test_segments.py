"""Segments and copies: what changes a recording's embeddings, and what doesn't."""

import numpy as np
import pytest
import torch

from stable_longform.evaluation.audio_files import Audio
from stable_longform.evaluation.segments import (
    COPIES,
    SegmentEmbedder,
    cut_excerpt,
    for_middles,
    for_segments,
    make_copy,
    mean_row,
    splice,
)
from stable_longform.metrics.embedders.chroma import ChromaEmbedder
from stable_longform.metrics.embedders.mel44 import Mel44Embedder

RATE = 44100


def test_segments_begin_at_every_hop_and_the_rest_is_half_of_one_at_least(make_audio):
    embedder = SegmentEmbedder(Mel44Embedder(), 6.2, 3.1)
    for seconds, starts in ((4.0, [0]), (6.2, [0]), (9.2, [0, 3.1]), (9.4, [0, 3.1, 6.2])):
        waveform = make_audio(round(seconds * RATE))
        rows = embedder(waveform).embeddings
        assert len(rows) == len(starts)
        last = SegmentEmbedder(Mel44Embedder(), 6.2, 6.2)(waveform[:, round(starts[-1] * RATE) :]).embeddings
        np.testing.assert_array_equal(rows[-1], last[0])
    with pytest.raises(ValueError, match="at least"):
        embedder(make_audio(RATE))


def test_gain_changes_nothing_and_silence_is_a_row_of_zeros(make_audio):
    waveform = make_audio(6 * RATE)
    waveform[:, 3 * RATE :] = 0
    embedder = SegmentEmbedder(Mel44Embedder(), 3.0, 3.0)
    rows = embedder(waveform).embeddings
    assert rows.shape == (2, 136) and rows[0].any() and not rows[1].any()
    quieter = embedder(0.1 * waveform).embeddings
    np.testing.assert_allclose(quieter, rows, atol=1e-3)
    with pytest.raises(ValueError, match="silent"):
        embedder(torch.zeros(2, 6 * RATE))
    np.testing.assert_allclose(np.linalg.norm(mean_row(rows)), 1, rtol=1e-6)
    np.testing.assert_allclose(mean_row(rows), mean_row(rows[:1]))
    assert not mean_row(rows[1:]).any()


def test_a_passage_in_the_middle_begins_where_one_of_the_whole_does():
    rng = np.random.default_rng(0)
    notes = [np.sin(440 * 2 ** (pitch / 12) * np.arange(RATE // 4) / 7000) for pitch in rng.integers(-12, 24, 80)]
    waveform = torch.from_numpy(np.concatenate(notes)[None].astype(np.float32))  # 20 s
    middle = for_middles(ChromaEmbedder(), 4.0)
    whole = for_segments(ChromaEmbedder(), 4.0)(waveform).embeddings
    for start in (0, 0.37, 3.1, 4.4):
        rows = middle(waveform[:, round(start * RATE) :]).embeddings
        assert rows.shape == (11, 960) and (rows @ whole.T).max() > 0.9
    assert (middle(waveform.flip(1)).embeddings @ whole.T).max() < 0.5
    waveform[:, 3 * RATE : 17 * RATE] = 0
    assert middle(waveform).embeddings.shape == (1, 960) and not middle(waveform).embeddings.any()
    for useless in (torch.zeros(1, 20 * RATE), waveform[:, : 3 * RATE]):
        with pytest.raises(ValueError):
            middle(useless)
    assert for_middles(Mel44Embedder(), 4.0) is None


def test_copies_are_what_they_are_called(make_audio):
    audio = Audio(make_audio(4 * RATE), RATE)
    copies = {kind: make_copy(audio, kind) for kind in COPIES}
    assert torch.equal(copies["exact"].waveform, audio.waveform)
    assert torch.equal(copies["shifted"].waveform, audio.waveform[:, round(1.37 * RATE) :])
    assert torch.equal(copies["cut"].waveform, audio.waveform[:, RATE : 3 * RATE])
    assert float(copies["quieter"].waveform.abs().max() / audio.waveform.abs().max()) == pytest.approx(10**-0.45)
    encoded = copies["re-encoded"].waveform
    error = (encoded - audio.waveform).square().sum() / audio.waveform.square().sum()
    assert encoded.shape == audio.waveform.shape and 1e-6 < error < 0.1
    with pytest.raises(ValueError, match="kind must be one of exact"):
        make_copy(audio, "reversed")


def test_a_splice_holds_all_of_a_smaller_one():
    host, source = torch.zeros(1, 1000), torch.arange(1.0, 3001.0)[None]
    assert torch.equal(splice(host, source, 0.0, 0.3), host)
    for place in (0.0, 0.37, 1.0):
        before = torch.zeros(1, 1000, dtype=torch.bool)
        for share in (0.1, 0.25, 0.5, 0.75, 1.0):
            spliced = splice(host, source, share, place)
            is_source = spliced > 0
            assert is_source.sum() == round(share * 1000) and (is_source | ~before).all()
            assert torch.equal(spliced[is_source], source[:, :1000][is_source])
            assert (is_source.flatten().nonzero().diff(dim=0) == 1).all()  # one passage
            before = is_source
    with pytest.raises(ValueError, match="at least 1000 samples"):
        splice(host, source[:, :999], 0.5, 0.0)


def test_an_excerpt_has_its_length_and_its_place():
    audio = Audio(torch.arange(1000.0)[None], 100)
    for place, start in ((0.0, 0), (0.5, 350), (1.0, 700)):
        assert torch.equal(cut_excerpt(audio, 3.0, place).waveform, torch.arange(start, start + 300.0)[None])
    assert torch.equal(cut_excerpt(audio, 30.0, 0.7).waveform, audio.waveform)


def test_segments_of_generations_begin_at_finer_steps():
    assert [for_segments(Mel44Embedder(), 4.0, is_query).hop_in_s for is_query in (False, True)] == [4.0, 0.5]
    hops = [for_segments(ChromaEmbedder(), 8.0, is_query).hop_in_s for is_query in (False, True)]
    assert hops == pytest.approx([2.0, 0.1])
