"""A small classifier for words that no published tagger knows, fitted on music with known metadata (the truth).

For each word, a logistic regression on features of other networks predicts whether it applies to a recording. The
score of a recording for a prompt is the mean log-odds of the prompt's words, minus the log-odds of each word's
frequency in the truth. So words that are predicted for everything have no effect.

The probe only knows how the truth sounds. Other music may mislead it, and for a model that was trained on the same
truth it is a biased judge. So compare with the cross-validated score of the truth itself, and with
`metrics/tag_text.py`.

Conventions: features are `(num_items, dim)`; labels are the set of words of each item.

References: Alain and Bengio, "Understanding intermediate layers using linear classifier probes" (2016). Not in the
paper.
"""

from collections.abc import Collection, Sequence

import numpy as np

from stable_longform.utils.optional import require

PENALTY = 0.01  # scikit-learn's C: small because there are more features than recordings
MIN_ITEMS = 4  # smallest number of items with, and without, a word
NUM_FOLDS = 5


class Probe:
    """Predicts the log-odds of words.

    Args:
        features: of the truth, `(num_items, dim)`.
        labels: its words. Words that apply to fewer than four items, or to all but three, are not learned.

    Raises:
        ValueError: shapes do not match, values are not finite, or there is no word to learn.
    """

    def __init__(self, features: np.ndarray, labels: Sequence[Collection[str]]):
        linear_model = require("sklearn.linear_model", "eval")
        features = np.asarray(features, dtype=np.float64)
        if features.ndim != 2 or len(features) != len(labels) or not np.isfinite(features).all():
            raise ValueError(f"features must be finite and ({len(labels)}, dim), got shape {features.shape}.")
        counts = {word: sum(word in found for found in labels) for word in sorted(set().union(*labels))}
        self.words = [word for word, n in counts.items() if MIN_ITEMS <= n <= len(labels) - MIN_ITEMS]
        if not self.words:
            raise ValueError(f"No word describes {MIN_ITEMS} recordings and is absent from as many others.")
        self.mean, self.scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
        standardized = (features - self.mean) / self.scale
        rows, self.priors = [], []
        for word in self.words:
            has_word = np.array([word in found for found in labels])
            model = linear_model.LogisticRegression(C=PENALTY, max_iter=1000).fit(standardized, has_word)
            rows.append(np.append(model.coef_[0], model.intercept_[0]))
            self.priors.append(np.log(has_word.mean() / (1 - has_word.mean())))
        self.weights = np.stack(rows)

    def log_odds(self, features: np.ndarray) -> np.ndarray:
        """The log-odds of each word minus those of its frequency, `(num_items, num_words)`."""
        standardized = (np.asarray(features, dtype=np.float64) - self.mean) / self.scale
        return standardized @ self.weights[:, :-1].T + self.weights[:, -1] - self.priors

    def scores(self, features: np.ndarray, prompts: Sequence[Collection[str]]) -> np.ndarray:
        """How well each item fits each prompt, `(num_items, num_prompts)`.

        The score is NaN if none of a prompt's words was learned.
        """
        positions = {word: number for number, word in enumerate(self.words)}
        log_odds = self.log_odds(features)
        columns = [[positions[word] for word in sorted(prompt) if word in positions] for prompt in prompts]
        return np.stack(
            [log_odds[:, known].mean(axis=1) if known else np.full(len(log_odds), np.nan) for known in columns], axis=1
        )


def cross_validated_scores(features: np.ndarray, labels: Sequence[Collection[str]], seed: int = 0) -> np.ndarray:
    """Cross-validated scores `(num_items, num_items)` of the truth: each item is scored by a probe without it.

    Raises:
        ValueError: see `Probe`; it is fitted on four of five folds.
    """
    features, num_items = np.asarray(features), len(labels)
    folds = np.random.default_rng(seed).permutation(num_items) % NUM_FOLDS
    scores = np.full((num_items, num_items), np.nan)
    for fold in range(NUM_FOLDS):
        is_left_out = folds == fold
        if is_left_out.any():
            seen = [words for words, is_out in zip(labels, is_left_out, strict=True) if not is_out]
            scores[is_left_out] = Probe(features[~is_left_out], seen).scores(features[is_left_out], labels)
    return scores
