"""One step: what is averaged, weighted, clipped, checked and applied."""

import pytest
import torch
from accelerate import Accelerator

from stable_longform.training_utils.train_step import check_finite, train_step


class Point(torch.nn.Module):
    """A point that losses pull at."""

    def __init__(self, size: int = 2):
        super().__init__()
        self.place = torch.nn.Parameter(torch.zeros(size))


def take_step(point, batches, compute_losses, lr: float = 0.5, **options) -> dict:
    """One step of plain gradient descent."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=len(batches))
    point, optimizer = accelerator.prepare(point, torch.optim.SGD(point.parameters(), lr=lr))
    return train_step(accelerator, optimizer, [point], batches, compute_losses, 3, **options)


def pull(point):
    """Losses whose gradients are the batch's `force` and a constant (0, 10)."""
    return lambda batch: {
        "pull": (point.place * batch["force"]).sum() + batch["level"].sum(),
        "lift": 10 * point.place[1],
    }


def batch(x: float, y: float, level: float = 0.0) -> dict:
    return {"force": torch.tensor([x, y]), "level": torch.tensor([level])}


def test_the_gradient_is_the_mean_over_micro_batches_of_the_weighted_sum():
    point = Point()
    batches = [batch(1, 2, 5.0), batch(3, -6, 9.0)]
    metrics = take_step(point, batches, pull(point), loss_weights={"pull": 2.0, "lift": 0.1})
    expected = -0.5 * (2 * torch.tensor([2.0, -2.0]) + 0.1 * torch.tensor([0.0, 10.0]))
    torch.testing.assert_close(point.place.detach(), expected)
    assert metrics["pull"].item() == 7.0 and metrics["lift"].item() == 0.0  # as they are, without their weights
    assert metrics["gradient_norm"].item() == pytest.approx((4.0**2 + 3.0**2) ** 0.5)
    assert metrics["learning_rate"] == 0.5


def test_without_weights_all_losses_count_the_same():
    point = Point()
    take_step(point, [batch(1, 2)], pull(point))
    torch.testing.assert_close(point.place.detach(), torch.tensor([-0.5, -6.0]))


def test_a_loss_of_weight_0_does_nothing_and_one_without_a_weight_is_an_error():
    point = Point()
    take_step(point, [batch(1, 2)], pull(point), loss_weights={"pull": 1.0, "lift": 0.0, "unused": 9.0})
    torch.testing.assert_close(point.place.detach(), torch.tensor([-0.5, -1.0]))
    with pytest.raises(KeyError, match="lift"):
        take_step(Point(), [batch(1, 2)], pull(point), loss_weights={"pull": 1.0})


@pytest.mark.parametrize(("max_grad_norm", "length"), [(None, 5.0), (100.0, 5.0), (1.0, 1.0)])
def test_a_gradient_is_clipped_to_its_limit_and_logged_as_it_was(max_grad_norm, length):
    point = Point()
    metrics = take_step(
        point,
        [batch(3, -6)],
        pull(point),
        loss_weights={"pull": 1.0, "lift": 1.0},
        lr=1.0,
        max_grad_norm=max_grad_norm,
    )
    assert metrics["gradient_norm"].item() == pytest.approx(5.0)
    assert point.place.detach().norm().item() == pytest.approx(length, rel=1e-4)


def test_gradients_of_the_step_before_are_forgotten():
    point = Point()
    point.place.grad = torch.tensor([100.0, 100.0])
    take_step(point, [batch(1, 2)], pull(point))
    torch.testing.assert_close(point.place.detach(), torch.tensor([-0.5, -6.0]))


@pytest.mark.parametrize("name", ["pull", "gradient_norm"])
def test_a_step_that_is_not_finite_leaves_the_weights_as_they_were(name):
    """A loss that is no number because its data are none, or a finite loss with an infinite gradient."""
    point = Point()
    cause = "so is level of its items 0" if name == "pull" else "its data are"

    def losses(batch: dict) -> dict:
        return {"pull": batch["level"].sum() + (point.place.sum() if name == "pull" else point.place.sqrt().sum())}

    with pytest.raises(FloatingPointError, match=f"Step 3: {name} is not finite; {cause}"):
        take_step(point, [batch(0, 0, torch.nan if name == "pull" else 0.0)], losses)
    assert not point.place.any()


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
