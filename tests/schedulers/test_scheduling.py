import math

import numpy as np
import pytest
import torch
from diffusers import (
    CosineDPMSolverMultistepScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from stable_longform.noise_schedule import FLOW_PREDICTION
from stable_longform.schedulers.scheduling import (
    SIGMA_MAX,
    SIGMA_MIN,
    check_scheduler,
    make_scheduler,
    scheduler_by_name,
    set_timesteps,
)
from stable_longform.schedulers.scheduling_ping_pong import PingPongScheduler
from stable_longform.utils.accepted_values import SCHEDULER_NAMES


def sample(
    scheduler, predict_velocity, latents, num_steps, generator=None, visit=lambda t, latents: None, timesteps=None
):
    """Runs the sampler from `latents`; `visit` sees every node, and the end with t = 0."""
    timesteps = set_timesteps(scheduler, num_steps, timesteps=timesteps)
    for t in timesteps:
        visit(t, latents)
        latents = scheduler.step(predict_velocity(latents, t), t, latents, generator=generator, return_dict=False)[0]
    visit(torch.tensor(0.0), latents)
    return latents


def gaussian_velocity(mean, std):
    """The exact velocity E[v | x_t] of data N(mean, std²)."""

    def predict(latents, t):
        a, s = math.cos(math.pi / 2 * float(t)), math.sin(math.pi / 2 * float(t))
        x = latents.double()
        data = mean + a * std**2 / (a**2 * std**2 + s**2) * (x - a * mean)
        return ((a * x - data) / s).to(latents.dtype)

    return predict


def noise_levels(num_steps, sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX):
    return np.exp(np.linspace(math.log(sigma_max), math.log(sigma_min), num_steps))


# --- the scheduler's nodes


@pytest.mark.parametrize("num_steps", [1, 2, 10, 100, 250])
def test_nodes_are_equally_spaced_in_log_noise_level(num_steps):
    scheduler = make_scheduler()
    timesteps = set_timesteps(scheduler, num_steps)
    expected = noise_levels(num_steps)
    np.testing.assert_allclose(scheduler.sigmas[:-1].double().numpy(), expected, rtol=1e-6)
    assert scheduler.sigmas[-1] == 0
    assert timesteps.dtype == torch.float32
    np.testing.assert_allclose(timesteps.double().numpy(), 2 / math.pi * np.arctan(expected), rtol=0, atol=2e-7)
    assert timesteps is scheduler.timesteps
    assert scheduler.begin_index == 0  # step() need not search for the time, which stalls a device


@pytest.mark.parametrize("sigma_min, sigma_max", [(0.03, 80.0), (0.5, 50.0), (0.3, 1.0)])
def test_other_ranges_are_as_exact(sigma_min, sigma_max):
    scheduler = make_scheduler(sigma_min, sigma_max)
    set_timesteps(scheduler, 20)
    np.testing.assert_allclose(
        scheduler.sigmas[:-1].double().numpy(), noise_levels(20, sigma_min, sigma_max), rtol=1e-5
    )


def test_times_are_unique_and_strictly_falling_for_any_number_of_steps():
    scheduler = make_scheduler()
    for num_steps in range(1, 251):
        timesteps = set_timesteps(scheduler, num_steps)
        assert len(timesteps) == num_steps
        assert (timesteps.diff() < 0).all()
        assert 0 < timesteps[-1] and timesteps[0] < 1


def test_the_table_does_not_depend_on_its_number_of_entries():
    coarse, fine = make_scheduler(num_train_timesteps=10), make_scheduler(num_train_timesteps=1000)
    torch.testing.assert_close(set_timesteps(coarse, 50), set_timesteps(fine, 50), rtol=0, atol=2e-6)


def test_configuration_survives_saving(tmp_path):
    scheduler = make_scheduler(0.1, 100.0, algorithm_type="sde-dpmsolver++")
    scheduler.save_pretrained(tmp_path)
    loaded = DPMSolverMultistepScheduler.from_pretrained(tmp_path)
    assert torch.equal(set_timesteps(loaded, 37), set_timesteps(scheduler, 37))
    assert torch.equal(loaded.sigmas, scheduler.sigmas)
    kept = ("algorithm_type", "solver_order", "solver_type", "prediction_type", "use_exponential_sigmas")
    assert [loaded.config[name] for name in kept] == [scheduler.config[name] for name in kept]


# --- the sampler


@pytest.mark.parametrize("mean, std", [(0.0, 0.5), (0.0, 1.7), (-2.0, 1.0)])
def test_the_exact_denoiser_of_a_gaussian_gives_the_closed_form(mean, std):
    noise = torch.linspace(-2, 2, 9)
    scheduler = make_scheduler(0.03, 500.0)
    result = sample(scheduler, gaussian_velocity(mean, std), noise, 250)
    a, s = 1 / math.sqrt(1 + 500.0**2), 500.0 / math.sqrt(1 + 500.0**2)
    expected = mean + std * (noise - a * mean) / math.sqrt(a**2 * std**2 + s**2)
    torch.testing.assert_close(result, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("order, ratio", [(1, 2), (2, 4)])
def test_the_error_falls_with_the_order_of_the_solver(order, ratio):
    """Measured at the noise level 0.03, before the jump to the clean data."""
    noise, std = torch.ones(1, dtype=torch.float64), 0.5
    level = 0.03
    a, s = 1 / math.sqrt(1 + level**2), level / math.sqrt(1 + level**2)
    a0, s0 = 1 / math.sqrt(1 + 20.0**2), 20.0 / math.sqrt(1 + 20.0**2)
    expected = math.sqrt((a**2 * std**2 + s**2) / (a0**2 * std**2 + s0**2))
    errors = []
    for num_steps in (40, 80):
        nodes = []
        scheduler = make_scheduler(level, 20.0, solver_order=order)
        sample(scheduler, gaussian_velocity(0.0, std), noise, num_steps, visit=lambda t, x, n=nodes: n.append(x))
        errors.append(abs(float(nodes[-2]) - expected))
    assert errors[1] > 0
    assert errors[0] / errors[1] == pytest.approx(ratio, rel=0.25)


def reference_dpm_solver_pp_2m(predict_velocity, noise, sigmas):
    """DPM-Solver++ (2M) of Lu et al. (2022), algorithm 2, stepping y = x / α in float64; returns x at every node."""
    y, previous, previous_step, nodes = noise.astype(np.float64) * math.sqrt(1 + sigmas[0] ** 2), None, None, []
    for i, level in enumerate(sigmas):
        a, s = 1 / math.sqrt(1 + level**2), level / math.sqrt(1 + level**2)
        nodes.append(a * y)
        data = a * (a * y) - s * predict_velocity(a * y, 2 / math.pi * math.atan(level))
        if i == len(sigmas) - 1:
            return [*nodes, data]
        step = math.log(level / sigmas[i + 1])
        mixed = data if previous is None else data + step / (2 * previous_step) * (data - previous)
        y = sigmas[i + 1] / level * y - math.expm1(-step) * mixed
        previous, previous_step = data, step


@pytest.mark.parametrize("num_steps", [1, 2, 10, 100])
def test_agrees_with_dpm_solver_pp_2m_written_out(num_steps):
    """S2. The sampler that the paper names, and no randomness in it."""

    def predict(x, t):  # smooth, and not linear in x
        xp = torch if isinstance(x, torch.Tensor) else np
        return xp.tanh(1.3 * x - 0.4) * math.cos(2.0 * float(t)) - 0.6 * xp.sin(3.0 * x) * float(t)

    noise = torch.randn(64, generator=torch.Generator().manual_seed(0))
    nodes = []
    sample(make_scheduler(), predict, noise, num_steps, visit=lambda t, x: nodes.append(x.numpy()))
    expected = reference_dpm_solver_pp_2m(predict, noise.numpy(), noise_levels(num_steps))
    np.testing.assert_allclose(np.stack(nodes), np.stack(expected), rtol=0, atol=2e-5)


def test_the_stochastic_sampler_gives_the_gaussian_and_leaves_its_noise_behind():
    noise = torch.randn(20000, generator=torch.Generator().manual_seed(0))
    scheduler = make_scheduler(0.03, 80.0, algorithm_type="sde-dpmsolver++")
    results = [
        sample(scheduler, gaussian_velocity(1.0, 0.5), noise, 100, torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(results[0], results[1])
    assert results[0].mean().item() == pytest.approx(1.0, abs=0.02)
    assert results[0].std().item() == pytest.approx(0.5, rel=0.03)
    correlation = torch.corrcoef(torch.stack([results[0], results[2]]))[0, 1]
    assert abs(correlation) < 0.05  # the deterministic sampler's would be 1


def test_a_scheduler_can_be_used_again():
    noise = torch.linspace(-1, 1, 5)
    scheduler = make_scheduler()
    first = sample(scheduler, gaussian_velocity(0.0, 0.5), noise, 7)
    sample(scheduler, gaussian_velocity(0.0, 2.0), noise, 12)
    assert torch.equal(sample(scheduler, gaussian_velocity(0.0, 0.5), noise, 7), first)


def test_the_cosine_scheduler_has_the_same_nodes():
    scheduler = CosineDPMSolverMultistepScheduler()
    torch.testing.assert_close(set_timesteps(scheduler, 20), set_timesteps(make_scheduler(), 20), rtol=0, atol=2e-7)


def test_the_cosine_scheduler_gives_the_gaussian():
    pytest.importorskip("torchsde")
    scheduler = CosineDPMSolverMultistepScheduler(sigma_min=0.03, sigma_max=80.0)
    noise = torch.randn(4000, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
    predict = gaussian_velocity(1.0, 0.5)
    result = sample(
        scheduler,
        lambda latents, t: predict(scheduler.scale_model_input(latents, t), t),
        noise,
        50,
        torch.Generator().manual_seed(0),
    )
    assert result.mean().item() == pytest.approx(1.0, abs=0.04)
    assert result.std().item() == pytest.approx(0.5, rel=0.06)


# --- what is rejected


def make_dpm_solver(**config):
    return DPMSolverMultistepScheduler(**{"prediction_type": "v_prediction", **config})


@pytest.mark.parametrize(
    "scheduler, message",
    [
        (FlowMatchEulerDiscreteScheduler(), "FlowMatchEulerDiscreteScheduler"),
        (DDIMScheduler(prediction_type="v_prediction"), "DDIMScheduler"),
        (EDMDPMSolverMultistepScheduler(prediction_type="v_prediction"), "EDMDPMSolverMultistepScheduler"),
        (make_dpm_solver(prediction_type="epsilon"), "epsilon"),
        (make_dpm_solver(prediction_type="sample"), "sample"),
        (CosineDPMSolverMultistepScheduler(prediction_type="epsilon"), "epsilon"),
        (make_dpm_solver(prediction_type="flow_prediction", use_flow_sigmas=True), "flow_prediction"),
        (make_dpm_solver(use_flow_sigmas=True), "use_flow_sigmas"),
        (make_dpm_solver(algorithm_type="sde-dpmsolver++", solver_order=3), "solver_order"),
        (PingPongScheduler("flow_prediction"), "flow_prediction"),
        (CosineDPMSolverMultistepScheduler(solver_order=3), "solver_order"),
        (CosineDPMSolverMultistepScheduler(sigma_data=0.5), "sigma_data"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_schedulers_of_another_meaning_are_rejected(scheduler, message):
    """S3, S4, S6."""
    with pytest.raises(ValueError, match=message):
        check_scheduler(scheduler)
    with pytest.raises(ValueError, match=message):
        set_timesteps(scheduler, 10)


@pytest.mark.parametrize("scheduler", [make_scheduler(), make_dpm_solver(), CosineDPMSolverMultistepScheduler()])
def test_schedulers_of_the_same_meaning_are_accepted(scheduler):
    check_scheduler(scheduler)
    timesteps = set_timesteps(scheduler, 10)
    torch.testing.assert_close(
        torch.tan(timesteps.double() * math.pi / 2), scheduler.sigmas[:-1].double(), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize(
    "scheduler, message",
    [
        (DPMSolverMultistepScheduler(prediction_type="flow_prediction"), "flow sigmas"),
        (FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), "stochastic_sampling"),
        (FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), "use_dynamic_shifting"),
        (make_scheduler(), "v_prediction"),
        (CosineDPMSolverMultistepScheduler(), "CosineDPMSolver"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_schedulers_that_are_wrong_for_rectified_flow_are_rejected(scheduler, message):
    with pytest.raises(ValueError, match=message):
        set_timesteps(scheduler, 4, prediction_type=FLOW_PREDICTION)


def flow_solvers():
    return [
        FlowMatchEulerDiscreteScheduler(),
        DPMSolverMultistepScheduler(prediction_type=FLOW_PREDICTION, use_flow_sigmas=True),
        PingPongScheduler(FLOW_PREDICTION),
    ]


@pytest.mark.parametrize("scheduler", flow_solvers(), ids=lambda scheduler: type(scheduler).__name__)
def test_rectified_flow_of_one_point_ends_in_it(scheduler):
    """The velocity towards data that are all equal is (x − z) / t: every sampler must return z."""
    generator, data = torch.Generator().manual_seed(0), torch.tensor([-1.5, 0.0, 2.0])
    latents = torch.randn(3, generator=generator)
    for t in set_timesteps(scheduler, 5, prediction_type=FLOW_PREDICTION):
        latents = scheduler.step((latents - data) / t, t, latents, generator=generator, return_dict=False)[0]
    torch.testing.assert_close(latents, data, rtol=0, atol=2e-3)


# --- custom times


@pytest.mark.parametrize("scheduler", [make_scheduler(), CosineDPMSolverMultistepScheduler(), PingPongScheduler()])
def test_the_steps_are_at_the_times_that_are_given(scheduler):
    times = [0.9, 0.5, 0.2]
    assert torch.equal(set_timesteps(scheduler, timesteps=times), scheduler.timesteps)
    torch.testing.assert_close(scheduler.timesteps, torch.tensor(times), rtol=0, atol=1e-6)


def test_its_own_times_given_to_a_solver_change_nothing():
    noise, scheduler = torch.linspace(-1, 1, 5), make_scheduler()
    times = set_timesteps(scheduler, 12).double()
    expected = sample(scheduler, gaussian_velocity(0.3, 0.5), noise, 12)
    again = sample(scheduler, gaussian_velocity(0.3, 0.5), noise, None, timesteps=times)
    torch.testing.assert_close(again, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "times, message",
    [
        ([0.5, 0.5], "falling"),
        ([0.2, 0.5], "falling"),
        ([0.5, 0.0], "falling"),
        ([1.0, 0.5], "0.9999"),
        ([], "falling"),
    ],
)
def test_times_that_a_solver_cannot_have_are_rejected(times, message):
    with pytest.raises(ValueError, match=message):
        set_timesteps(make_scheduler(), timesteps=times)


def test_steps_and_times_exclude_each_other():
    for arguments in ({}, {"num_inference_steps": 2, "timesteps": [0.9, 0.1]}):
        with pytest.raises(ValueError, match="either"):
            set_timesteps(make_scheduler(), **arguments)


def test_the_cosine_scheduler_has_no_noise_beyond_its_range():
    with pytest.raises(ValueError, match="0.3 to 500"):
        set_timesteps(CosineDPMSolverMultistepScheduler(), timesteps=[0.9, 0.1])


# --- by name


@pytest.mark.parametrize("start", [make_scheduler(0.1, 80.0), PingPongScheduler(), *flow_solvers()])
@pytest.mark.parametrize("name", SCHEDULER_NAMES)
def test_a_scheduler_by_name_is_one_for_the_same_model(start, name):
    prediction_type = start.config.get("prediction_type", FLOW_PREDICTION)
    scheduler = scheduler_by_name(name, start)
    times = set_timesteps(scheduler, 6, prediction_type=prediction_type)
    assert len(times) == 6
    expected = {
        "dpmsolver++": ("dpmsolver++", 2),
        "ddim": ("dpmsolver++", 1),
        "sde-dpmsolver++": ("sde-dpmsolver++", 2),
    }
    expected |= {"sde-dpmsolver++-3m": ("sde-dpmsolver++", 3), "ping-pong": (None, None)}
    config = scheduler.config
    assert (config.get("algorithm_type"), config.get("solver_order")) == expected[name]
    if start.config.get("use_exponential_sigmas") and name != "ping-pong":
        assert scheduler.sigmas[0].item() == pytest.approx(80, rel=1e-4)


@pytest.mark.parametrize(
    "solver", [make_scheduler(0.6, 80.0), CosineDPMSolverMultistepScheduler(sigma_min=0.6, sigma_max=500)]
)
@pytest.mark.parametrize("num_steps", [2, 8])
def test_a_student_is_not_sampled_before_its_teachers_last_time(solver, num_steps):
    last = 2 / math.pi * math.atan(0.6)
    assert set_timesteps(solver, 20)[-1].item() == pytest.approx(last, abs=1e-5)
    times = set_timesteps(scheduler_by_name("ping-pong", solver), num_steps)
    assert times[-1].item() - (1 - last) / num_steps == pytest.approx(last, abs=1e-5)


def test_another_name_is_rejected():
    with pytest.raises(ValueError, match="euler"):
        scheduler_by_name("euler", make_scheduler())


@pytest.mark.parametrize("num_steps", [0, -1])
def test_too_few_steps_are_rejected(num_steps):
    with pytest.raises(ValueError, match=str(num_steps)):
        set_timesteps(make_scheduler(), num_steps)


def test_more_steps_than_noise_levels_are_rejected():
    with pytest.raises(ValueError, match="50"):
        set_timesteps(make_dpm_solver(num_train_timesteps=20), 50)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"sigma_min": 0.02}, "0.02"),
        ({"sigma_min": 3.0, "sigma_max": 2.0}, "3.0 and 2.0"),
        ({"sigma_min": math.nan}, "nan"),
        ({"sigma_max": math.inf}, "inf"),
        ({"num_train_timesteps": 1}, "got 1"),
        ({"algorithm_type": "ddim"}, "ddim"),
        ({"solver_order": 4}, "got 4"),
    ],
)
def test_schedules_out_of_range_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_scheduler(**arguments)
