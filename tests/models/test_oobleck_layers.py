import math

import pytest
import torch
from common import relative_error

from stable_longform.models.oobleck_layers import (
    OobleckDecoderBlock,
    OobleckEncoderBlock,
    Snake1d,
    WeightNormConv1d,
    WeightNormConvTranspose1d,
    fuse_weight_norm,
    is_weight_norm_fused,
    unfuse_weight_norm,
    weight_norm_fused,
)


def test_snake_closed_form():
    hidden_states = torch.linspace(-3, 3, 60).reshape(1, 3, 20)
    snake = Snake1d(3)
    torch.testing.assert_close(snake(hidden_states), hidden_states + hidden_states.sin().square())
    with torch.no_grad():
        snake.alpha.fill_(math.log(2.0))
        snake.beta.fill_(math.log(4.0))
    torch.testing.assert_close(snake(hidden_states), hidden_states + (2 * hidden_states).sin().square() / 4)


@pytest.mark.parametrize("conv_class", [WeightNormConv1d, WeightNormConvTranspose1d])
def test_weight_norm(conv_class):
    """At first the layer is its plain counterpart; the length of `weight_v` is void, that of `weight_g` the gain."""
    torch.manual_seed(0)
    conv = conv_class(3, 5, kernel_size=4, stride=2, padding=1, bias=False)
    torch.manual_seed(0)
    plain = conv_class.__mro__[1](3, 5, kernel_size=4, stride=2, padding=1, bias=False)
    hidden_states = torch.randn(2, 3, 10)
    output = conv(hidden_states)
    torch.testing.assert_close(output, plain(hidden_states))
    assert conv.weight_g.shape == (conv.weight_v.shape[0], 1, 1)
    with torch.no_grad():
        conv.weight_v.mul_(torch.rand(conv.weight_v.shape[0], 1, 1) + 0.5)
        torch.testing.assert_close(conv(hidden_states), output)
        conv.weight_g.mul_(3.0)
        torch.testing.assert_close(conv(hidden_states), 3 * output)


def test_without_gradients_snake_needs_one_new_tensor_and_changes_no_input():
    torch.manual_seed(0)
    snake = Snake1d(4)
    torch.nn.init.normal_(snake.alpha)
    torch.nn.init.normal_(snake.beta)
    hidden_states = torch.randn(2, 4, 50)
    kept = hidden_states.clone()
    expected = snake(hidden_states)
    assert expected.requires_grad
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        output = snake(hidden_states)
    assert torch.equal(output, expected) and torch.equal(hidden_states, kept)
    allocated = sum(event.self_device_memory_usage + event.self_cpu_memory_usage for event in profile.key_averages())
    assert hidden_states.nbytes <= allocated < 2 * hidden_states.nbytes


@pytest.mark.parametrize("make_block", [OobleckEncoderBlock, OobleckDecoderBlock])
def test_blocks_are_the_same_with_and_without_gradients(make_block):
    torch.manual_seed(0)
    block = make_block(4, 6, 3)
    hidden_states = torch.randn(2, 4, 33)
    kept = hidden_states.clone()
    expected = block(hidden_states)
    with torch.no_grad():
        assert torch.equal(block(hidden_states), expected)
        with weight_norm_fused(block):
            assert torch.equal(block(hidden_states), expected)
    assert torch.equal(hidden_states, kept)


@pytest.mark.parametrize("stride", [2, 3, 4, 7, 8])
def test_blocks_know_their_inputs(stride):
    """The inputs that a gradient reaches are those that the step names."""
    for block in (OobleckEncoderBlock(2, 2, stride), OobleckDecoderBlock(2, 2, stride)):
        block.double()
        step = block.step()
        length = 200 * stride if step.up == 1 else 200
        hidden_states = torch.randn(1, 2, length, dtype=torch.float64, requires_grad=True)
        output = block(hidden_states)
        assert output.shape[-1] == length * step.up // step.down
        middle = output.shape[-1] // 2
        for start, stop in ((middle, middle + 1), (middle + 1, middle + 4), (middle - 5, middle + 2 * stride)):
            (gradient,) = torch.autograd.grad(output[..., start:stop].sum(), hidden_states, retain_graph=True)
            positions = gradient.abs().sum(dim=(0, 1)).nonzero()
            assert (int(positions[0]), int(positions[-1]) + 1) == step.inputs(start, stop)


def test_fused_weights_are_used_without_gradients_only():
    torch.manual_seed(0)
    block = OobleckDecoderBlock(4, 4, 2)
    hidden_states = torch.randn(1, 4, 10)
    expected = block(hidden_states).detach()
    keys = list(block.state_dict())
    fuse_weight_norm(block)
    assert is_weight_norm_fused(block) and list(block.state_dict()) == keys
    with torch.no_grad():
        assert torch.equal(block(hidden_states), expected)
        block.conv_t1.weight_g.mul_(2)
        assert torch.equal(block(hidden_states), expected)
    assert relative_error(block(hidden_states), expected) > 0.1
    block(hidden_states).sum().backward()
    assert block.conv_t1.weight_g.grad.abs().max() > 0
    unfuse_weight_norm(block)
    assert not is_weight_norm_fused(block)
    with torch.no_grad():
        assert relative_error(block(hidden_states), expected) > 0.1
    block.double()
    fuse_weight_norm(block)
    block.float()
    assert block.conv_t1.folded_weight.dtype == torch.float32


def test_the_context_leaves_fused_weights_alone():
    block = OobleckEncoderBlock(2, 2, 2)
    with weight_norm_fused(block):
        assert is_weight_norm_fused(block)
    assert not is_weight_norm_fused(block)
    fuse_weight_norm(block)
    with weight_norm_fused(block):
        pass
    assert is_weight_norm_fused(block)
