"""The probe: words that can be heard, words that can't, and that it is never asked about what it saw."""

import numpy as np
import pytest

from stable_longform.metrics.probe import Probe, cross_validated_scores
from stable_longform.metrics.prompt_wins import mean_and_error, win_shares


def make_truth(num_items=120, dim=40, seed=0, is_heard=True):
    """Features in which each word has an axis, and one or two words for each item."""
    rng = np.random.default_rng(seed)
    labels = [set(rng.choice(list("abcdef"), rng.integers(1, 3), replace=False)) for _ in range(num_items)]
    features = rng.normal(size=(num_items, dim))
    for row, words in zip(features, labels, strict=True):
        for word in words:
            row["abcdef".index(word)] += 4 * is_heard
    return 7 * features + 3, labels


def own_wins(scores, labels):
    return mean_and_error(win_shares(scores, [frozenset(words) for words in labels]))


def test_words_that_can_be_heard_are_heard_in_new_items():
    features, labels = make_truth()
    new, asked = make_truth(seed=1)
    probe = Probe(features, labels)
    assert probe.words == list("abcdef")
    assert own_wins(probe.scores(new, asked), asked)[0] > 0.9
    assert own_wins(cross_validated_scores(features, labels), labels)[0] > 0.9


def test_what_cannot_be_heard_wins_by_chance_alone():
    """More features than items: a probe that was asked about what it saw would win nearly always."""
    features, labels = make_truth(dim=300, is_heard=False)
    mean, error = own_wins(cross_validated_scores(features, labels), labels)
    assert abs(mean - 0.5) < 3.5 * error
    assert own_wins(Probe(features, labels).scores(features, labels), labels)[0] > 0.8


def test_frequency_and_units_of_features_do_not_count():
    features, labels = make_truth()
    for words in labels[:100]:
        words.add("often")
    probe = Probe(features, labels)
    assert abs(probe.log_odds(features)[:, probe.words.index("often")].mean()) < 0.5  # not log(100 / 20)
    scaled = Probe(1000 * features - 5, labels)
    np.testing.assert_allclose(scaled.log_odds(1000 * features - 5), probe.log_odds(features), atol=1e-3)


def test_rare_and_universal_words_are_not_judged():
    features, labels = make_truth()
    for words in labels:
        words.add("always")
    labels[0].add("once")
    probe = Probe(features, labels)
    assert probe.words == list("abcdef")
    scores = probe.scores(features[:2], [{"once"}, {"a", "once"}, {"a"}])
    assert np.isnan(scores[:, 0]).all()
    np.testing.assert_array_equal(scores[:, 1], scores[:, 2])


def test_bad_input_is_named():
    features, labels = make_truth(20)
    with pytest.raises(ValueError, match="finite and .20, dim."):
        Probe(features[:5], labels)
    with pytest.raises(ValueError, match="No word describes 4 recordings"):
        Probe(features, [{"x"}] * 20)
