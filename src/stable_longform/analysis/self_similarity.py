"""Binary self-similarity matrices: which moments of a piece are similar.

A moment is a frame with its neighbours in time (delay embedding). Two moments are similar if each is among the nearest
neighbours of the other. Repeated passages then appear as lines parallel to the main diagonal, constant passages as
blocks.

References: Serrà, Serra and Andrzejak, "Cross recurrence quantification for cover song identification" (New Journal of
Physics, 2009); Serrà et al., "Unsupervised music structure annotation by time series structure features and segment
similarity" (IEEE Transactions on Multimedia, 2014), sections III.A and III.B. Paper: §4.4, Figure 4.
"""

import numpy as np

NEIGHBOR_SHARE = 0.04  # of all frames; the value of the public implementation
EMBEDDING_IN_S = 2.0
# Moments whose squared distance is below this share of the median one are the same music. Otherwise, a short loop
# would have more equal moments than neighbours, and their selection would be random.
SAME_SHARE = 0.01


def delay_embedding(features: np.ndarray, num_frames: int) -> np.ndarray:
    """Each frame with its neighbours: `(num_frames * dim, N)` of `(dim, N)`.

    Args:
        features: one column for each frame. Beyond the ends, the first and the last one are repeated.
        num_frames: number of frames including the one in the middle, at least 1.

    Raises:
        ValueError: `num_frames` is below 1.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}.")
    before = num_frames // 2
    padded = np.pad(features, ((0, 0), (before, num_frames - 1 - before)), mode="edge")
    length = features.shape[1]
    return np.concatenate([padded[:, shift : shift + length] for shift in range(num_frames)])


def recurrence_matrix(
    vectors: np.ndarray, neighbor_share: float = NEIGHBOR_SHARE, is_silent: np.ndarray | None = None
) -> np.ndarray:
    """Mutual nearest neighbours among the columns of a matrix.

    Args:
        vectors: `(dim, N)`.
        neighbor_share: neighbours of a column, as a share of N, in (0, 1].
        is_silent: `(N,)`; columns that are similar to no others.

    Returns:
        `(N, N)`, symmetric; True where two columns are mutual neighbours. The main diagonal is False.

    Raises:
        ValueError: `neighbor_share` is not in (0, 1].
    """
    if not 0 < neighbor_share <= 1:
        raise ValueError(f"neighbor_share must be in (0, 1], got {neighbor_share}.")
    num_frames = vectors.shape[1]
    if num_frames < 2:
        return np.zeros((num_frames, num_frames), dtype=bool)
    vectors = (vectors - vectors.mean(axis=1, keepdims=True)).astype(np.float32)
    squares = np.square(vectors).sum(axis=0)
    distances = vectors.T @ vectors
    distances *= -2
    distances += squares[:, None]
    distances += squares[None, :]
    distances += distances.T.copy()  # rounding is the same on both sides
    same = SAME_SHARE * np.median(distances)
    np.fill_diagonal(distances, np.inf)
    if is_silent is not None:
        distances[is_silent], distances[:, is_silent] = np.inf, np.inf
    num_neighbors = min(max(1, round(neighbor_share * num_frames)), num_frames - 1)
    farthest = np.partition(distances, num_neighbors - 1, axis=1)[:, num_neighbors - 1]
    is_neighbor = distances <= np.maximum(farthest, same)[:, None]
    is_neighbor &= np.isfinite(distances)
    return is_neighbor & is_neighbor.T
