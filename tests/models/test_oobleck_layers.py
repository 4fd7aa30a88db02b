import math

import pytest
import torch

from stable_longform.models.oobleck_layers import (
    OobleckDecoder,
    OobleckDecoderBlock,
    OobleckEncoder,
    OobleckEncoderBlock,
    OobleckResidualUnit,
    Snake1d,
    WeightNormConv1d,
    WeightNormConvTranspose1d,
)


def test_snake_closed_form():
    hidden_states = torch.linspace(-3, 3, 60).reshape(1, 3, 20)
    kept = hidden_states.clone()
    snake = Snake1d(3)
    torch.testing.assert_close(snake(hidden_states), hidden_states + hidden_states.sin().square())
    with torch.no_grad():
        snake.alpha.fill_(math.log(2.0))
        snake.beta.fill_(math.log(4.0))
    torch.testing.assert_close(snake(hidden_states), hidden_states + (2 * hidden_states).sin().square() / 4)
    assert torch.equal(hidden_states, kept)


def test_snake_has_a_slope_and_a_size_for_each_channel():
    snake = Snake1d(2)
    with torch.no_grad():
        snake.alpha.copy_(torch.tensor([0.0, math.log(3.0)])[None, :, None])
        snake.beta.copy_(torch.tensor([math.log(5.0), 0.0])[None, :, None])
    output = snake(torch.full((1, 2, 1), 0.7)).flatten()
    expected = torch.tensor([0.7 + math.sin(0.7) ** 2 / 5, 0.7 + math.sin(2.1) ** 2])
    torch.testing.assert_close(output, expected)


def test_snake_has_the_gradient_of_its_formula():
    """Against finite differences, and against what autograd makes of the formula."""
    generator = torch.Generator().manual_seed(0)
    hidden_states = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    snake = Snake1d(3).double()
    with torch.no_grad():
        for parameter in snake.parameters():
            parameter.normal_(generator=generator)
    parameters = dict(snake.named_parameters())

    def by_formula(x, alpha, beta):
        return x + (alpha.exp() * x).sin().square() / (beta.exp() + 1e-9)

    def run(x, alpha, beta):
        return torch.func.functional_call(snake, {"alpha": alpha, "beta": beta}, x)

    arguments = (hidden_states, parameters["alpha"], parameters["beta"])
    assert torch.autograd.gradcheck(run, arguments)
    weights = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    for ours, expected in zip(
        torch.autograd.grad((weights * run(*arguments)).sum(), arguments),
        torch.autograd.grad((weights * by_formula(*arguments)).sum(), arguments),
        strict=True,
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-9)


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


def test_residual_unit_adds_to_its_input():
    unit = OobleckResidualUnit(4, dilation=3)
    hidden_states = torch.randn(1, 4, 30)
    with torch.no_grad():
        unit.conv2.weight_g.zero_()
        unit.conv2.bias.fill_(0.25)
    assert torch.equal(unit(hidden_states), hidden_states + 0.25)


def reached_inputs(layer, hidden_states, start, stop):
    """The interval of inputs that the gradient of some outputs reaches."""
    (gradient,) = torch.autograd.grad(layer(hidden_states)[..., start:stop].sum(), hidden_states)
    positions = gradient.abs().sum(dim=(0, 1)).nonzero()
    return int(positions[0]), int(positions[-1]) + 1


@pytest.mark.parametrize("stride", [2, 3, 4, 7, 8])
def test_blocks_know_their_receptive_field(stride):
    for block, up in ((OobleckEncoderBlock(2, 2, stride), 1), (OobleckDecoderBlock(2, 2, stride), stride)):
        length = 200 if up > 1 else 200 * stride
        hidden_states = torch.randn(1, 2, length, dtype=torch.float64, requires_grad=True)
        middle = 100 * up
        for start, stop in ((middle, middle + 1), (middle + 1, middle + 4), (middle - 5, middle + 2 * stride)):
            reached = reached_inputs(block.double(), hidden_states, start, stop)
            assert reached == block.receptive_field(start, stop)


@pytest.mark.parametrize("strides", [(2, 4), (3, 5)], ids=str)
def test_networks_know_their_receptive_field(strides):
    hop_length, frame = math.prod(strides), 30
    encoder = OobleckEncoder(2, [2, 2, 2], strides, 2).double()
    waveform = torch.randn(1, 2, 2 * frame * hop_length, dtype=torch.float64, requires_grad=True)
    assert reached_inputs(encoder, waveform, frame, frame + 1) == encoder.receptive_field(frame, frame + 1)
    decoder = OobleckDecoder(2, [2, 2, 2], strides, 2).double()
    latents = torch.randn(1, 2, 2 * frame, dtype=torch.float64, requires_grad=True)
    samples = frame * hop_length, (frame + 1) * hop_length
    assert reached_inputs(decoder, latents, *samples) == decoder.receptive_field(*samples)
