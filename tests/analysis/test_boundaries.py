"""Boundaries: choices whose answer is known, mir_eval's measures, and small pieces."""

import numpy as np
import pytest
from pieces import render_form, shuffle_blocks

from stable_longform.analysis.boundaries import (
    boundary_f_scores,
    choose_regular,
    contrast_novelty,
    equal_sections,
    find_boundaries,
)
from stable_longform.analysis.features import extract_features


def test_the_boundaries_of_small_pieces_are_found():
    for form in ("aABABCB", "ABACA", "ABCAB"):
        found = find_boundaries(extract_features([render_form(form)]))
        scores = boundary_f_scores(np.arange(0, 16 * len(form), 16), found, 16 * len(form))
        assert scores["boundary_f_3s"] >= 0.8, (form, found)


def test_low_peaks_and_irregular_ones_are_left_out():
    assert choose_regular(np.array([16.0, 32.0, 48.0]), np.array([0.3, -2.0, 0.3]), 64.0) == [16.0, 48.0]
    times = np.array([20.0, 25.0, 40.0, 60.0, 66.0])
    assert choose_regular(times, np.array([0.5, 0.2, 0.5, 0.5, 0.2]), 80.0) == [20.0, 40.0, 60.0]
    assert choose_regular(np.array([]), np.array([]), 80.0) == []


def test_introduction_and_ending_may_be_short():
    times, gains = np.array([5.0, 25.0, 45.0, 65.0]), np.full(4, 0.2)
    assert choose_regular(times, gains, 70.0) == times.tolist()


def test_contrast_is_highest_where_the_sound_changes():
    features = np.zeros((3, 200))
    features[0, :90], features[1, 90:] = 1, 1
    curve = contrast_novelty(features, 5.0)
    assert curve.argmax() in (89, 90) and curve[:70].max() < 1e-6 * curve.max()
    np.testing.assert_allclose(contrast_novelty(features[:, ::-1], 5.0)[::-1][:-1], curve[1:], atol=1e-9)


def test_scores_are_those_of_mir_eval_without_the_ends():
    scores = boundary_f_scores([0, 10, 20, 30], [10.4, 22.0, 35.0], 40.0)
    assert scores == pytest.approx(
        {"boundary_f_0.5s": 1 / 3, "boundary_f_3s": 2 / 3, "boundary_precision_3s": 2 / 3, "boundary_recall_3s": 2 / 3}
    )
    assert set(boundary_f_scores([0, 10, 20], [10, 20], 40.0).values()) == {1.0}
    assert set(boundary_f_scores([0, 10, 20], [], 40.0).values()) == {0.0}
    with pytest.raises(ValueError, match="no boundary inside"):
        boundary_f_scores([0.0, 50.0], [10.0], 40.0)


def test_equal_sections_are_as_many_as_the_true_ones_inside_the_piece():
    assert equal_sections([0.0, 3.0, 31.0, 55.0], 40.0) == pytest.approx([40 / 3, 80 / 3])
    assert equal_sections([0.0, 3.0], 40.0) == [20.0] and equal_sections([0.0], 40.0) == []


def test_music_without_order_has_no_sure_boundaries():
    piece = render_form("ABABAB")
    found = find_boundaries(extract_features([shuffle_blocks(piece, 1.0)]))
    scores = boundary_f_scores(np.arange(0, 96, 16), found, 96.0)
    assert scores["boundary_f_3s"] < 0.8
