import copy

import pytest
import torch
from common import randomize_weights

from stable_longform.models.acceleration.folded_layers import FoldedLayers
from stable_longform.models.oobleck_layers import OobleckDecoderBlock, OobleckEncoderBlock, Snake1d


@torch.no_grad()
@pytest.mark.parametrize("block_class", [OobleckEncoderBlock, OobleckDecoderBlock])
def test_blocks_are_the_same_to_the_last_bit(block_class):
    block = randomize_weights(block_class(4, 6, 3))
    hidden_states = torch.randn(2, 4, 33)
    kept, weights = hidden_states.clone(), copy.deepcopy(block.state_dict())
    expected = block(hidden_states)
    layers = FoldedLayers(block)
    run = layers.encoder_block if block_class is OobleckEncoderBlock else layers.decoder_block
    assert torch.equal(run(block, hidden_states), expected)
    assert torch.equal(hidden_states, kept)
    assert all(torch.equal(value, weights[name]) for name, value in block.state_dict().items())
    assert list(block.state_dict()) == list(weights)


@torch.no_grad()
def test_snake_needs_one_new_tensor():
    snake = randomize_weights(Snake1d(4))
    hidden_states = torch.randn(2, 4, 50)
    with torch.profiler.profile(profile_memory=True) as profile:
        output = FoldedLayers(snake).snake(snake, hidden_states)
    allocated = sum(event.self_device_memory_usage + event.self_cpu_memory_usage for event in profile.key_averages())
    assert torch.equal(output, snake(hidden_states))
    assert hidden_states.nbytes <= allocated < 2 * hidden_states.nbytes
