import math

import pytest
import torch

from stable_longform.noise_schedule import (
    PREDICTION_TYPES,
    add_noise,
    alpha,
    latents_from_velocity,
    sigma,
    time_from_noise_level,
    velocity,
)


def test_alpha_and_sigma_are_on_the_unit_circle_and_meet_their_ends():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(alpha(t) ** 2 + sigma(t) ** 2, torch.ones_like(t), rtol=0, atol=1e-15)
    assert alpha(t[0]) == 1 and sigma(t[0]) == 0
    assert abs(alpha(t[-1])) < 1e-15 and sigma(t[-1]) == 1
    assert alpha(t[50]).item() == pytest.approx(math.sqrt(0.5))


def test_time_inverts_the_noise_level():
    t = torch.linspace(0, 0.999, 100, dtype=torch.float64)
    torch.testing.assert_close(time_from_noise_level(sigma(t) / alpha(t)), t, rtol=0, atol=1e-14)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_velocity_and_noisy_latents_give_the_latents(prediction_type):
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 5, 3, 7, generator=generator, dtype=torch.float64)
    t = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
    noisy, v = (make(latents, noise, t, prediction_type) for make in (add_noise, velocity))
    torch.testing.assert_close(latents_from_velocity(noisy, v, t, prediction_type), latents)
    torch.testing.assert_close(noisy[0], latents[0])
    torch.testing.assert_close(noisy[4], noise[4])


def test_velocity_is_the_derivative_of_the_noisy_latents_along_the_circle():
    latents, noise = torch.randn(2, 4, 3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t, h = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64), 1e-5
    derivative = (add_noise(latents, noise, t + h) - add_noise(latents, noise, t - h)) / (2 * h)
    torch.testing.assert_close(velocity(latents, noise, t), derivative * 2 / math.pi, rtol=0, atol=1e-8)


def test_velocity_of_rectified_flow_is_the_derivative_along_a_straight_line():
    latents, noise = torch.randn(2, 4, 3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t, h = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64), 1e-3
    after, before = (add_noise(latents, noise, t + step, "flow_prediction") for step in (h, -h))
    torch.testing.assert_close(velocity(latents, noise, t, "flow_prediction"), (after - before) / (2 * h))
