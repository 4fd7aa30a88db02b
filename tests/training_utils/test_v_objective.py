"""The loss of the transformer's training: what it is zero for, what it leaves out, what the pipeline makes of it."""

import math

import pytest
import torch
from common import randomize_weights
from tiny_pipeline import SHORT, tiny_pipeline
from tiny_training import DIT

from stable_longform import noise_schedule
from stable_longform.models.timing_conditioner import TimingConditioner
from stable_longform.models.transformer_dit_1d import DiTTransformer1D
from stable_longform.schedulers import scheduling
from stable_longform.training_utils.v_objective import VelocityLoss, balance_silence


@pytest.fixture
def velocity_loss() -> VelocityLoss:
    """Of networks all of whose weights are random."""
    transformer = randomize_weights(DiTTransformer1D(**DIT["model"]), seed=1, std=0.3)
    return VelocityLoss(transformer, TimingConditioner(16, internal_dim=8))


def make_batch(num_items: int = 2, num_tokens: int = 3, **changes) -> dict:
    """A batch of random windows of which nothing is dropped."""
    generator = torch.Generator().manual_seed(0)
    batch = {
        "latents": torch.randn(num_items, 4, 16, generator=generator),
        "noise": torch.randn(num_items, 4, 16, generator=generator),
        "timestep": torch.linspace(0.2, 0.9, num_items),
        "seconds_start": torch.zeros(num_items),
        "seconds_total": torch.full((num_items,), 30.0),
        "prompt_embeds": torch.randn(num_items, num_tokens, 16, generator=generator),
        "is_dropped": torch.zeros(num_items, dtype=torch.bool),
    }
    return batch | changes


def test_a_fresh_model_has_the_loss_of_its_output():
    """The zero-initialised model predicts proj_out(proj_in(x)); its loss is that prediction's distance from v."""
    torch.manual_seed(0)
    transformer = DiTTransformer1D(**DIT["model"])
    velocity_loss = VelocityLoss(transformer, TimingConditioner(16, internal_dim=8))
    batch = make_batch(timestep=torch.tensor([0.0, 1.0]))
    noisy = torch.stack([batch["latents"][0], batch["noise"][1]])
    target = torch.stack([batch["noise"][0], -batch["latents"][1]])
    tokens = noisy.unflatten(-1, (-1, 2)).transpose(1, 2).flatten(2)
    output = transformer.proj_out(transformer.proj_in(tokens))
    output = output.unflatten(-1, (-1, 2)).transpose(1, 2).flatten(2)
    errors = (output - target).square().mean(dim=1)
    assert torch.allclose(velocity_loss(batch), errors.mean(dim=1), rtol=1e-4)
    weights = balance_silence(torch.arange(16) < torch.tensor([[4], [16]]))
    halves = errors[0, :4].mean() / 2 + errors[0, 4:].mean() / 2
    expected = torch.stack([halves, errors[1].mean()])
    assert torch.allclose(velocity_loss(batch | {"frame_weights": weights}), expected, rtol=1e-4)


class Oracle(torch.nn.Module):
    """Knows the data, and so the velocity of any noisy latents."""

    def __init__(self, latents: torch.Tensor):
        super().__init__()
        self.latents = latents

    def forward(self, noisy, t, **conditions):
        alpha, sigma = (part(t)[:, None, None] for part in (noise_schedule.alpha, noise_schedule.sigma))
        noise = (noisy - alpha * self.latents) / sigma
        return type("Output", (), {"sample": alpha * noise - sigma * self.latents})


def test_the_true_velocity_has_no_loss():
    batch = make_batch(4)
    velocity_loss = VelocityLoss(Oracle(batch["latents"]), TimingConditioner(16, internal_dim=8))
    assert velocity_loss(batch).max() < 1e-8


def test_predicting_nothing_costs_the_power_of_the_velocity():
    """α²·1 + σ²·1 of data and noise of deviation 1."""
    transformer = DiTTransformer1D(**DIT["model"] | {"sample_size": 1024})
    torch.nn.init.zeros_(transformer.proj_out.weight)
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 8, 4, 1024, generator=generator)
    batch = make_batch(8, latents=latents, noise=noise, timestep=torch.linspace(0, 1, 8))
    losses = VelocityLoss(transformer, TimingConditioner(16, internal_dim=8))(batch)
    assert losses.tolist() == pytest.approx([1.0] * 8, abs=0.1)


