"""Learning-rate laws against their closed forms and the paper's settings."""

import pytest

from stable_longform.training_utils.learning_rate import inverse_lr


@pytest.mark.parametrize(
    "base, inv_gamma, warmup, values",
    [
        # autoencoder
        (1.5e-4, 200_000, 0.999, {0: 1.5e-7, 1000: 9.5e-5, 4600: 1.47e-4, 200_000: 1.06e-4, 1_000_000: 6.1e-5}),
        # diffusion transformer
        (5e-5, 1_000_000, 0.99, {0: 5.0e-7, 100: 3.2e-5, 458: 4.95e-5, 100_000: 4.77e-5, 1_000_000: 3.54e-5}),
    ],
)
def test_inverse_lr_at_the_paper_settings(base, inv_gamma, warmup, values):
    for step, expected in values.items():
        assert base * inverse_lr(step, inv_gamma, warmup=warmup) == pytest.approx(expected, rel=0.01)


def test_inverse_lr_closed_forms():
    assert inverse_lr(0, 10, warmup=0.9) == pytest.approx(0.1)
    assert inverse_lr(30, 10, warmup=0.0) == pytest.approx(0.5)
    assert inverse_lr(30, 10, power=2.0, warmup=0.0) == pytest.approx(1 / 16)
