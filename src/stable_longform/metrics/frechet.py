"""The Fréchet distance between two sets of embeddings, each taken as a Gaussian.

Conventions: embeddings are `(num_embeddings, dim)`, rows are samples; everything is computed in float64; covariances
are those of a sample (divided by n − 1), as in numpy's `cov` and the paper's code.

Metrics: `frechet_distance`. `GaussianStatistics` accumulates mean and covariance batch by batch.

References: Dowson and Landau, "The Fréchet distance between multivariate normal distributions" (1982). Chan, Golub and
LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979). Paper: §4.1, FD_openl3.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class GaussianStatistics:
    """Count, mean and scatter of a set of embeddings; two sets can be merged.

    Args:
        count: number of embeddings.
        mean: `(dim,)`.
        scatter: sum of the outer products of the deviations from the mean, `(dim, dim)`.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def from_embeddings(cls, embeddings: np.ndarray) -> "GaussianStatistics":
        """Statistics of `(num_embeddings, dim)`.

        Raises:
            ValueError: the shape is another one, there are no embeddings, or values are not finite.
        """
        embeddings = np.asarray(embeddings, dtype=np.float64)
        if embeddings.ndim != 2 or embeddings.size == 0:
            raise ValueError(f"embeddings must be (num_embeddings, dim) and not empty, got shape {embeddings.shape}.")
        if not np.isfinite(embeddings).all():
            raise ValueError(f"embeddings must be finite, got {int((~np.isfinite(embeddings)).sum())} other values.")
        mean = embeddings.mean(axis=0)
        deviations = embeddings - mean
        return cls(len(embeddings), mean, deviations.T @ deviations)

    @property
    def covariance(self) -> np.ndarray:
        """Sample covariance, `(dim, dim)`.

        Raises:
            ValueError: fewer than two embeddings.
        """
        if self.count < 2:
            raise ValueError(f"A covariance needs at least 2 embeddings, got {self.count}.")
        return self.scatter / (self.count - 1)

    def merge(self, other: "GaussianStatistics") -> "GaussianStatistics":
        """Statistics of the union of both sets. Chan et al., equation 2.1 for vectors."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"Sizes differ: {self.mean.shape[0]} and {other.mean.shape[0]}.")
        count = self.count + other.count
        difference = other.mean - self.mean
        mean = self.mean + difference * (other.count / count)
        between = np.outer(difference, difference) * (self.count * other.count / count)
        return GaussianStatistics(count, mean, self.scatter + other.scatter + between)


def frechet_distance(first: GaussianStatistics, second: GaussianStatistics) -> float:
    """‖μ₁ − μ₂‖² + Tr Σ₁ + Tr Σ₂ − 2 Tr (Σ₁Σ₂)^½, at least 0.

    With Σ = FFᵀ, the last trace is the sum of the singular values of F₁ᵀF₂. Unlike the square root of the product, it
    is real for all covariances, including singular ones, and needs no regularisation.

    Raises:
        ValueError: sizes differ, or a set has fewer than two embeddings.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"Sizes differ: {first.mean.shape[0]} and {second.mean.shape[0]}.")
    shift = first.mean - second.mean
    factors = _factor(first.covariance), _factor(second.covariance)
    fidelity = np.linalg.svd(factors[0].T @ factors[1], compute_uv=False).sum()
    traces = np.trace(first.covariance) + np.trace(second.covariance)
    return max(float(shift @ shift + traces - 2 * fidelity), 0.0)


def _factor(covariance: np.ndarray) -> np.ndarray:
    """F with FFᵀ equal to a covariance; negative eigenvalues, which are due to rounding, count as zero."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0.0))
