"""Layers in channels-last format against the layers themselves."""

import copy

import pytest
import torch
from common import randomize_weights, relative_error
from torch import nn

from stable_longform.models.acceleration.channels_last_layers import ROW, ChannelsLastLayers, two_taps
from stable_longform.models.oobleck_layers import OobleckDecoderBlock, OobleckEncoderBlock, Snake1d


@torch.no_grad()
@pytest.mark.parametrize("dtype, error", [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("block_class", [OobleckEncoderBlock, OobleckDecoderBlock])
def test_blocks_are_the_same(block_class, stride, dtype, error):
    block = randomize_weights(block_class(4, 6, stride)).to(dtype)
    hidden_states = torch.randn(1, 4, 33 * stride, dtype=dtype)
    kept, weights = hidden_states.clone(), copy.deepcopy(block.state_dict())
    expected = block(hidden_states)
    layers = ChannelsLastLayers(block)
    run = layers.encoder_block if block_class is OobleckEncoderBlock else layers.decoder_block
    output = layers.leave(run(block, layers.enter(hidden_states)))
    assert output.shape == expected.shape and output.dtype == dtype
    assert relative_error(output, expected) < error
    assert torch.equal(hidden_states, kept)
    assert all(torch.equal(value, weights[name]) for name, value in block.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("block_class", [OobleckEncoderBlock, OobleckDecoderBlock])
def test_convolutions_in_bfloat16_leave_the_rest_in_float32(block_class):
    block = randomize_weights(block_class(16, 16, 2))
    hidden_states = torch.randn(1, 16, 200)
    layers = ChannelsLastLayers(block, torch.bfloat16)
    run = layers.encoder_block if block_class is OobleckEncoderBlock else layers.decoder_block
    output = layers.leave(run(block, layers.enter(hidden_states)))
    assert output.dtype == torch.float32
    assert 1e-4 < relative_error(output, block(hidden_states)) < 0.01
    snake = randomize_weights(Snake1d(16))
    only_snake = ChannelsLastLayers(snake, torch.bfloat16)
    output = only_snake.leave(only_snake.snake(snake, only_snake.enter(hidden_states)))
    assert relative_error(output, snake(hidden_states)) < 1e-6


@torch.no_grad()
@pytest.mark.parametrize("length", [1, ROW // 16 - 1, ROW // 16, 3 * ROW // 16 + 5])
@pytest.mark.parametrize("channels", [1, 16, 24])
def test_snake_of_any_length(channels, length):
    """Whole rows of constants and what remains; arguments far outside of one period."""
    snake = randomize_weights(Snake1d(channels))
    hidden_states = 50 * torch.randn(1, channels, length)
    layers = ChannelsLastLayers(snake)
    output = layers.leave(layers.snake(snake, layers.enter(hidden_states)))
    assert relative_error(output, snake(hidden_states)) < 1e-6


@torch.no_grad()
def test_a_transposed_convolution_is_one_of_two_taps():
    """Output s·j + r adds tap r of input j and tap s + r of input j - 1."""
    stride = 3
    reference = nn.ConvTranspose1d(2, 5, 2 * stride, stride, bias=False, dtype=torch.float64)
    hidden_states = torch.randn(1, 2, 7, dtype=torch.float64)
    weight = two_taps(reference.weight, stride)
    phases = nn.functional.conv1d(hidden_states, weight, padding=1)
    output = phases.unflatten(1, (stride, 5)).permute(0, 2, 3, 1).flatten(2)
    assert torch.allclose(output, reference(hidden_states), atol=1e-14)
