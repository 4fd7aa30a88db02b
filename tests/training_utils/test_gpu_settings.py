"""What is set for GPUs, as far as a CPU can tell, and compilation."""

import pytest
import torch
from tiny_training import DIT

from stable_longform.models.transformer_dit_1d import DiTTransformer1D
from stable_longform.training_utils.gpu_settings import compile_networks, is_fused, set_kernels
from stable_longform.training_utils.run_options import RunOptions


@pytest.fixture(autouse=True)
def backends():
    """Puts torch's settings back."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before


@pytest.mark.parametrize("choice", [False, True])
def test_kernels_are_those_of_the_options(choice):
    set_kernels(RunOptions(allow_tf32=choice, cudnn_benchmark=choice))
    assert torch.backends.cuda.matmul.allow_tf32 is choice and torch.backends.cudnn.allow_tf32 is choice
    assert torch.backends.cudnn.benchmark is choice
    assert torch.get_float32_matmul_precision() == ("high" if choice else "highest")


def test_the_optimizer_is_fused_on_gpus_only():
    assert is_fused(RunOptions(), torch.device("cuda")) is True
    assert is_fused(RunOptions(fused_optimizer=False), torch.device("cuda")) is None
    assert is_fused(RunOptions(), torch.device("cpu")) is None
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], fused=is_fused(RunOptions(), torch.device("cpu")))


def test_compiled_networks_keep_names_and_results():
    """With dynamo's own tracing, but without the code that takes a minute to make."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GELU())
    x, names = torch.randn(2, 3), list(network.state_dict())
    expected = network(x)
    compile_networks(RunOptions(compile_backend="eager"), network)
    assert torch.equal(network(x), expected) and list(network.state_dict()) == names
    assert network._compiled_call_impl is not None
    untouched = torch.nn.Linear(3, 4)
    compile_networks(RunOptions(), untouched)
    assert untouched._compiled_call_impl is None


def test_of_a_transformer_only_the_repeated_blocks_are_compiled():
    torch.manual_seed(0)
    transformer = DiTTransformer1D(**DIT["model"])
    names = list(transformer.state_dict())
    compile_networks(RunOptions(compile_backend="eager"), transformer)
    assert transformer._compiled_call_impl is None
    assert all(block._compiled_call_impl is not None for block in transformer.transformer_blocks)
    assert list(transformer.state_dict()) == names


def test_a_backend_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="compile_backend must be null or one of .*inductor.*, got 'fast'"):
        RunOptions(compile_backend="fast")
