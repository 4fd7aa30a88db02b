import math
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from tiny_pipeline import SHORT, seed, tiny_pipeline

from stable_longform.models.timing_conditioner import TimingConditioner
from stable_longform.noise_schedule import add_noise, alpha, sigma
from stable_longform.schedulers.scheduling import make_scheduler, set_timesteps
from stable_longform.schedulers.scheduling_ping_pong import PingPongScheduler
from stable_longform.training_utils.distillation_objective import DistillationLoss, validate_distillation
from stable_longform.training_utils.trajectories import sample_trajectory

MEAN, STD = 1.5, 0.4


def conditions(pipe, number: int) -> dict:
    embeds, _ = pipe.encode_prompt([SHORT] * number)
    seconds = {"seconds_start": torch.zeros(number), "seconds_total": torch.full((number,), 0.1)}
    return seconds | {"prompt_embeds": embeds, "is_dropped": torch.zeros(number, dtype=torch.bool)}


@torch.no_grad()
def test_a_student_that_is_the_teacher_has_no_loss_if_the_teacher_takes_one_step_without_guidance():
    """Then the end is the jump itself. From the points of more steps, or with guidance, it is not."""
    pipe = tiny_pipeline()
    loss = DistillationLoss(pipe.transformer, pipe.timing_conditioner)
    losses = {}
    for steps, scale in ((1, 1.0), (6, 1.0), (1, 4.0)):
        call = {"num_inference_steps": steps, "guidance_scale": scale}
        trajectory = sample_trajectory(pipe, SHORT, 0.1, seed(0), **call)
        batch = {"noisy_latents": trajectory["points"][:1], "target": trajectory["end"][None]}
        losses[steps, scale] = float(loss(batch | conditions(pipe, 1) | {"timestep": trajectory["times"][:1]}))
    assert losses[1, 1.0] < 1e-10
    assert min(losses[6, 1.0], losses[1, 4.0]) > 1e-3


@torch.no_grad()
def test_the_loss_is_that_of_each_item_on_its_own():
    pipe = tiny_pipeline()
    loss = DistillationLoss(pipe.transformer, pipe.timing_conditioner)
    noisy_latents, end = torch.randn(2, 3, 4, 16, generator=seed(1))
    batch = {"noisy_latents": noisy_latents, "target": end, "timestep": torch.tensor([1.0, 0.6, 0.2])}
    together = loss(batch | conditions(pipe, 3))
    alone = [loss({name: tensor[i : i + 1] for name, tensor in batch.items()} | conditions(pipe, 1)) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-6)


def test_validation_is_the_mean_over_points_and_over_the_noise():
    points = [[_point(3 * row + column) for column in range(3)] for row in range(2)]
    metrics = validate_distillation(
        lambda batch: batch["target"].flatten(), points, lambda batch: batch, Accelerator(cpu=True)
    )
    assert metrics == {"valid/loss": pytest.approx(2.5), "valid/loss_t1": pytest.approx(1.5)}


def _point(value: float) -> dict:
    return {"target": torch.tensor(float(value)), "prompt": ""}


class Jump(torch.nn.Module):
    """A student of one number: v = a(t)·x + b(t), both from a small network of the time."""

    def __init__(self):
        super().__init__()
        layers = torch.nn.Linear(2, 64), torch.nn.SiLU(), torch.nn.Linear(64, 64), torch.nn.SiLU()
        self.network = torch.nn.Sequential(*layers, torch.nn.Linear(64, 2))

    def forward(self, x, t, **conditions):
        a, b = self.network(torch.stack([alpha(t), sigma(t)], dim=1))[..., None, None].unbind(dim=1)
        return SimpleNamespace(sample=a * x + b)


def gaussian_velocity(x, t):
    a, s = alpha(t), sigma(t)
    data = MEAN + a * STD**2 / (a**2 * STD**2 + s**2) * (x - a * MEAN)
    return (a * x - data) / s


def flow(x, t):
    """The end of the exact trajectory through x at time t."""
    a, s = alpha(t), sigma(t)
    return MEAN + STD * (x - a * MEAN) / torch.sqrt(a**2 * STD**2 + s**2)


def teach(num_steps: int = 40) -> tuple[torch.Tensor, ...]:
    """Trajectories of the teacher: points `(N, B)`, times `(N,)` and ends `(B,)`."""
    scheduler, x, points = make_scheduler(0.03, 500.0), torch.randn(512, generator=seed(0)), []
    times = set_timesteps(scheduler, num_steps)
    for t in times:
        points.append(x)
        x = scheduler.step(gaussian_velocity(x, t), t, x, return_dict=False)[0]
    return torch.stack(points), times, x


def test_the_student_of_a_gaussian_teacher_learns_its_flow_and_samples_the_gaussian():
    points, times, end = teach()
    torch.manual_seed(0)
    loss = DistillationLoss(Jump(), TimingConditioner(4, internal_dim=4))
    optimizer = torch.optim.Adam(loss.transformer.parameters(), 5e-3)
    zeros = {"seconds_start": torch.zeros(256), "seconds_total": torch.zeros(256)}
    zeros |= {"prompt_embeds": torch.zeros(256, 1, 4), "is_dropped": torch.zeros(256, dtype=torch.bool)}
    generator = seed(1)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / 300)
        rows = torch.randint(len(times), (256,), generator=generator)
        columns = torch.randint(512, (256,), generator=generator)
        batch = {"noisy_latents": points[rows, columns, None, None], "target": end[columns, None, None]}
        value = loss(batch | zeros | {"timestep": times[rows]}).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert value.item() < 1e-3
    with torch.no_grad():
        noise, data = torch.randn(2, 4000, 1, 1, generator=generator)
        for t in (0.999, 0.8, 0.5, 0.2):
            x = add_noise(MEAN + STD * data, noise, torch.tensor(t))
            jump = alpha(torch.tensor(t)) * x - sigma(torch.tensor(t)) * loss.transformer(x, torch.tensor([t])).sample
            assert (jump - flow(x, torch.tensor(t))).square().mean().sqrt() < 0.1 * STD
        for steps in (1, 4):
            scheduler, x = PingPongScheduler(), noise
            scheduler.set_timesteps(steps)
            for t in scheduler.timesteps:
                velocity = loss.transformer(x, t[None]).sample
                x = scheduler.step(velocity, t, x, generator=generator, return_dict=False)[0]
            assert abs(x.mean() - MEAN) < 0.05 and math.isclose(x.std(), STD, rel_tol=0.1)
