"""How well music fits its prompt: the cosine between CLAP's embeddings of both.

Conventions: embeddings are `(num_items, dim)` with any norm; row i of one belongs to row i of the other.

References: Wu et al., "Large-scale contrastive language-audio pretraining" (2023). Paper: §4.1, CLAP score.
"""

import numpy as np


def clap_scores(audio_embeddings: np.ndarray, text_embeddings: np.ndarray) -> np.ndarray:
    """Cosine of each audio with its own text, `(num_items,)` in [-1, 1]; the paper's score is their mean.

    Raises:
        ValueError: shapes differ or are not `(num_items, dim)`, or an embedding is zero or not finite.
    """
    audio, text = (np.asarray(values, dtype=np.float64) for values in (audio_embeddings, text_embeddings))
    if audio.shape != text.shape or audio.ndim != 2:
        raise ValueError(f"Both must have the same shape (num_items, dim), got {audio.shape} and {text.shape}.")
    lengths = np.linalg.norm(audio, axis=1) * np.linalg.norm(text, axis=1)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise ValueError("Every embedding must be finite and not zero.")
    return (audio * text).sum(axis=1) / lengths
