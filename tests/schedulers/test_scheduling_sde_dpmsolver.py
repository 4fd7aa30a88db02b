import math

import torch

from stable_longform.schedulers.scheduling import make_scheduler, set_timesteps


def predict(x, t):
    """A smooth velocity that is not linear in x."""
    return torch.tanh(1.3 * x - 0.4) * math.cos(2.0 * float(t)) - 0.6 * torch.sin(3.0 * x) * float(t)


def reference_dpmpp_3m_sde(noise, sigmas, draws):
    """k-diffusion's `dpmpp_3m_sde` written out in its own terms: y = x / α, its step h = ln(σ_i / σ_{i+1}), η = 1."""
    y = noise.double() * math.sqrt(1 + sigmas[0] ** 2)
    data, steps = [], []
    for i, sigma in enumerate(sigmas):
        a, s = 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)
        data.insert(0, a * (a * y) - s * predict(a * y, 2 / math.pi * math.atan(sigma)))
        if i == len(sigmas) - 1:
            return data[0]
        h = math.log(sigma / sigmas[i + 1])
        y = math.exp(-2 * h) * y - math.expm1(-2 * h) * data[0]
        phi_2 = math.expm1(-2 * h) / (2 * h) + 1
        if i > 1:
            r0, r1 = steps[0] / h, steps[1] / h
            d1_0, d1_1 = (data[0] - data[1]) / r0, (data[1] - data[2]) / r1
            d1, d2 = d1_0 + (d1_0 - d1_1) * r0 / (r0 + r1), (d1_0 - d1_1) / (r0 + r1)
            y = y + phi_2 * d1 - (phi_2 / (2 * h) - 0.5) * d2
        elif i == 1:
            y = y + phi_2 * (data[0] - data[1]) / (steps[0] / h)
        y = y + draws[i] * sigmas[i + 1] * math.sqrt(-math.expm1(-2 * h))
        steps.insert(0, h)


def test_third_order_agrees_with_k_diffusions_written_out():
    """diffusers' own step is far from it; the second step differs by its midpoint rule, and a little remains."""
    noise = torch.randn(64, generator=torch.Generator().manual_seed(0))
    errors = {}
    for kind in ("ours", "theirs"):
        scheduler = make_scheduler(0.1, 80.0, algorithm_type="sde-dpmsolver++", solver_order=3)
        if kind == "theirs":
            scheduler.__class__ = type(scheduler).__mro__[1]
        generator, x = torch.Generator().manual_seed(1), noise
        sigmas = torch.exp(torch.linspace(math.log(80.0), math.log(0.1), 40, dtype=torch.float64)).tolist()
        scheduler.set_timesteps(40)
        scheduler.set_begin_index(0)
        for t in 2 / math.pi * torch.atan(scheduler.sigmas[:-1]):
            x = scheduler.step(predict(x, t), t, x, generator=generator, return_dict=False)[0]
        draws = torch.randn(40, 64, generator=torch.Generator().manual_seed(1))
        errors[kind] = (x - reference_dpmpp_3m_sde(noise, sigmas, draws)).abs().max().item()
    assert errors["ours"] < 1e-3 < 0.1 < errors["theirs"]


def test_it_gives_the_gaussian():
    noise = torch.randn(20000, generator=torch.Generator().manual_seed(0))
    scheduler = make_scheduler(0.03, 80.0, algorithm_type="sde-dpmsolver++", solver_order=3)
    generator, x = torch.Generator().manual_seed(1), noise
    for t in set_timesteps(scheduler, 60):
        a, s = torch.cos(math.pi / 2 * t), torch.sin(math.pi / 2 * t)
        data = 1.0 + a * 0.25 / (a**2 * 0.25 + s**2) * (x - a)
        x = scheduler.step((a * x - data) / s, t, x, generator=generator, return_dict=False)[0]
    assert abs(x.mean() - 1.0) < 0.02 and abs(x.std() - 0.5) < 0.02
