import math

import pytest
import torch

from stable_longform.noise_schedule import FLOW_PREDICTION, PREDICTION_TYPES, amplitudes
from stable_longform.schedulers.scheduling_ping_pong import PingPongScheduler


def gaussian_jump(mean: float, std: float, prediction_type: str):
    """The velocity of a network that jumps from (x_t, t) to the end of the exact flow of data N(mean, std²)."""

    def predict(x, t):
        a, s = amplitudes(t, prediction_type)
        data = mean + std * (x - a * mean) / torch.sqrt(a**2 * std**2 + s**2)
        return ((x if prediction_type == FLOW_PREDICTION else a * x) - data) / s

    return predict


def sample(scheduler, predict, latents, generator=None, **steps):
    scheduler.set_timesteps(**steps)
    for t in scheduler.timesteps:
        latents = scheduler.step(predict(latents, t), t, latents, generator=generator, return_dict=False)[0]
    return latents


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("num_inference_steps", [1, 2, 4, 8])
def test_the_exact_flow_of_a_gaussian_gives_the_gaussian_in_any_number_of_steps(prediction_type, num_inference_steps):
    noise = torch.randn(20000, generator=torch.Generator().manual_seed(0))
    predict, scheduler = gaussian_jump(1.0, 0.5, prediction_type), PingPongScheduler(prediction_type)
    first, second = (
        sample(scheduler, predict, noise, torch.Generator().manual_seed(s), num_inference_steps=num_inference_steps)
        for s in (1, 2)
    )
    assert first.mean().item() == pytest.approx(1.0, abs=0.02)
    assert first.std().item() == pytest.approx(0.5, rel=0.02)
    correlation = torch.corrcoef(torch.stack([first, second]))[0, 1].item()
    assert correlation == pytest.approx(1.0) if num_inference_steps == 1 else correlation < 0.999


def test_one_step_is_the_jump_itself_and_asks_for_no_noise():
    noise = torch.linspace(-2, 2, 9)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    result = sample(PingPongScheduler(), gaussian_jump(-1.0, 0.3, "v_prediction"), noise, generator, timesteps=[1.0])
    torch.testing.assert_close(result, -1.0 + 0.3 * noise)
    assert torch.equal(generator.get_state(), before)


def test_an_items_noise_depends_on_its_own_generator_only():
    def run(seeds):
        latents = torch.stack([torch.full((3, 5), float(seed)) for seed in seeds])
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        jump = gaussian_jump(0.5, 0.8, "v_prediction")
        return sample(PingPongScheduler(), jump, latents, generators, num_inference_steps=4)

    together = run([1, 2, 3])
    assert all(torch.equal(run([seed])[0], together[seed - 1]) for seed in (1, 2, 3))
    assert torch.equal(run([3, 1]), together[[2, 0]])


@pytest.mark.parametrize("end", [0.0, 0.2])
def test_linear_times_are_equal_steps_from_one(end):
    scheduler = PingPongScheduler(timestep_end=end)
    scheduler.set_timesteps(8)
    torch.testing.assert_close(scheduler.timesteps, end + (1 - end) * torch.arange(8, 0, -1) / 8)


def test_log_snr_times_are_those_of_stable_audio_tools():
    """Written out: a sigmoid of equal steps from −6 to 2, whose first is replaced by 1 and whose last is not used."""
    scheduler = PingPongScheduler(FLOW_PREDICTION, timestep_spacing="log_snr")
    for num_steps in (1, 4, 8):
        scheduler.set_timesteps(num_steps)
        expected = [1.0, *(1 / (1 + math.exp(-6 + 8 * i / num_steps)) for i in range(1, num_steps))]
        torch.testing.assert_close(scheduler.timesteps, torch.tensor(expected))


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_log_snr_times_are_equal_steps_of_the_logarithm(prediction_type):
    scheduler = PingPongScheduler(prediction_type, "log_snr", -5.0, 1.0)
    scheduler.set_timesteps(6)
    a, s = amplitudes(scheduler.timesteps[1:].double(), prediction_type)
    torch.testing.assert_close(torch.log(a / s), torch.arange(-4.0, 1.0, dtype=torch.float64), rtol=0, atol=1e-4)


def test_it_can_begin_later_and_finds_a_time():
    scheduler, x = PingPongScheduler(), torch.ones(1, 2)
    scheduler.set_timesteps(4)
    scheduler.set_begin_index(3)
    assert torch.equal(scheduler.step(x, 0.0, x, return_dict=False)[0], _data(x, 0.25))
    fresh = PingPongScheduler()
    fresh.set_timesteps(4)
    fresh.begin_index = None
    assert torch.equal(fresh.step(x, fresh.timesteps[3], x).prev_sample, _data(x, 0.25))
    fresh.step_index = None
    with pytest.raises(ValueError, match=r"0\.3"):
        fresh.step(x, 0.3, x)


def _data(x: torch.Tensor, t: float) -> torch.Tensor:
    angle = torch.tensor(t) * math.pi / 2
    return torch.cos(angle) * x - torch.sin(angle) * x


def test_configuration_survives_saving(tmp_path):
    PingPongScheduler(FLOW_PREDICTION, "log_snr", -4.0, 3.0).save_pretrained(tmp_path)
    config = PingPongScheduler.from_pretrained(tmp_path).config
    assert (config.prediction_type, config.timestep_spacing) == (FLOW_PREDICTION, "log_snr")
    assert (config.log_snr_start, config.log_snr_end) == (-4.0, 3.0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"prediction_type": "epsilon"}, "epsilon"),
        ({"timestep_spacing": "trailing"}, "trailing"),
        ({"log_snr_start": 2.0}, "2.0"),
        ({"timestep_end": 1.0}, r"\[0, 1\), got 1.0"),
        ({"timestep_end": math.nan}, "nan"),
    ],
)
def test_settings_out_of_range_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        PingPongScheduler(**arguments)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "either"),
        ({"num_inference_steps": 0}, "got 0"),
        ({"timesteps": [1.1, 0.5]}, "1.1"),
        ({"timesteps": []}, "0"),
    ],
)
def test_steps_out_of_range_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        PingPongScheduler().set_timesteps(**arguments)
    with pytest.raises(ValueError, match="set_timesteps"):
        PingPongScheduler().step(torch.zeros(1), 1.0, torch.zeros(1))
