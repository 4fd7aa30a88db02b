"""One step: what is averaged, clipped, checked and applied."""

import pytest
import torch

from stable_longform.training_utils.train_step import check_finite


def test_check_finite():
    check_finite({"a": torch.tensor(1e30), "b": torch.zeros(3)}, 4)
    losses = {"a": torch.tensor(1.0), "b": torch.tensor([0.0, torch.inf]), "c": torch.tensor(torch.nan)}
    with pytest.raises(FloatingPointError, match="Step 4: b, c is not finite; the last"):
        check_finite(losses, 4)
    batch = {"waveform": torch.tensor([[0.0], [torch.nan]]), "prompt": ["a", "b"]}
    with pytest.raises(FloatingPointError, match="not finite; so is waveform of its items 1; the last"):
        check_finite(losses, 4, batch)
    with pytest.raises(FloatingPointError, match="not finite; its data are; the last"):
        check_finite(losses, 4, {"waveform": torch.zeros(2, 1)})
