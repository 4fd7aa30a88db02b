"""Tags against prompts in closed form: what is common to all counts for nothing, what stands out counts."""

import numpy as np
import pytest

from stable_longform.metrics.tag_text import tag_probabilities, tag_text_matrix, tag_text_scores, tag_weights

AXES = np.eye(3)  # three tags, three texts that are their names


def test_probabilities_are_the_mean_of_the_windows():
    logits = np.log([[3.0, 1.0], [1.0, 1.0 / 3.0]])  # 3/4, 1/2; 1/2, 1/4
    np.testing.assert_allclose(tag_probabilities(logits), [0.625, 0.375], rtol=1e-14)
    np.testing.assert_array_equal(tag_probabilities([[1e4, -1e4]]), [1, 0])
    for bad in (np.zeros(3), np.zeros((0, 3)), [[np.nan]]):
        with pytest.raises(ValueError, match="logits must be finite and"):
            tag_probabilities(bad)


def test_weights_are_shares_minus_the_references():
    reference = [[0.5, 0.5, 0.0], [0.3, 0.0, 0.1]]  # shares 1/2, 1/2, 0 and 3/4, 0, 1/4
    weights = tag_weights([[0.2, 0.2, 0.4], [0.8, 0.0, 0.0]], reference)
    np.testing.assert_allclose(weights, [[-0.375, 0, 0.375], [0.375, -0.25, -0.125]], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(weights.sum(axis=1), 0, atol=1e-15)
    np.testing.assert_allclose(tag_weights([[0.1, 0.1, 0.2]], reference), weights[:1], atol=1e-15)  # loudness of all
    np.testing.assert_allclose(tag_weights(reference, reference).mean(axis=0), 0, atol=1e-15)


def test_scores_in_closed_form():
    weights = np.array([[0.6, -0.6, 0.0], [0.2, 0.2, -0.4], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(tag_text_scores(weights, AXES, 7 * AXES), [np.sqrt(0.5), 1 / np.sqrt(6), 0], rtol=1e-12)
    matrix = tag_text_matrix(weights, AXES, AXES[:2])
    np.testing.assert_allclose(matrix, [[np.sqrt(0.5), -np.sqrt(0.5)], [1 / np.sqrt(6), 1 / np.sqrt(6)], [0, 0]])
    np.testing.assert_allclose(tag_text_scores(10 * weights, 3 * AXES, AXES), tag_text_scores(weights, AXES, AXES))


def test_what_all_tags_names_share_counts_for_nothing():
    rng = np.random.default_rng(0)
    tags, texts, shared = rng.normal(size=(5, 8)), rng.normal(size=(4, 8)), rng.normal(size=8)
    weights = tag_weights(rng.uniform(size=(4, 5)), rng.uniform(size=(6, 5)))
    np.testing.assert_allclose(
        tag_text_scores(weights, tags + shared, texts), tag_text_scores(weights, tags, texts), rtol=1e-10
    )


def test_a_common_tag_does_not_dominate():
    """Everything here sounds like the first tag; the items differ in the others only."""
    reference = [[0.9, 0.1, 0.1], [0.9, 0.1, 0.1]]
    weights = tag_weights([[0.9, 0.3, 0.1], [0.9, 0.1, 0.3]], reference)
    own = tag_text_scores(weights, AXES, AXES[[1, 2]])
    crossed = tag_text_scores(weights, AXES, AXES[[2, 1]])
    common = tag_text_scores(weights, AXES, AXES[[0, 0]])
    assert (own > 0.7).all() and (crossed < 0).all() and (common < 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tag_weights([[0.5, 1.5]], [[0.5, 0.5]]), "probabilities must be .* in .0, 1."),
        (lambda: tag_weights([[0.5, 0.5]], [0.5, 0.5]), "reference must be"),
        (lambda: tag_weights([[0.5, 0.5]], [[0.0, 0.0]]), "item of reference must have a tag"),
        (lambda: tag_weights([[0.5, 0.5]], [[0.5, 0.5, 0.5]]), "same tags, got 2 and 3"),
        (lambda: tag_text_scores(np.zeros((2, 3)), AXES, AXES), "a text for each item, got 2 and 3"),
        (lambda: tag_text_matrix(AXES[:, :2], AXES, AXES), "Shapes must be"),
        (lambda: tag_text_scores(AXES, AXES, 0 * AXES), "finite and not zero"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
