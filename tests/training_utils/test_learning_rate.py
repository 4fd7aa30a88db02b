"""Learning-rate laws against their closed forms and the paper's settings."""

import pytest
import torch

from stable_longform.training_utils.learning_rate import (
    falling_rate,
    inverse_lr,
    linear_warmup,
    set_learning_rate,
    warmup_cosine,
)


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


def test_a_rate_is_that_of_all_parameters():
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [parameter]} for parameter in parameters], lr=1.0)
    set_learning_rate(optimizer, 0.25)
    for parameter in parameters:
        parameter.grad = torch.ones(2)
    optimizer.step()
    assert [parameter.tolist() for parameter in parameters] == [[-0.25, -0.25]] * 2


def test_linear_warmup():
    assert [linear_warmup(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert linear_warmup(0, 0) == linear_warmup(0, 1) == 1.0


def test_warmup_cosine_rises_to_one_then_falls_to_zero():
    factors = [warmup_cosine(step, 10, 110) for step in range(111)]
    assert factors[0] == 0.1 and factors[9] == factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5) and factors[110] == pytest.approx(0, abs=1e-12)
    assert all(after < before for before, after in zip(factors[10:], factors[11:], strict=False))
    assert warmup_cosine(1000, 10, 110) == factors[110]


def test_falling_rate_is_one_then_a_line():
    factors = [falling_rate(step, 100, 0.5, 0.02) for step in range(100)]
    assert factors[:51] == [1.0] * 51
    assert factors[75] == pytest.approx(0.51) and factors[99] == pytest.approx(0.02 + 0.98 * 0.02)
    assert [falling_rate(step, 100, 1.0, 0.0) for step in (0, 50, 99)] == [1.0] * 3
    assert falling_rate(25, 100, 0.0, 0.0) == pytest.approx(0.75)
