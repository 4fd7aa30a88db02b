"""The kernel audio distance (KAD) between two sets of embeddings, without the assumption that they are Gaussian.

It is 100 times the squared maximum mean discrepancy (MMD) with a Gaussian kernel. The kernel is characteristic: the
expected distance is 0 only for equal distributions. The estimate is unbiased for any number of embeddings: it may be
slightly negative, and unlike the Fréchet distance it does not grow if there are fewer embeddings.

Conventions: a set is a list of the files' embeddings, each `(num_embeddings, dim)`; everything is computed in float64,
in blocks of rows. The reference comes second. The bandwidth is derived from it, so values for the same reference can
be compared.

Metrics: `kernel_distance`, from the `KernelSums` of two sets. `median_distance` is the authors' bandwidth.

References: Chung et al., "KAD: No more FAD! An effective and efficient evaluation metric for audio generation" (2025),
and their code for the factor, the median and the set that it is computed from. Gretton et al., "A kernel two-sample
test" (2012), equation 3. Not in the paper.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import pdist

SCALE = 100.0  # as in the authors' code
BLOCK = 1024  # rows at a time
MAX_MEDIAN_ROWS = 4096  # the distances of all pairs are in memory at once: 64 MiB


@dataclass(frozen=True)
class KernelSums:
    """Sums of the kernel over pairs of embeddings, for each pair of files; sufficient for any selection of files.

    Args:
        generated: `(num_generated, num_generated)`, without pairs of an embedding with itself.
        reference: `(num_reference, num_reference)`, likewise.
        across: `(num_generated, num_reference)`.
        generated_counts: number of embeddings of each generated file.
        reference_counts: number of embeddings of each reference file.
    """

    generated: np.ndarray
    reference: np.ndarray
    across: np.ndarray
    generated_counts: np.ndarray
    reference_counts: np.ndarray

    @classmethod
    def from_embeddings(
        cls, generated: Sequence[np.ndarray], reference: Sequence[np.ndarray], bandwidth: float | None = None
    ) -> "KernelSums":
        """Sums of two sets of files.

        Args:
            generated: the files' embeddings, each `(num_embeddings, dim)`, at least two in total.
            reference: likewise.
            bandwidth: σ of the kernel exp(−‖x − y‖² / 2σ²); None: `median_distance` of the reference.

        Raises:
            ValueError: shapes do not match, values are not finite, or the bandwidth is not greater than 0.
        """
        first, second = _stack(generated, "generated"), _stack(reference, "reference")
        if first.shape[1] != second.shape[1]:
            raise ValueError(f"Sizes differ: {first.shape[1]} and {second.shape[1]}.")
        bandwidth = median_distance(second) if bandwidth is None else bandwidth
        if not bandwidth > 0:
            raise ValueError(f"bandwidth must be greater than 0, got {bandwidth}.")
        center = second.mean(axis=0)  # the same distances, but products lose fewer digits
        first, second = (first - center) / bandwidth, (second - center) / bandwidth
        counts = np.array([len(part) for part in generated]), np.array([len(part) for part in reference])
        return cls(
            _kernel_sums(first, counts[0], first, counts[0]) - np.diag(counts[0]),
            _kernel_sums(second, counts[1], second, counts[1]) - np.diag(counts[1]),
            _kernel_sums(first, counts[0], second, counts[1]),
            *counts,
        )


def kernel_distance(
    sums: KernelSums, generated_weights: np.ndarray | None = None, reference_weights: np.ndarray | None = None
) -> float:
    """Unbiased estimate of 100 · MMD² between two sets.

    Args:
        sums: of the sets.
        generated_weights: how often each generated file is counted, whole numbers; None: once. A file that counts
            twice is not compared with itself, which would add a bias.
        reference_weights: the same for the reference.

    Returns:
        The distance; NaN if the weights select only one embedding of a set.
    """
    first = np.ones(len(sums.generated_counts)) if generated_weights is None else np.asarray(generated_weights)
    second = np.ones(len(sums.reference_counts)) if reference_weights is None else np.asarray(reference_weights)
    within = _mean_within(sums.generated, sums.generated_counts, first)
    within += _mean_within(sums.reference, sums.reference_counts, second)
    across = (first @ sums.across @ second) / ((first @ sums.generated_counts) * (second @ sums.reference_counts))
    return float(SCALE * (within - 2 * across))


def median_distance(embeddings: np.ndarray, seed: int = 0) -> float:
    """Median of the Euclidean distances between all pairs of `(num_embeddings, dim)`.

    If there are more than 4096 embeddings, that many are drawn at random.

    Raises:
        ValueError: at least half of the pairs are equal.
    """
    if len(embeddings) > MAX_MEDIAN_ROWS:
        embeddings = np.random.default_rng(seed).choice(embeddings, MAX_MEDIAN_ROWS, replace=False)
    median = float(np.median(pdist(embeddings)))
    if not median > 0:
        raise ValueError("The median distance is 0: at least half of the pairs of embeddings are equal.")
    return median


def _mean_within(sums: np.ndarray, counts: np.ndarray, weights: np.ndarray) -> float:
    """Mean of the kernel over pairs of different embeddings of one set."""
    pairs = np.outer(counts, counts) - np.diag(counts)
    times = np.outer(weights, weights)
    np.fill_diagonal(times, weights)
    num_pairs = (times * pairs).sum()
    return (times * sums).sum() / num_pairs if num_pairs > 0 else np.nan


def _kernel_sums(
    first: np.ndarray, first_counts: np.ndarray, second: np.ndarray, second_counts: np.ndarray
) -> np.ndarray:
    """Sums of exp(−‖x − y‖² / 2) over pairs of rows, by pairs of files `(len(first_counts), len(second_counts))`."""
    first_squares, second_squares = (np.einsum("nd,nd->n", rows, rows) for rows in (first, second))
    row_sums = []
    for start in range(0, len(first), BLOCK):
        rows = slice(start, start + BLOCK)
        squares = first_squares[rows, None] + second_squares - 2 * first[rows] @ second.T
        row_sums.append(np.add.reduceat(np.exp(squares.clip(min=0) / -2), _starts(second_counts), axis=1))
    return np.add.reduceat(np.concatenate(row_sums), _starts(first_counts), axis=0)


def _starts(counts: np.ndarray) -> np.ndarray:
    """First row of each file."""
    return np.cumsum(counts) - counts


def _stack(files: Sequence[np.ndarray], name: str) -> np.ndarray:
    """Stacks the embeddings of all files in float64; they must be finite, at least one per file and two in total."""
    if any(np.ndim(part) != 2 or len(part) == 0 for part in files) or sum(map(len, files)) < 2:
        shapes = [np.shape(part) for part in files]
        raise ValueError(f"{name} must be files of (at least 1, dim) embeddings, 2 or more in all, got {shapes[:5]}.")
    stacked = np.concatenate(files).astype(np.float64)
    if not np.isfinite(stacked).all():
        raise ValueError(f"{name} must be finite.")
    return stacked
