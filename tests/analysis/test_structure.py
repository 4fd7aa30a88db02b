"""The numbers of structure: what raises and lowers each, on small pieces."""

import numpy as np
import pytest
import torch
from pieces import render_form, render_section, shuffle_blocks

from stable_longform.analysis.features import SAMPLING_RATE, extract_features
from stable_longform.analysis.structure import (
    DEFINITIONS,
    analyze_structure,
    edge_contrasts,
    segment_means,
    structural_derivation,
)


def values_of(waveform):
    return analyze_structure(extract_features([waveform])).values


@pytest.fixture(scope="module")
def song():
    return values_of(render_form("aABABCA"))


def test_every_number_has_a_definition(song):
    assert song.keys() == DEFINITIONS.keys()


def test_shuffled_blocks_lose_what_comes_back(song):
    shuffled = values_of(shuffle_blocks(render_form("aABABCA"), 1.3))
    assert song["late_return"] > 0.4 and shuffled["late_return"] < 0.3
    assert song["longest_repetition_in_s"] >= 14 > 9 > shuffled["longest_repetition_in_s"]


def test_one_loop_is_told_from_sections(song):
    passage = torch.from_numpy(render_section("A", 9)).float()[None]  # 4.5 s, no whole number of frames
    loop = values_of(passage.tile(1, 20))
    assert loop["loop_share"] > 0.9 and loop["longest_loop_in_s"] > 80
    assert song["loop_share"] < 0.3


def test_sections_that_never_come_back_are_no_returns():
    """Each of three sections is a progression of 4 s again and again for 24 s."""
    once = values_of(render_form("ABC", 48))
    assert once["late_return"] == 0 and once["longest_loop_in_s"] == pytest.approx(24, abs=1.5)


def test_introduction_and_ending_are_told_from_the_middle():
    features = np.zeros((2, 400))
    features[0] = np.tile(np.repeat([0.0, 1.0], 40), 5)
    plain = edge_contrasts(features, 5.0)
    assert plain == pytest.approx((0.5, 0.5))
    features[1, :40] = 3.0
    introduction, ending = edge_contrasts(features, 5.0)
    assert introduction > 0.8 and ending == pytest.approx(0.5)
    np.testing.assert_allclose(edge_contrasts(features[:, ::-1], 5.0), (ending, introduction))
    np.testing.assert_allclose(edge_contrasts(7 * features + 1, 5.0), (introduction, ending))


def test_derivation_is_the_mean_cosine_with_the_first():
    first = np.array([3.0, 0.0])
    assert structural_derivation(np.stack([first, 5 * first, -first])) == pytest.approx(0)
    assert structural_derivation(np.stack([first, [0, 1], [1, 1]])) == pytest.approx(np.sqrt(0.5) / 2)
    assert structural_derivation(np.stack([first, first])) == 1
    with pytest.raises(ValueError, match="at least two segments, got 1"):
        structural_derivation(first[None])


def test_segments_are_whole():
    features = np.arange(130.0)[None]
    np.testing.assert_array_equal(segment_means(features, 5.0), [[24.5], [74.5]])


def test_short_music_is_refused_and_twelve_seconds_are_enough():
    with pytest.raises(ValueError, match="too short: 9.00 s, less than 10 s"):
        values_of(render_form("A", 18))
    values = values_of(render_form("A", 24))
    assert "derivation" not in values and all(np.isfinite(list(values.values())))


def test_silence_is_no_repetition():
    waveform = render_form("AB", 32)
    silence = torch.zeros(1, 40 * SAMPLING_RATE)
    values = values_of(torch.cat([waveform, silence], dim=1))
    assert values["longest_loop_in_s"] == pytest.approx(16, abs=1.5) and values["late_return"] == 0