@pytest.mark.parametrize("mask_text_padding", [False, True])
def test_a_dropped_item_is_the_pipelines_unconditional_branch(mask_text_padding):
    """Without guidance (s = 1) the pipeline follows the prompt, with s = 0 the unconditional branch alone."""
    pipe = tiny_pipeline(mask_text_padding=mask_text_padding)
    pipe.set_progress_bar_config(disable=True)
    length = pipe.transformer.config.sample_size
    noisy = torch.randn(1, 4, length, generator=torch.Generator().manual_seed(3))
    (t,) = scheduling.set_timesteps(pipe.scheduler, 1)
    alpha, sigma = math.cos(float(t) * math.pi / 2), math.sin(float(t) * math.pi / 2)
    prompt_embeds, mask = pipe.encode_prompt(SHORT)
    latents = torch.zeros_like(noisy)
    batch = {"latents": latents, "noise": noisy / sigma, "timestep": t[None], "prompt_embeds": prompt_embeds}
    batch |= {"seconds_start": torch.zeros(1), "seconds_total": torch.tensor([2.0])}
    batch |= {} if mask is None else {"prompt_attention_mask": mask}
    velocity_loss = VelocityLoss(pipe.transformer, pipe.timing_conditioner)
    losses = {}
    for is_dropped, guidance_scale in ((True, 0.0), (False, 1.0)):
        options = {"num_inference_steps": 1, "guidance_scale": guidance_scale, "output_type": "latent"}
        (predicted,) = pipe(SHORT, duration=0.2, seconds_total=2.0, latents=noisy, **options).audios
        velocity = (alpha * noisy[0] - predicted) / sigma
        expected = (velocity - alpha * noisy[0] / sigma).square().mean()
        with torch.no_grad():
            losses[is_dropped] = velocity_loss(batch | {"is_dropped": torch.tensor([is_dropped])})
        torch.testing.assert_close(losses[is_dropped][0], expected, rtol=1e-4, atol=0)
    assert losses[True].item() != pytest.approx(losses[False].item(), rel=1e-3)


def test_a_dropped_item_keeps_its_global_timing_and_nothing_else(velocity_loss):
    dropped = make_batch(is_dropped=torch.tensor([True, False]))
    expected = velocity_loss(dropped).tolist()
    other = velocity_loss(dropped | {"prompt_embeds": dropped["prompt_embeds"] + 1}).tolist()
    assert other[0] == expected[0] and other[1] != pytest.approx(expected[1], rel=1e-3)
    later = velocity_loss(dropped | {"seconds_total": torch.full((2,), 200.0)}).tolist()
    assert later[0] != pytest.approx(expected[0], rel=1e-4)
    tokens = []
    velocity_loss.transformer.register_forward_pre_hook(
        lambda module, arguments, options: tokens.append(options["encoder_hidden_states"]), with_kwargs=True
    )
    velocity_loss(dropped)
    assert not tokens[0][0].any() and tokens[0][1].any(dim=-1).all() and tokens[0].shape[1] == 3 + 2


def test_a_masked_text_is_a_shorter_one(velocity_loss):
    batch = make_batch(1)
    losses = [
        velocity_loss(batch | part).item()
        for part in (
            {"prompt_attention_mask": torch.tensor([[True, True, False]])},
            {"prompt_embeds": batch["prompt_embeds"][:, :2]},
            {},
        )
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and losses[0] != pytest.approx(losses[2], rel=1e-3)


def test_items_do_not_see_each_other(velocity_loss):
    batch = make_batch(3)
    alone = [velocity_loss({name: value[i : i + 1] for name, value in batch.items()}) for i in range(3)]
    torch.testing.assert_close(velocity_loss(batch), torch.cat(alone), rtol=1e-4, atol=1e-6)


def test_balanced_weights_have_mean_1_and_are_finite():
    weights = balance_silence(torch.arange(8) < torch.tensor([[0], [1], [4], [8]]))
    assert torch.allclose(weights.mean(dim=1), torch.ones(4))
    assert weights[1].tolist() == pytest.approx([4.0] + [4 / 7] * 7)
    assert torch.equal(weights[[0, 2, 3]], torch.ones(3, 8))
