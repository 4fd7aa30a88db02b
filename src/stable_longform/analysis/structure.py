"""The musical structure of a recording, as a matrix and in numbers. Paper: §4.4, Figure 4.

The numbers; `DEFINITIONS` explains them in words:

- `late_return`, `longest_repetition_in_s`, `longest_loop_in_s`, `loop_share`: `repetition.py`;
- `introduction_contrast`, `ending_contrast`: `edge_contrasts`;
- `derivation`: `structural_derivation`;
- `num_sections`: one more than the boundaries of `boundaries.py`.

References: Bhandari, "structure-derivation" (PyPI, 2025) for the cosine of the first segment with all later ones.
"""

from dataclasses import dataclass

import numpy as np

from stable_longform.analysis import repetition
from stable_longform.analysis.boundaries import find_boundaries
from stable_longform.analysis.features import StructureFeatures
from stable_longform.analysis.self_similarity import EMBEDDING_IN_S, delay_embedding, recurrence_matrix

MIN_DURATION_IN_S = 10.0
EDGE_SHARE = 0.1  # share of the piece that counts as its introduction, or as its ending
EDGE_RANGE_IN_S = (2.0, 15.0)
MIDDLE = (0.2, 0.8)  # the middle part of the piece
SEGMENT_IN_S = 10.0

DEFINITIONS = {
    "late_return": "share of the second half that repeats, for at least 6 s, a passage of the first half at least a "
    "quarter of the piece earlier",
    "longest_repetition_in_s": "longest repeated passage",
    "longest_loop_in_s": "longest stretch in which a passage occurs at least three times in a row",
    "loop_share": "longest loop as a share of the piece",
    "introduction_contrast": "how much the first tenth differs from the middle: 0.5 as much as parts of the middle "
    "do, 1 most",
    "ending_contrast": "the same for the last tenth",
    "derivation": "mean cosine of the first 10 s with each later 10 s",
    "num_sections": "sections found",
}


@dataclass(frozen=True)
class Structure:
    """The structure of a recording.

    Args:
        matrix: `(N, N)`, which moments are similar; True on the main diagonal.
        frame_rate: frames a second.
        duration_in_s: of the recording.
        boundaries: starts of the sections in seconds, except the first.
        values: the numbers, by the names of `DEFINITIONS`; numbers that are undefined for a short piece are omitted.
    """

    matrix: np.ndarray
    frame_rate: float
    duration_in_s: float
    boundaries: tuple[float, ...]
    values: dict[str, float]


def analyze_structure(features: StructureFeatures) -> Structure:
    """Analyzes a recording.

    Raises:
        ValueError: it is shorter than 10 s.
    """
    if features.duration_in_s < MIN_DURATION_IN_S:
        raise ValueError(f"too short: {features.duration_in_s:.2f} s, less than {MIN_DURATION_IN_S:g} s")
    rate, num_frames = features.frame_rate, features.num_frames
    vectors = delay_embedding(features.chroma, max(1, round(EMBEDDING_IN_S * rate)))
    matrix = recurrence_matrix(vectors, is_silent=features.is_silent)
    repetitions = repetition.find_repetitions(matrix, rate)
    loop = repetition.longest_loop(repetitions)
    boundaries = find_boundaries(features)
    introduction, ending = edge_contrasts(np.concatenate([features.chroma, features.timbre]), rate)
    values = {
        "late_return": repetition.late_return(repetitions, num_frames),
        "longest_repetition_in_s": repetition.longest_repetition(repetitions) / rate,
        "longest_loop_in_s": loop / rate,
        "loop_share": loop / num_frames,
        "introduction_contrast": introduction,
        "ending_contrast": ending,
        "num_sections": float(len(boundaries) + 1),
    }
    segments = segment_means(features.chroma, rate)
    if len(segments) > 1:
        values["derivation"] = structural_derivation(segments)
    np.fill_diagonal(matrix, True)
    return Structure(matrix, rate, features.duration_in_s, tuple(boundaries), values)


def edge_contrasts(features: np.ndarray, frame_rate: float) -> tuple[float, float]:
    """How much the introduction and the ending of a piece differ from its middle.

    Introduction and ending are a tenth of the piece, 2 ... 15 s; the middle is from 20 % to 80 %. With d the distance
    of an edge's mean from the middle's mean, and m the median distance for stretches of the middle with the same
    length, the contrast is d / (d + m). 0.5 means that the edge differs as much as stretches of the middle do; the
    maximum is 1.

    Args:
        features: `(dim, N)`.
        frame_rate: frames a second.
    """
    num_frames = features.shape[1]
    low, high = (round(seconds * frame_rate) for seconds in EDGE_RANGE_IN_S)
    size = max(1, min(max(round(EDGE_SHARE * num_frames), low), high))
    middle = features[:, round(MIDDLE[0] * num_frames) : round(MIDDLE[1] * num_frames)]
    center = middle.mean(axis=1)
    starts = range(0, max(middle.shape[1] - size, 0) + 1, max(size // 2, 1))
    typical = float(
        np.median([np.linalg.norm(middle[:, start : start + size].mean(axis=1) - center) for start in starts])
    )
    edges = (features[:, :size], features[:, -size:])
    distances = [float(np.linalg.norm(edge.mean(axis=1) - center)) for edge in edges]
    introduction, ending = (
        0.5 if distance + typical < 1e-9 else distance / (distance + typical) for distance in distances
    )
    return introduction, ending


def segment_means(features: np.ndarray, frame_rate: float) -> np.ndarray:
    """Means `(num_segments, dim)` of consecutive whole segments of 10 s."""
    size = max(1, round(SEGMENT_IN_S * frame_rate))
    num_segments = features.shape[1] // size
    return features[:, : num_segments * size].reshape(len(features), num_segments, size).mean(axis=2).T


def structural_derivation(embeddings: np.ndarray) -> float:
    """Mean cosine of a piece's first segment with each later one.

    Args:
        embeddings: `(num_segments, dim)`, at least two segments; a zero row has cosine 0.

    Raises:
        ValueError: there are fewer than two segments.
    """
    if len(embeddings) < 2:
        raise ValueError(f"embeddings must be of at least two segments, got {len(embeddings)}.")
    units = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    return float((units[1:] @ units[0]).mean())
