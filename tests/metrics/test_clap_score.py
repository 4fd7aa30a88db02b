"""The CLAP score: cosines of known angles."""

import numpy as np
import pytest

from stable_longform.metrics.clap_score import clap_scores


def test_known_angles_whatever_the_lengths():
    audio = np.array([[2.0, 0], [0, 3.0], [1.0, 1.0], [1.0, 2.0]])
    text = np.array([[5.0, 0], [1.0, 0], [0, 7.0], [-2.0, -4.0]])
    np.testing.assert_allclose(clap_scores(audio, text), [1, 0, np.sqrt(0.5), -1], atol=1e-12)


def test_each_item_has_its_own_text():
    rng = np.random.default_rng(0)
    audio, text = rng.normal(size=(2, 4, 16))
    np.testing.assert_allclose(clap_scores(audio[::-1], text[::-1]), clap_scores(audio, text)[::-1])
    assert not np.allclose(clap_scores(audio, text[::-1]), clap_scores(audio, text))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="same shape"):
        clap_scores(np.ones((2, 3)), np.ones((3, 3)))
    for value in (0.0, np.nan):
        with pytest.raises(ValueError, match="finite and not zero"):
            clap_scores(np.full((1, 3), value), np.ones((1, 3)))
