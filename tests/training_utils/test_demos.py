"""The measures of the demos against signals whose values are known."""

import math

import pytest
import torch

from stable_longform.training_utils.demos import level_in_dbfs, spectral_flatness


def test_levels():
    assert level_in_dbfs(torch.tensor([[1.0, -1.0], [-1.0, 1.0]])) == pytest.approx(0)
    assert level_in_dbfs(torch.full((2, 100), 0.1)) == pytest.approx(-20)
    assert level_in_dbfs(torch.zeros(2, 100)) == -200


def test_flatness_tells_noise_from_a_tone():
    noise = torch.randn(2, 200_000, generator=torch.Generator().manual_seed(0))
    assert spectral_flatness(noise) == pytest.approx(math.exp(-0.5772), abs=0.02)
    tone = torch.sin(torch.arange(200_000) * 0.1).expand(2, -1)
    assert spectral_flatness(tone) < 1e-3
