"""The divergence of class probabilities: closed forms, direction, smoothing, agreement with torch's kl_div."""

import numpy as np
import pytest
import torch

from stable_longform.metrics.divergence import SMOOTHING, kl_divergence, mean_probabilities


def random_probabilities(*shape, seed=0):
    """Softmax of random logits."""
    return torch.softmax(
        torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), -1
    ).numpy()


def test_equal_distributions_differ_by_the_smoothing_only():
    values = random_probabilities(5, 527)
    divergence = kl_divergence(values, values)
    assert (np.abs(divergence) <= 527 * SMOOTHING).all() and (divergence <= 0).all()


def test_closed_form_and_direction():
    generated, reference = np.array([0.75, 0.25]), np.array([0.5, 0.5])
    expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert kl_divergence(generated, reference) == pytest.approx(expected, abs=1e-5)
    assert kl_divergence(reference, generated) == pytest.approx(-0.5 * np.log(1.5) - 0.5 * np.log(0.5), abs=1e-5)


def test_what_the_reference_lacks_costs_and_what_the_generated_lacks_does_not():
    certain, uniform = np.array([1.0, 0.0]), np.array([0.5, 0.5])
    assert kl_divergence(certain, uniform) == pytest.approx(np.log(2), abs=1e-5)
    assert kl_divergence(uniform, certain) == pytest.approx(np.log(0.5) - 0.5 * np.log(1e-6), abs=1e-5)


def test_agrees_with_torch():
    generated, reference = random_probabilities(3, 50), random_probabilities(3, 50, seed=1)
    for pair in zip(generated, reference, strict=True):
        ours = kl_divergence(*pair)
        inputs = torch.from_numpy(pair[1] + 1e-6).log(), torch.from_numpy(pair[0])
        assert ours == pytest.approx(float(torch.nn.functional.kl_div(*inputs, reduction="sum")), rel=1e-9)
    np.testing.assert_array_equal(kl_divergence(generated, reference)[1], kl_divergence(generated[1], reference[1]))


def test_logits_are_averaged_before_the_softmax():
    logits = np.array([[0.0, 4.0, 2.0], [2.0, 0.0, 4.0]])
    np.testing.assert_allclose(mean_probabilities(logits), torch.softmax(torch.tensor([1.0, 2.0, 3.0]), 0), rtol=1e-6)
    np.testing.assert_allclose(mean_probabilities(logits + 1e4), mean_probabilities(logits), rtol=1e-9)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="same shape"):
        kl_divergence(np.ones(1), np.ones((1, 1)))
    with pytest.raises(ValueError, match="generated must hold probabilities"):
        kl_divergence(np.array([0.5, 0.2]), np.array([0.5, 0.5]))
    with pytest.raises(ValueError, match="reference must hold probabilities"):
        kl_divergence(np.array([0.5, 0.5]), np.array([1.5, -0.5]))
    for logits in (np.zeros(3), np.zeros((0, 3)), np.array([[np.nan]])):
        with pytest.raises(ValueError, match="num_windows, num_classes"):
            mean_probabilities(logits)
