import math

import pytest
import torch
from common import check_determinism, check_half_precision, check_save_load, randomize_weights
from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel

from stable_longform.models.timing_conditioner import TimingConditioner


@pytest.fixture
def conditioner():
    torch.manual_seed(0)
    return randomize_weights(TimingConditioner(conditioning_dim=12, internal_dim=16))


@pytest.fixture
def timing():
    return {"seconds_start": torch.tensor([0.0, 17.25, 512.0]), "seconds_total": torch.tensor([285.0, 190.5, 0.0])}


def test_default_size():
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in TimingConditioner().parameters()) == 396_544


def test_closed_form(conditioner, timing):
    state = {name: value.double() for name, value in conditioner.state_dict().items()}
    output = conditioner(**timing)
    for prefix, seconds, embedding in [
        ("start_number_conditioner", timing["seconds_start"], output.seconds_start_hidden_states),
        ("end_number_conditioner", timing["seconds_total"], output.seconds_total_hidden_states),
    ]:
        prefix += ".time_positional_embedding."
        numbers = seconds.double()[:, None] / 512
        angles = 2 * math.pi * numbers * state[prefix + "0.weights"]
        features = torch.cat([numbers, torch.sin(angles), torch.cos(angles)], dim=-1)
        expected = features @ state[prefix + "1.weight"].T + state[prefix + "1.bias"]
        torch.testing.assert_close(embedding[:, 0].double(), expected, rtol=1e-5, atol=1e-5)


def test_equals_diffusers_with_the_same_weights(timing):
    torch.manual_seed(0)
    reference = randomize_weights(StableAudioProjectionModel(20, 20, 0, 512))
    ours = TimingConditioner(conditioning_dim=20)
    number_weights = {k: v for k, v in reference.state_dict().items() if not k.startswith("text_projection")}
    assert list(ours.state_dict()) == list(number_weights)
    ours.load_state_dict(number_weights)
    expected = reference(start_seconds=timing["seconds_start"], end_seconds=timing["seconds_total"])
    output = ours(**timing)
    torch.testing.assert_close(output.seconds_start_hidden_states, expected.seconds_start_hidden_states)
    torch.testing.assert_close(output.seconds_total_hidden_states, expected.seconds_end_hidden_states)


def test_range_is_configurable():
    """Only the place within the range matters."""
    torch.manual_seed(0)
    wide = TimingConditioner(conditioning_dim=4, internal_dim=8)
    narrow = TimingConditioner(conditioning_dim=4, internal_dim=8, min_value=10, max_value=26)
    narrow.load_state_dict(wide.state_dict())
    seconds = torch.tensor([0.0, 128.0, 512.0])
    expected = wide(seconds, seconds)
    output = narrow(10 + seconds / 32, 10 + seconds / 32)
    torch.testing.assert_close(output.global_hidden_states, expected.global_hidden_states)


def test_tokens_and_global_vector(conditioner, timing):
    output = conditioner(**timing)
    start, total = output.seconds_start_hidden_states, output.seconds_total_hidden_states
    assert start.shape == total.shape == (3, 1, 12)
    assert output.encoder_hidden_states.shape == (3, 2, 12)
    assert torch.equal(output.encoder_hidden_states[:, 0], start[:, 0])
    assert torch.equal(output.encoder_hidden_states[:, 1], total[:, 0])
    assert output.global_hidden_states.shape == (3, 1, 24)
    assert torch.equal(output.global_hidden_states[:, 0], torch.cat([start, total], dim=-1)[:, 0])
    assert torch.equal(conditioner(**timing, return_dict=False)[1], total)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.int32])
def test_other_number_types(conditioner, dtype):
    start, total = torch.tensor([0.0, 30.0]), torch.tensor([300.0, 257.0])
    expected = conditioner(start, total).global_hidden_states
    assert torch.equal(conditioner(start.to(dtype), total.to(dtype)).global_hidden_states, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_tells_neighbouring_seconds_apart(conditioner, dtype):
    """T2. In bfloat16 itself 300 and 301 seconds are the same number, and in float16 300.0 and 300.1 are."""
    linear = conditioner.to(dtype).end_number_conditioner.time_positional_embedding[1]
    received = []
    linear.register_forward_pre_hook(lambda module, args: received.append(args[0]))
    seconds = torch.tensor([300.0, 300.1, 301.0])
    conditioner(seconds, seconds)
    weights = conditioner.end_number_conditioner.time_positional_embedding[0].weights.double()
    angles = 2 * math.pi * (seconds.double()[:, None] / 512) * weights
    expected = torch.cat([seconds.double()[:, None] / 512, angles.sin(), angles.cos()], dim=-1)
    torch.testing.assert_close(received[0].double(), expected.to(dtype).double(), rtol=0, atol=2**-8)
    assert not torch.equal(received[0][0], received[0][2])


@pytest.mark.parametrize("name", ["seconds_start", "seconds_total"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.tensor([0.0, -0.5, 3.0]), r"\[0, 512\] seconds, got \[-0.5\]"),
        (torch.tensor([0.0, 512.5, 600.0]), r"got \[512.5, 600.0\]"),
        (torch.tensor([0.0, float("nan"), 3.0]), r"got \[nan\]"),
        (torch.tensor([0.0, float("inf"), 3.0]), r"got \[inf\]"),
        (torch.tensor([600, 0, 0]), r"got \[600\]"),
        (torch.zeros(3, 1), r"shape \(3, 1\)"),
        (torch.tensor(3.0), r"shape \(\)"),
        (torch.tensor([True, False, True]), "torch.bool"),
        (torch.zeros(3, dtype=torch.complex64), "complex"),
        (torch.zeros(2), "same number of values"),
    ],
)
def test_rejects(conditioner, timing, name, value, message):
    with pytest.raises(ValueError, match=message):
        conditioner(**(timing | {name: value}))


@pytest.mark.parametrize("config", [{"internal_dim": 7}, {"internal_dim": 0}, {"min_value": 5, "max_value": 5}])
def test_rejects_config(config):
    with pytest.raises(ValueError, match="must be"):
        TimingConditioner(**config)


def test_model_checks(conditioner, timing, tmp_path):
    check_save_load(conditioner, timing, tmp_path)
    check_determinism(conditioner, timing)
    check_half_precision(conditioner, timing, tolerance=0.02, keep_float32=("seconds_start", "seconds_total"))


def test_a_model_without_start_has_one_vector_and_refuses_starts():
    model = TimingConditioner(conditioning_dim=6, internal_dim=4, use_seconds_start=False)
    assert not any(name.startswith("start") for name in model.state_dict())
    output = model(torch.zeros(2), torch.tensor([3.0, 4.0]))
    assert output.encoder_hidden_states.shape == output.global_hidden_states.shape == (2, 1, 6)
    assert torch.equal(output.encoder_hidden_states, output.seconds_total_hidden_states)
    assert len(model(torch.zeros(2), torch.ones(2), return_dict=False)) == 1
    with pytest.raises(ValueError, match=r"has no condition for the start: seconds_start must be 0, got \[0.0, 1.0\]"):
        model(torch.tensor([0.0, 1.0]), torch.ones(2))


def test_text_of_another_width_is_projected_and_of_the_same_width_is_not():
    features = torch.randn(2, 3, 5)
    assert TimingConditioner(conditioning_dim=5, text_encoder_dim=5).project_text(features) is features
    model = TimingConditioner(conditioning_dim=6, text_encoder_dim=5)
    expected = features @ model.text_projection.weight.T + model.text_projection.bias
    torch.testing.assert_close(model.project_text(features), expected)
