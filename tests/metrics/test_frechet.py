"""The Fréchet distance: closed forms, singular covariances, merging, agreement with scipy."""

import numpy as np
import pytest
import scipy.linalg

from stable_longform.metrics.frechet import GaussianStatistics, frechet_distance


def statistics(num_embeddings, dim, seed=0, scale=1.0):
    """Statistics of correlated random embeddings."""
    rng = np.random.default_rng(seed)
    return GaussianStatistics.from_embeddings(
        scale * rng.normal(size=(num_embeddings, dim)) @ rng.normal(size=(dim, dim))
    )


def with_covariance(covariance, mean=0.0):
    """Statistics of two embeddings with this sample covariance: their scatter is the same."""
    return GaussianStatistics(2, mean + np.zeros(len(covariance)), covariance)


def test_distance_of_a_set_to_itself_is_zero():
    for num_embeddings in (2, 5, 200):  # fewer than dimensions, and more
        first = statistics(num_embeddings, 20)
        assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9 * np.trace(first.covariance))


def test_shifted_gaussians_are_the_squared_shift_apart():
    embeddings = np.random.default_rng(0).normal(size=(50, 8))
    shift = np.arange(8.0)
    pair = [GaussianStatistics.from_embeddings(rows) for rows in (embeddings, embeddings + shift)]
    assert frechet_distance(*pair) == pytest.approx(shift @ shift, rel=1e-10)


def test_scaled_gaussians_have_a_closed_form():
    # Σ and s²Σ around the same mean: Tr Σ (1 − s)².
    first = statistics(300, 6)
    second = with_covariance(9 * first.covariance, first.mean)
    assert frechet_distance(first, second) == pytest.approx(4 * np.trace(first.covariance), rel=1e-10)


def test_diagonal_and_rank_deficient_covariances():
    # Independent coordinates: Σ (σ₁ − σ₂)², zeros among them.
    deviations = np.array([[1.0, 2.0, 0.0, 0.0], [3.0, 0.0, 0.0, 5.0]])
    pair = [with_covariance(np.diag(row**2)) for row in deviations]
    assert frechet_distance(*pair) == pytest.approx(((deviations[0] - deviations[1]) ** 2).sum(), rel=1e-12)
    # Two orthogonal directions have nothing in common: the traces add up.
    lines = [np.outer([1, 1, 0.0], [1, 1, 0]), np.outer([1, -1, 0.0], [1, -1, 0])]
    pair = [with_covariance(line) for line in lines]
    assert frechet_distance(*pair) == pytest.approx(4.0, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_the_square_root_of_scipy(seed):
    first, second = statistics(400, 24, seed), statistics(300, 24, seed + 10, scale=1.7)
    root = scipy.linalg.sqrtm(first.covariance @ second.covariance).real
    shift = first.mean - second.mean
    expected = shift @ shift + np.trace(first.covariance + second.covariance - 2 * root)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)


def test_distance_is_symmetric_and_grows_with_the_shift():
    first, second = statistics(100, 10, 0), statistics(100, 10, 1)
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first), rel=1e-10)
    shifted = GaussianStatistics(second.count, second.mean + 100, second.scatter)
    assert frechet_distance(first, shifted) > frechet_distance(first, second)


def test_merged_parts_are_the_whole_in_any_order():
    rng = np.random.default_rng(3)
    embeddings = (rng.normal(size=(101, 7)) @ rng.normal(size=(7, 7)) + 1e3).astype(np.float32)
    whole = GaussianStatistics.from_embeddings(embeddings)
    parts = [GaussianStatistics.from_embeddings(part) for part in np.split(embeddings, [1, 2, 40, 41])]
    for order in (parts, parts[::-1]):
        merged = order[0]
        for part in order[1:]:
            merged = merged.merge(part)
        assert merged.count == whole.count
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-14)
        np.testing.assert_allclose(merged.scatter, whole.scatter, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(whole.covariance, np.cov(embeddings.astype(np.float64), rowvar=False), rtol=1e-9)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"\(num_embeddings, dim\).*\(0, 4\)"):
        GaussianStatistics.from_embeddings(np.zeros((0, 4)))
    with pytest.raises(ValueError, match="finite, got 1"):
        GaussianStatistics.from_embeddings(np.array([[0.0, np.nan]]))
    with pytest.raises(ValueError, match="Sizes differ: 3 and 4"):
        frechet_distance(statistics(9, 3), statistics(9, 4))
    with pytest.raises(ValueError, match="Sizes differ: 3 and 4"):
        statistics(9, 3).merge(statistics(9, 4))
    with pytest.raises(ValueError, match="at least 2 embeddings, got 1"):
        frechet_distance(statistics(1, 3), statistics(9, 3))
