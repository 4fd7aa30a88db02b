"""The kernel audio distance: closed form for Gaussians, no bias at any size, invariances, choices of files."""

import numpy as np
import pytest

from stable_longform.metrics import kernel_distance as module
from stable_longform.metrics.kernel_distance import KernelSums, kernel_distance, median_distance


def gaussian(count, dim=3, shift=0.0, scale=1.0, seed=0):
    """Samples `(count, dim)` of a Gaussian."""
    return shift + scale * np.random.default_rng(seed).normal(size=(count, dim))


def distance(first, second, bandwidth=None):
    """Distance of two sets of one file each."""
    return kernel_distance(KernelSums.from_embeddings([first], [second], bandwidth))


def closed_form(dim, shift, scale, bandwidth):
    """100 · MMD² of N(0, 1) and N(shift, scale²) in each of `dim` axes: E k = Π σ/√(σ² + s) · exp(−δ² / 2(σ² + s))."""

    def mean_kernel(variance, distance=0.0):
        total = bandwidth**2 + variance
        return (bandwidth / np.sqrt(total) * np.exp(-(distance**2) / (2 * total))) ** dim

    return 100 * (mean_kernel(2.0) + mean_kernel(2 * scale**2) - 2 * mean_kernel(1 + scale**2, shift))


@pytest.mark.parametrize("count", (4, 20))
@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (1.0, 1.0), (0.0, 2.0), (1.0, 0.5)])
def test_the_mean_over_draws_is_the_closed_form_at_any_size(count, shift, scale):
    """Equal distributions give 0 on average, others what Gaussians give; with pairs of a row with itself it would be
    far from that."""
    values = [
        distance(gaussian(count, 2, shift, scale, 2 * draw), gaussian(count, 2, seed=2 * draw + 1), 1.0)
        for draw in range(1000)
    ]
    error = np.std(values) / np.sqrt(len(values))
    assert np.mean(values) == pytest.approx(closed_form(2, shift, scale, 1.0), abs=4 * error)
    assert 100 / count > 8 * error


def test_halves_of_one_set_are_nearer_than_a_shifted_set():
    embeddings = gaussian(600, 8)
    same, other = distance(embeddings[:300], embeddings[300:]), gaussian(300, 8, 0.5, seed=1)
    assert abs(same) < 0.3 < 1 < distance(other, embeddings[300:])


def test_symmetry_order_rotation_and_units():
    first, second = gaussian(50, shift=1.0), gaussian(60, seed=1)
    value = distance(first, second, 2.0)
    assert distance(second, first, 2.0) == pytest.approx(value)
    assert distance(first[::-1], second, 2.0) == pytest.approx(value)
    rotation = np.linalg.qr(gaussian(3, seed=2))[0]
    assert distance(first @ rotation + 5, second @ rotation + 5, 2.0) == pytest.approx(value)
    assert distance(7 * first, 7 * second) == pytest.approx(distance(first, second))  # by the median


def test_far_apart_sets_reach_what_they_hold_within_themselves():
    first, second = np.zeros((5, 2)), np.full((7, 2), 1e6)
    assert distance(first, second, 1.0) == pytest.approx(200)


def test_bandwidth_is_the_median_of_the_reference():
    first, second = gaussian(50, shift=1.0, scale=3.0), gaussian(60, seed=1)
    assert distance(first, second) == distance(first, second, median_distance(second))
    assert median_distance(np.array([[0.0], [1.0], [3.0]])) == 2.0
    for dim in (100, 400):  # ‖x − y‖² of Gaussians is 2·dim on average
        assert median_distance(gaussian(300, dim)) == pytest.approx(np.sqrt(2 * dim), rel=0.02)


def test_blocks_and_the_draw_of_the_median_change_little(monkeypatch):
    first, second = gaussian(50, shift=1.0), gaussian(600, seed=1)
    value, median = distance(first, second, 2.0), median_distance(second)
    monkeypatch.setattr(module, "BLOCK", 7)
    assert distance(first, second, 2.0) == pytest.approx(value, rel=1e-12)
    monkeypatch.setattr(module, "MAX_MEDIAN_ROWS", 300)
    assert median_distance(second) == pytest.approx(median, rel=0.05) and median_distance(second) != median


def test_files_are_taken_by_their_weights():
    """Weights of 0 and 1 are a choice of files; a file that is taken twice counts twice, but not against itself."""
    files = [gaussian(count, shift=shift, seed=count) for count, shift in ((3, 0.0), (5, 1.0), (4, -1.0))]
    reference = [gaussian(6, seed=9), gaussian(2, seed=10)]
    sums = KernelSums.from_embeddings(files, reference, 1.5)
    whole = distance(np.concatenate(files), np.concatenate(reference), 1.5)
    assert kernel_distance(sums) == pytest.approx(whole)
    some = distance(np.concatenate(files[::2]), reference[1], 1.5)
    assert kernel_distance(sums, [1, 0, 1], [0, 1]) == pytest.approx(some)
    assert kernel_distance(sums, [0, 2, 0]) == pytest.approx(kernel_distance(sums, [0, 1, 0]))
    assert kernel_distance(sums, [2, 2, 2], [3, 3]) != kernel_distance(sums)  # less of the pairs within a file
    assert np.isnan(kernel_distance(KernelSums.from_embeddings([files[0][:1], files[1]], reference), [2, 0]))


def test_bad_input_is_named():
    good = gaussian(5)
    for bad in (good[:1], good[0], good[:0]):
        with pytest.raises(ValueError, match="generated must be files of .at least 1, dim. embeddings, 2 or more"):
            distance(bad, good)
    with pytest.raises(ValueError, match="reference must be finite"):
        distance(good, good * np.nan)
    with pytest.raises(ValueError, match="Sizes differ: 3 and 2"):
        distance(good, gaussian(5, 2))
    with pytest.raises(ValueError, match="bandwidth must be greater than 0, got 0"):
        distance(good, good, 0)
    with pytest.raises(ValueError, match="median distance is 0"):
        distance(good, np.ones((4, 3)))
