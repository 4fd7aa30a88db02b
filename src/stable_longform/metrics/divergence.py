"""Compares the outputs of a classifier for generated and for reference audio.

Conventions: logits of windows are `(num_windows, num_classes)`; probabilities are `(..., num_classes)` and sum to 1.

Metrics: `kl_divergence`. `mean_probabilities` turns the logits of a file's windows into its probabilities.

References: Koutini et al., "Efficient training of audio transformers with patchout" (2022) for the paper's classifier.
Paper: §4.1, KL_passt, with the averaging, the direction and the smoothing of the authors' code.
"""

import numpy as np

SMOOTHING = 1e-6  # added to the reference's probabilities, as in the paper's code


def check_logits(logits: np.ndarray) -> np.ndarray:
    """The logits in float64.

    Raises:
        ValueError: they are not `(num_windows, num_classes)`, there are no windows, or values are not finite.
    """
    logits = np.asarray(logits, dtype=np.float64)
    if logits.ndim != 2 or logits.size == 0 or not np.isfinite(logits).all():
        raise ValueError(f"logits must be finite and (num_windows, num_classes), got shape {logits.shape}.")
    return logits


def mean_probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax of the mean over windows of `(num_windows, num_classes)`; returns `(num_classes,)`.

    Raises:
        ValueError: the shape is another one, there are no windows, or values are not finite.
    """
    mean = check_logits(logits).mean(axis=0)
    exponentials = np.exp(mean - mean.max())
    return exponentials / exponentials.sum()


def kl_divergence(generated: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """KL(generated ‖ reference) = Σ g·(ln g − ln(r + 1e-6)), in nats, over the last axis.

    The sum is not exactly 0 for equal distributions, but about −1e-6 times the number of classes.

    Args:
        generated: probabilities `(..., num_classes)`.
        reference: the same shape.

    Raises:
        ValueError: shapes differ, or the values are not probabilities.
    """
    generated, reference = np.asarray(generated, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if generated.shape != reference.shape or generated.ndim == 0:
        raise ValueError(
            f"Both must have the same shape (..., num_classes), got {generated.shape} and {reference.shape}."
        )
    for name, values in (("generated", generated), ("reference", reference)):
        if not ((values >= 0).all() and np.allclose(values.sum(axis=-1), 1.0, atol=1e-3)):
            raise ValueError(f"{name} must hold probabilities that sum to 1.")
    logarithm = np.log(np.where(generated > 0, generated, 1.0))  # 0·ln 0 = 0
    return (generated * (logarithm - np.log(reference + SMOOTHING))).sum(axis=-1)
