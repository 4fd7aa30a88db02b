import pytest
import torch
import torch.nn.functional as F
from common import relative_error
from torch import nn

from stable_longform.models import onednn
from stable_longform.models.onednn import OneDnnLinear, fast_linear

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    monkeypatch.setattr(onednn, "MIN_PRODUCTS", 1)


def operations(function, *args):
    """The result, and the names of the operations that made it."""
    with torch.profiler.profile() as profile:
        result = function(*args)
    return result, {event.key for event in profile.key_averages()}


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
def test_large_linear_maps_run_in_onednn_and_are_the_same(bias):
    torch.manual_seed(0)
    linear = nn.Linear(12, 7, bias=bias)
    hidden_states = torch.randn(2, 5, 12)
    expected, names = operations(linear, hidden_states)
    assert "mkldnn::_linear_pointwise" not in names
    with OneDnnLinear():
        output, names = operations(linear, hidden_states)
    assert "mkldnn::_linear_pointwise" in names
    assert output.shape == expected.shape and relative_error(output, expected) < 1e-6


@torch.no_grad()
def test_others_are_left_alone(monkeypatch):
    linear, hidden_states = nn.Linear(12, 7), torch.randn(2, 5, 12)

    def names_of(linear, hidden_states):
        with OneDnnLinear():
            return operations(linear, hidden_states)[1]

    used = "mkldnn::_linear_pointwise"
    assert used not in names_of(nn.Linear(12, 7).bfloat16(), hidden_states.bfloat16())
    assert used not in names_of(nn.Linear(12, 7).double(), hidden_states.double())
    assert used not in names_of(lambda x: F.linear(x, weight=linear.weight), hidden_states)
    with torch.autocast("cpu", torch.bfloat16):
        assert used not in names_of(linear, hidden_states)
    with torch.enable_grad():
        assert used not in names_of(linear, hidden_states)
    monkeypatch.setattr(onednn, "MIN_PRODUCTS", 2 * 5 * 12 * 7 + 1)
    assert used not in names_of(linear, hidden_states)


def test_only_modules_on_a_cpu_that_are_not_compiled():
    model = nn.Sequential(nn.Linear(2, 2))
    assert isinstance(fast_linear(model, torch.device("cpu")), OneDnnLinear)
    assert not isinstance(fast_linear(model, torch.device("cuda")), OneDnnLinear)
    model[0].compile(backend="eager")
    assert not isinstance(fast_linear(model, torch.device("cpu")), OneDnnLinear)
