"""How well the tags predicted for music fit its prompt: a substitute for a joint embedding of music and text.

A tagger's probabilities are normalised to shares with sum 1. The mean shares of the reference music are subtracted, so
that tags which the tagger predicts for everything have no effect. The differences are weights for the text embeddings
of the tags' names, and the score is the cosine of their sum with the text embedding of the prompt. Properties that are
not similar to any tag (a tempo, a structure, a rare instrument) are not evaluated.

Conventions: probabilities are `(num_items, num_tags)`, of tags that do not exclude each other; embeddings are
`(num_items, dim)`; row i of one belongs to row i of the other.

References: our own; it is not in the paper and not comparable with its CLAP score.
"""

import numpy as np

from stable_longform.metrics.divergence import check_logits


def tag_probabilities(logits: np.ndarray) -> np.ndarray:
    """Mean over windows of the sigmoid of `(num_windows, num_tags)`; returns `(num_tags,)` in [0, 1].

    Raises:
        ValueError: the shape is another one, there are no windows, or values are not finite.
    """
    return (0.5 * (1 + np.tanh(0.5 * check_logits(logits)))).mean(axis=0)  # the sigmoid, without overflow


def tag_weights(probabilities: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Shares of each item minus the mean shares of the reference, `(num_items, num_tags)`; each row sums to 0.

    Args:
        probabilities: `(num_items, num_tags)`, in [0, 1].
        reference: `(num_reference, num_tags)`, the same tags.

    Raises:
        ValueError: shapes do not match, values are outside [0, 1], or an item has no tag.
    """
    shares = []
    for name, values in (("probabilities", probabilities), ("reference", reference)):
        values = np.asarray(values, dtype=np.float64)
        if values.ndim != 2 or values.size == 0 or not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"{name} must be (num_items, num_tags) in [0, 1], got shape {values.shape}.")
        totals = values.sum(axis=1, keepdims=True)
        if not (totals > 0).all():
            raise ValueError(f"Every item of {name} must have a tag whose probability is above 0.")
        shares.append(values / totals)
    if shares[0].shape[1] != shares[1].shape[1]:
        raise ValueError(f"Both must have the same tags, got {shares[0].shape[1]} and {shares[1].shape[1]}.")
    return shares[0] - shares[1].mean(axis=0)


def tag_text_scores(weights: np.ndarray, tag_embeddings: np.ndarray, text_embeddings: np.ndarray) -> np.ndarray:
    """Cosine of each item's weighted sum of tags with its own text, `(num_items,)` in [-1, 1].

    An item with a sum of 0, because its tags equal those of the reference, has a score of 0.

    Args:
        weights: `(num_items, num_tags)`, see `tag_weights`.
        tag_embeddings: `(num_tags, dim)`, of the tags' names.
        text_embeddings: `(num_items, dim)`.

    Raises:
        ValueError: shapes do not match, or the embedding of a text is zero or not finite.
    """
    if len(weights) != len(text_embeddings):
        raise ValueError(f"There must be a text for each item, got {len(weights)} and {len(text_embeddings)}.")
    return tag_text_matrix(weights, tag_embeddings, text_embeddings).diagonal()


def tag_text_matrix(weights: np.ndarray, tag_embeddings: np.ndarray, text_embeddings: np.ndarray) -> np.ndarray:
    """The scores of each item with each text `(num_texts, dim)`, as `(num_items, num_texts)`."""
    weights, tags, texts = (np.asarray(v, dtype=np.float64) for v in (weights, tag_embeddings, text_embeddings))
    if not weights.ndim == tags.ndim == texts.ndim == 2 or tags.shape != (weights.shape[1], texts.shape[1]):
        raise ValueError(
            f"Shapes must be (num_items, num_tags), (num_tags, dim), (num_texts, dim), "
            f"got {weights.shape}, {tags.shape}, {texts.shape}."
        )
    text_lengths = np.linalg.norm(texts, axis=1)
    if not (np.isfinite(text_lengths).all() and (text_lengths > 0).all()):
        raise ValueError("Every text's embedding must be finite and not zero.")
    sums = weights @ tags
    lengths = np.linalg.norm(sums, axis=1)
    return sums @ texts.T / np.outer(np.where(lengths > 0, lengths, 1.0), text_lengths)
