"""Binary self-similarity matrices: librosa's, symmetries, loops and silence."""

import librosa
import numpy as np
import pytest

from stable_longform.analysis.self_similarity import delay_embedding, recurrence_matrix


def noise(num_rows=12, num_columns=100, seed=0):
    return np.random.default_rng(seed).standard_normal((num_rows, num_columns))


@pytest.mark.parametrize("share", (0.01, 0.04, 0.2))
def test_mutual_neighbors_are_those_of_librosa(share):
    vectors = noise()
    expected = librosa.segment.recurrence_matrix(
        vectors, k=round(share * 100), width=1, metric="euclidean", sym=True, mode="distance"
    )
    np.testing.assert_array_equal(recurrence_matrix(vectors, share), expected > 0)


def test_symmetries():
    vectors = noise()
    matrix = recurrence_matrix(vectors)
    assert matrix.any() and not matrix.diagonal().any()
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_array_equal(recurrence_matrix(5 * vectors + 3), matrix)
    order = np.random.default_rng(1).permutation(100)
    np.testing.assert_array_equal(recurrence_matrix(vectors[:, order]), matrix[np.ix_(order, order)])


def test_a_row_has_no_more_neighbors_than_asked_for():
    assert recurrence_matrix(noise(), 0.1).sum(axis=1).max() <= 10


def test_a_loop_is_like_all_its_passes_however_many():
    """Ten frames, twenty times: each has 19 equals, and 4 % of 200 are 8 neighbours. Noise breaks the ties."""
    loop = np.tile(noise(12, 10), 20) + 1e-3 * noise(12, 200, seed=1)
    matrix = recurrence_matrix(loop)
    expected = np.equal.outer(np.arange(200) % 10, np.arange(200) % 10) & ~np.eye(200, dtype=bool)
    np.testing.assert_array_equal(matrix, expected)


def test_silence_is_like_nothing():
    vectors = noise()
    vectors[:, 20:50] = 0
    is_silent = np.zeros(100, dtype=bool)
    is_silent[20:50] = True
    matrix = recurrence_matrix(vectors, is_silent=is_silent)
    assert not matrix[20:50].any() and not matrix[:, 20:50].any() and matrix.any()


def test_delay_embedding():
    features = noise(3, 20)
    np.testing.assert_array_equal(delay_embedding(features, 1), features)
    embedded = delay_embedding(features, 4)
    assert embedded.shape == (12, 20)
    np.testing.assert_array_equal(embedded[:, 7], features[:, 5:9].T.ravel())
    np.testing.assert_array_equal(embedded[:, 0], features[:, [0, 0, 0, 1]].T.ravel())


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_frames must be at least 1, got 0"):
        delay_embedding(noise(), 0)
    with pytest.raises(ValueError, match=r"neighbor_share must be in \(0, 1\], got 0"):
        recurrence_matrix(noise(), 0)
    assert recurrence_matrix(noise(3, 1)).shape == (1, 1)
