"""One step: what is averaged, weighted, clipped, checked and applied."""

import json

import pytest
import torch
from accelerate import Accelerator

from stable_longform.training_utils.train_step import SkippedSteps, describe_not_finite, train_step


class Point(torch.nn.Module):
    """A point that losses pull at."""

    def __init__(self, size: int = 2):
        super().__init__()
        self.place = torch.nn.Parameter(torch.zeros(size))


def take_step(point, batches, compute_losses, lr: float = 0.5, **options) -> dict:
    """The metrics of one step of plain gradient descent, which must be taken."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=len(batches))
    point, optimizer = accelerator.prepare(point, torch.optim.SGD(point.parameters(), lr=lr))
    metrics, is_taken = train_step(
        accelerator, optimizer, [point], batches, compute_losses, 3, SkippedSteps(0), **options
    )
    assert is_taken and metrics["skipped_steps"] == 0
    return metrics


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


class Norm(torch.nn.Module):
    """A linear layer behind a batch norm, whose statistics a forward pass changes."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1))

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_skipped_step_leaves_everything_as_it_was(bad):
    """Bit for bit: weights, statistics, optimiser. The run without that step goes on as the run with it does."""
    runs = []
    for numbers in ((0, 1, 2), (0, "bad", 1, 2)):
        torch.manual_seed(0)
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
        model, skipped = Norm(), SkippedSteps(1)
        model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=0.1))
        taken = []
        for step, number in enumerate(numbers):
            generator = torch.Generator().manual_seed(0 if number == "bad" else number)
            batches = [{"x": torch.randn(4, 3, generator=generator)} for _ in range(2)]
            if number == "bad":
                batches[1]["x"][2, 1] = bad

            def losses(batch: dict) -> dict:
                return {"loss": model(batch["x"]).square().mean()}  # noqa: B023

            metrics, is_taken = train_step(accelerator, optimizer, [model], batches, losses, step, skipped)
            taken.append(is_taken)
        assert taken == [number != "bad" for number in numbers]
        assert metrics["skipped_steps"] == taken.count(False)
        runs.append([model.state_dict(), optimizer.state_dict()["state"]])
    values, expected = map(torch.utils._pytree.tree_leaves, runs)
    assert len(values) > 10 and all(torch.equal(*pair) for pair in zip(values, expected, strict=True))


def test_so_many_steps_may_be_skipped_within_the_window():
    skipped = SkippedSteps(2)
    for step in (5, 70, 105, 170):  # 5 is no longer among the last hundred when 105 comes
        skipped.add(step, "loss is not finite")
    resumed = SkippedSteps(2)
    resumed.load_state_dict(json.loads(json.dumps(skipped.state_dict())))
    assert resumed.total == 4
    with pytest.raises(FloatingPointError, match="Step 204: loss.*3 of the last 100 steps.*max_skipped_steps is 2"):
        resumed.add(204, "loss is not finite")


def test_what_is_not_finite_is_named():
    losses = {"a": torch.tensor(1.0), "b": torch.tensor([0.0, torch.inf]), "c": torch.tensor(torch.nan)}
    assert describe_not_finite(losses) == "b, c is not finite"
    batch = {"waveform": torch.tensor([[0.0], [torch.nan]]), "prompt": ["a", "b"]}
    assert describe_not_finite(losses, batch) == "b, c is not finite; so is waveform of its items 1"
    assert describe_not_finite(losses, {"waveform": torch.zeros(2, 1)}) == "b, c is not finite; its data are"
