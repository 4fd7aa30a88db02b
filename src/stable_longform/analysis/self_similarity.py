"""Binary self-similarity matrices: which moments of a piece are like which others.

A moment is a frame with its neighbours in time (delay embedding), and two moments are alike when each is among the
nearest neighbours of the other. Repeated passages are then lines parallel to the main diagonal, passages that stay the
same are blocks.

References: Serrà, Serra and Andrzejak, "Cross recurrence quantification for cover song identification" (New Journal of
Physics, 2009); Serrà et al., "Unsupervised music structure annotation by time series structure features and segment
similarity" (IEEE Transactions on Multimedia, 2014), sections III.A and III.B. Paper: §4.4, Figure 4.
"""

import numpy as np

NEIGHBOR_SHARE = 0.04  # of all frames; the public implementation's value
EMBEDDING_IN_S = 2.0
# Moments whose squared distance is below this share of the median one are the same music. Without it a short loop
# would have more equals than neighbours, and which of them count would be chance.
SAME_SHARE = 0.01


def delay_embedding(features: np.ndarray, num_frames: int) -> np.ndarray:
    """Each frame with its neighbours: `(num_frames * dim, N)` of `(dim, N)`.

    Args:
        features: one column a frame. Beyond the ends the first and the last are repeated.
        num_frames: at least 1; frames before and after the one in the middle, and that one.

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
        is_silent: `(N,)`; columns that are like none.

    Returns:
        `(N, N)`, symmetric; True where two columns are among each other's neighbours. The main diagonal is False.

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
