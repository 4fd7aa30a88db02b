"""Finds the boundaries between the sections of a piece.

Novelty is the geometric mean of four curves. Three measure how fast the repetitions change (structure features, Serrà
et al. 2014), for harmony, and for harmony with timbre at two scales. The fourth measures how much the level before and
after a moment differs (with the kernel of Foote 2000). Boundaries are peaks of the novelty. Phrases inside a section
also cause peaks, so the peaks are selected together: few high ones with regular distances (Sargent, Bimbot and Vincent
2017). Introduction and ending may be shorter.

The constants were tuned on composed pieces with known sections; docs/analysis.md has the results on others.

References: Serrà et al., "Unsupervised music structure annotation by time series structure features and segment
similarity" (IEEE Transactions on Multimedia, 2014), section III.C; Foote, "Automatic audio segmentation using a
measure of audio novelty" (ICME 2000); Sargent et al., "Estimating the structural segmentation of popular music pieces
under regularity constraints" (IEEE/ACM TASLP, 2017); Raffel et al., "mir_eval: a transparent implementation of common
MIR metrics" (ISMIR 2014).
"""

from collections.abc import Sequence

import numpy as np

from stable_longform.analysis.features import StructureFeatures
from stable_longform.analysis.self_similarity import delay_embedding, recurrence_matrix
from stable_longform.utils.optional import require

# Delay embedding and smoothing over time, in seconds, of each structure feature.
HARMONY_SCALE = (4.0, 3.0)
BOTH_SCALES = ((4.0, 3.0), (2.0, 2.0))
LAG_SMOOTHING_IN_S = 0.5
LEVEL_KERNEL_IN_S = 3.0
LOUD_SHARE = 0.95  # quantile of each curve that is scaled to 1
FLOOR = 0.02  # added to a curve before its logarithm
THRESHOLD = 0.45  # novelty above which a boundary has a positive gain
MIN_DISTANCE_IN_S = 3.0
SECTION_LENGTHS_IN_S = np.arange(12.0, 45.0)
IRREGULARITY = 4.0  # penalty, in log novelty, for a section twice or half as long as the others, at most 1
EDGE_IN_S = 2.0  # smallest distance of a boundary from the ends
TOLERANCES_IN_S = (0.5, 3.0)


def find_boundaries(features: StructureFeatures) -> list[float]:
    """Times in seconds at which a new section begins, ascending, without the beginning and the end."""
    signal = require("scipy.signal", "eval")
    curve, rate = novelty(features), features.frame_rate
    distance = max(1, round(MIN_DISTANCE_IN_S * rate))
    peaks, _ = signal.find_peaks(curve, height=FLOOR, distance=distance)
    times = peaks / rate
    is_inside = (times > EDGE_IN_S) & (times < features.duration_in_s - EDGE_IN_S)
    gains = np.log(curve[peaks[is_inside]] / THRESHOLD)
    return choose_regular(times[is_inside], gains, features.duration_in_s)


def novelty(features: StructureFeatures) -> np.ndarray:
    """How likely a section begins at each frame, `(N,)`, about 1 at the clearest ones."""
    rate = features.frame_rate
    is_silent = features.is_silent
    both = np.concatenate([features.chroma, features.timbre])
    curves = [structure_novelty(features.chroma, rate, *HARMONY_SCALE, is_silent)]
    curves += [structure_novelty(both, rate, *scale, is_silent) for scale in BOTH_SCALES]
    curves.append(contrast_novelty(features.timbre[:1], rate))
    logs = [np.log(curve / max(np.quantile(curve, LOUD_SHARE), 1e-9) + FLOOR) for curve in curves]
    return np.exp(np.mean(logs, axis=0))


def structure_novelty(
    features: np.ndarray, frame_rate: float, embedding_in_s: float, smoothing_in_s: float, is_silent: np.ndarray
) -> np.ndarray:
    """How fast the lags of the repetitions change, `(N,)`.

    Args:
        features: `(dim, N)`.
        frame_rate: frames a second.
        embedding_in_s: length of the delay embedding.
        smoothing_in_s: standard deviation of the smoothing over time.
        is_silent: `(N,)`; frames that are similar to no others.
    """
    ndimage = require("scipy.ndimage", "eval")
    vectors = delay_embedding(features, max(1, round(embedding_in_s * frame_rate)))
    matrix = recurrence_matrix(vectors, is_silent=is_silent)
    columns = [
        np.roll(matrix[:, time], -time) for time in range(len(matrix))
    ]  # by lag, forward and, wrapped, backward
    lags = np.stack(columns, axis=1).astype(np.float32)
    deviations = (LAG_SMOOTHING_IN_S * frame_rate, smoothing_in_s * frame_rate)
    smooth = ndimage.gaussian_filter(lags, deviations, mode=("wrap", "nearest"))
    curve = np.zeros(len(matrix))
    curve[1:-1] = np.linalg.norm(smooth[:, 2:] - smooth[:, :-2], axis=0)
    return curve


