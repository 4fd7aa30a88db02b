"""The validation of the transformer: what it measures, and that it is always the same."""

import pytest
import torch
from accelerate import Accelerator

from stable_longform.training_utils.diffusion_validation import validate

NUM_WINDOWS = 6


@pytest.fixture(scope="module")
def windows() -> list[dict]:
    """Windows whose latents are what their prompt says: constant at its number."""
    return [
        {"latents": torch.full((2, 32), i + 1.0), "seconds_start": 0.0, "seconds_total": 9.0, "prompt": str(i + 1)}
        for i in range(NUM_WINDOWS)
    ]


def embed_prompts(prompts: list[str]) -> dict:
    return {"prompt_embeds": torch.tensor([float(prompt) for prompt in prompts])[:, None, None]}


def listener(batch: dict) -> torch.Tensor:
    """The loss of a model that believes the prompt: it predicts v = −σ·(the prompt's number) and ignores the noise."""
    sigma = torch.sin(batch["timestep"] * torch.pi / 2)[:, None, None]
    errors = sigma * batch["prompt_embeds"] - sigma * batch["latents"]
    return errors.square().mean(dim=(1, 2))


def seen(batch: dict) -> torch.Tensor:
    """A loss from which one can read the time and the noise."""
    return batch["timestep"] * 10 + batch["noise"].square().mean(dim=(1, 2)) * 1e-3


def run(velocity_loss, windows, num_buckets: int = 3) -> dict[str, float]:
    return validate(velocity_loss, windows, embed_prompts, NUM_WINDOWS, num_buckets, Accelerator(cpu=True))


def test_a_model_that_listens_has_a_loss_with_the_prompts_of_others_only(windows):
    metrics = run(listener, windows)
    assert metrics["valid/loss"] == metrics["valid/loss_t1"] == 0
    differences = torch.tensor([1.0] * (NUM_WINDOWS - 1) + [NUM_WINDOWS - 1]).square()  # to the next window's number
    assert metrics["valid/loss_t1_other_prompt"] == pytest.approx(differences.mean().item())
    times = (torch.arange(NUM_WINDOWS) + 0.5) / NUM_WINDOWS
    expected = (torch.sin(times * torch.pi / 2).square() * differences).mean().item()
    assert metrics["valid/loss_other_prompt"] == pytest.approx(expected, rel=1e-5)


def test_times_are_equally_spaced_and_told_by_bucket(windows):
    metrics = run(seen, windows)
    names = ["valid/loss_t0.00-0.33", "valid/loss_t0.33-0.67", "valid/loss_t0.67-1.00"]
    assert [metrics[name] for name in names] == pytest.approx([10 / 6, 5.0, 50 / 6], rel=1e-2)
    assert metrics["valid/loss"] == pytest.approx(5.0, rel=1e-2)
    assert metrics["valid/loss_t1"] == pytest.approx(10.0, rel=1e-2)
    assert {name for name in metrics if "_t0" in name} == set(names)
    assert not any("_t0" in name for name in run(seen, windows, num_buckets=1))


def test_it_is_always_the_same_and_nothing_is_dropped(windows):
    batches = []

    def note(batch: dict) -> torch.Tensor:
        batches.append(batch)
        return listener(batch)

    torch.manual_seed(0)
    first = run(note, windows)
    torch.manual_seed(1)
    assert run(note, windows) == first
    assert not any(batch["is_dropped"].any() for batch in batches)
    for one, other in zip(batches[:NUM_WINDOWS], batches[NUM_WINDOWS:], strict=True):
        assert torch.equal(one["noise"], other["noise"])
        assert torch.equal(one["noise"][:1].expand(4, -1, -1), one["noise"])  # the four losses differ in one thing
    assert not torch.equal(batches[0]["noise"], batches[1]["noise"])
