"""The moving average: diffusers' own, whole weights, and shards of FSDP2."""

import copy

import in_processes
import pytest
import torch
from launch import call_in_processes

from stable_longform.training_utils.ema import EMAModel


def test_shards_are_averaged_like_whole_weights():
    call_in_processes(2, in_processes.average_sharded_weights)


@pytest.mark.parametrize(
    "updates, decay", [(1, 0.0), (2, 0.0), (3, 0.405), (100, 0.968), (1000, 0.9944), (250_000, 0.9999)]
)
def test_decay_is_that_of_the_papers_code(updates, decay):
    average = EMAModel([torch.nn.Parameter(torch.zeros(1))])
    assert average.get_decay(updates) == pytest.approx(decay, abs=1e-3)


def test_swapped_weights_come_back_after_an_error():
    model = torch.nn.Linear(2, 2)
    average = EMAModel(model.parameters(), 0.5)
    before = copy.deepcopy(model.state_dict())
    average.shadow_params[0].fill_(7)
    with pytest.raises(RuntimeError, match="stop"), average.swapped(model.parameters()):
        assert (model.weight == 7).all()
        raise RuntimeError("stop")
    torch.testing.assert_close(model.state_dict(), before)


def test_weights_in_bfloat16_are_averaged_in_float32():
    """A change of a 2^-12th of the value would be lost in bfloat16."""
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    average = EMAModel([weight], 0.9)
    with torch.no_grad():
        weight.fill_(1 + 2**-7)
    for _ in range(3):
        average.step([weight])
    average.shadow_params[0].fill_(1)
    average.optimization_step = 10**6
    average.step([weight])
    assert average.shadow_params[0].item() == pytest.approx(1 + 0.1 * 2**-7, abs=1e-6)