def contrast_novelty(features: np.ndarray, frame_rate: float) -> np.ndarray:
    """How much the seconds before and after each frame differ, `(N,)`: Foote's kernel on the products of frames."""
    half = max(1, round(LEVEL_KERNEL_IN_S * frame_rate))
    offsets = np.arange(-half, half) + 0.5
    kernel = np.sign(offsets) * np.exp(-0.5 * np.square(offsets / (half / 2)))
    padded = np.pad(features, ((0, 0), (half, half - 1)), mode="edge")
    return np.linalg.norm([np.correlate(row, kernel, mode="valid") for row in padded], axis=0)


def choose_regular(times: np.ndarray, gains: np.ndarray, duration_in_s: float) -> list[float]:
    """Selects the times with the largest sum of gains, minus the irregularity of the sections between them.

    Args:
        times: candidates in seconds, ascending.
        gains: of each.
        duration_in_s: of the piece.
    """
    times = np.concatenate([[0.0], times, [duration_in_s]])
    gains = np.concatenate([[0.0], gains, [0.0]])
    lengths = np.maximum(times[None, :] - times[:, None], 1e-3)
    best_total = -np.inf
    best: list[float] = []
    for typical in SECTION_LENGTHS_IN_S:
        costs = np.minimum(IRREGULARITY * np.abs(np.log2(lengths / typical)), 1.0)
        costs[0, lengths[0] <= typical] = 0.0
        costs[lengths[:, -1] <= typical, -1] = 0.0
        totals, previous = np.zeros(len(times)), np.zeros(len(times), dtype=int)
        for index in range(1, len(times)):
            candidates = totals[:index] - costs[:index, index]
            previous[index] = candidates.argmax()
            totals[index] = candidates.max() + gains[index]
        if totals[-1] > best_total:
            best_total, best, index = totals[-1], [], previous[-1]
            while index > 0:
                best.append(float(times[index]))
                index = previous[index]
    return best[::-1]


def boundary_f_scores(truth: Sequence[float], found: Sequence[float], duration_in_s: float) -> dict[str, float]:
    """Agreement of boundaries, computed by mir_eval: F-measure at 0.5 and 3 s, precision and recall at 3 s.

    The beginning and the end of the piece, which are trivial, don't count (mir_eval's `trim`).

    Args:
        truth: true starts of the sections, in seconds.
        found: estimated starts of the sections.
        duration_in_s: of the piece.

    Raises:
        ValueError: there is no true boundary inside the piece.
    """
    segment = require("mir_eval.segment", "eval")
    intervals = [_intervals(times, duration_in_s) for times in (truth, found)]
    if len(intervals[0]) < 2:
        raise ValueError("The truth has no boundary inside the piece.")
    if len(intervals[1]) < 2:
        return {f"boundary_f_{tolerance:g}s": 0.0 for tolerance in TOLERANCES_IN_S} | {
            "boundary_precision_3s": 0.0, "boundary_recall_3s": 0.0
        }  # fmt: skip
    scores = {}
    for tolerance in TOLERANCES_IN_S:
        precision, recall, f_measure = segment.detection(*intervals, window=tolerance, trim=True)
        scores[f"boundary_f_{tolerance:g}s"] = float(f_measure)
    return scores | {"boundary_precision_3s": float(precision), "boundary_recall_3s": float(recall)}


def equal_sections(truth: Sequence[float], duration_in_s: float) -> list[float]:
    """Boundaries of the true number of sections with equal lengths: a baseline without listening.

    Args:
        truth: starts of the sections, in seconds.
        duration_in_s: of the piece.
    """
    return np.linspace(0, duration_in_s, len(_intervals(truth, duration_in_s)) + 1)[1:-1].tolist()


def _intervals(boundaries: Sequence[float], duration_in_s: float) -> np.ndarray:
    """Sections `(n, 2)` between boundaries."""
    inside = [time for time in boundaries if 0 < time < duration_in_s]
    times = np.unique([0.0, *inside, duration_in_s])
    return np.stack([times[:-1], times[1:]], axis=1)
