import math

import pytest
import torch
from common import (
    check_determinism,
    check_gradient_checkpointing,
    check_half_precision,
    check_save_load,
    randomize_weights,
    relative_error,
)
from diffusers import AutoencoderOobleck as DiffusersAutoencoderOobleck

from stable_longform.models.autoencoder_oobleck import (
    AutoencoderOobleck,
    DiagonalGaussian,
    Snake1d,
    WeightNormConv1d,
    WeightNormConvTranspose1d,
    decoder_context,
    encoder_context,
)

PAPER_STRIDES = (2, 4, 4, 8, 8)


def make_model(strides=(2, 2, 4), dtype=torch.float32, **config):
    """A model of a few channels with non-trivial weights; its hop is the product of `strides`."""
    config = {"encoder_hidden_size": 4, "decoder_channels": 4, "decoder_input_channels": 3} | config
    config.setdefault("channel_multiples", [1] * len(strides))
    torch.manual_seed(0)
    model = AutoencoderOobleck(downsampling_ratios=list(strides), **config)
    return randomize_weights(model, std=0.1).to(dtype).eval()


def parameters_of(model, waveform):
    """Means and standard deviations of the posterior in one tensor."""
    posterior = model.encode(waveform).latent_dist
    return torch.cat([posterior.mean, posterior.std], dim=1)


@pytest.fixture
def inputs(make_audio):
    return {"waveform": torch.stack([make_audio(320, seed=1), make_audio(320, seed=2)])}


# Size


def test_paper_size():
    with torch.device("meta"):
        model = AutoencoderOobleck()
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert sizes == {"encoder": 77_989_888, "decoder": 78_122_626}
    assert len(model.state_dict()) == 365
    assert (model.hop_length, model.encoder_context, model.decoder_context) == (2048, 8, 10)
    assert model.latent_rate == pytest.approx(21.5332, abs=1e-4)


# Parity


@pytest.fixture(params=[PAPER_STRIDES, (4, 2, 6)], ids=str)
def pair(request):
    """Our model and diffusers' with the same configuration; weights are exchanged in the tests."""
    config = {
        "encoder_hidden_size": 8,
        "decoder_channels": 4,
        "decoder_input_channels": 4,
        "downsampling_ratios": list(request.param),
        "channel_multiples": [1, 2, 2, 3, 3][: len(request.param)],
    }
    torch.manual_seed(0)
    return AutoencoderOobleck(**config).eval(), DiffusersAutoencoderOobleck(**config).eval()


@torch.no_grad()
@pytest.mark.parametrize("is_from_diffusers", [True, False])
def test_parity_with_diffusers(pair, make_audio, is_from_diffusers):
    ours, theirs = pair
    source, target = (theirs, ours) if is_from_diffusers else (ours, theirs)
    randomize_weights(source, std=0.1)
    target.load_state_dict(source.state_dict(), strict=True)
    assert set(ours.state_dict()) == set(theirs.state_dict())
    waveform = make_audio(3 * ours.hop_length)[None]
    posterior, expected = ours.encode(waveform).latent_dist, theirs.encode(waveform).latent_dist
    assert posterior.mean.std() > 1e-2
    assert relative_error(posterior.mean, expected.mean) < 1e-5
    assert relative_error(posterior.std, expected.std) < 1e-5
    assert relative_error(posterior.kl(), expected.kl()) < 1e-5
    latents = torch.randn(2, 4, 5)
    decoded = theirs.decode(latents).sample
    assert decoded.std() > 1e-2
    assert relative_error(ours.decode(latents).sample, decoded) < 1e-5


# Receptive field and chunks


def support(gradient):
    """First and last position where a gradient `(1, C, L)` is not zero."""
    positions = gradient.abs().sum(dim=(0, 1)).nonzero()
    return int(positions[0]), int(positions[-1])


def test_encoder_receptive_field():
    model = make_model(PAPER_STRIDES, torch.float64, encoder_hidden_size=2)
    waveform = torch.randn(1, 2, 2048 * 20, dtype=torch.float64, requires_grad=True)
    model.encode(waveform).latent_dist.mean[..., 9].sum().backward()
    first, last = support(waveform.grad)
    assert (first - 9 * 2048, last - 9 * 2048) == (-14885, 16932)


def test_decoder_receptive_field():
    model = make_model(PAPER_STRIDES, torch.float64, decoder_channels=2)
    latents = torch.randn(1, 3, 25, dtype=torch.float64, requires_grad=True)
    frame = model.decode(latents).sample[..., 12 * 2048 : 13 * 2048]
    (gradient,) = torch.autograd.grad(frame.sum(), latents, retain_graph=True)
    assert support(gradient) == (12 - 10, 12 + 10)
    (gradient,) = torch.autograd.grad(frame[..., 0].sum(), latents)
    assert support(gradient) == (12 - 10, 12 + 9)


@torch.no_grad()
@pytest.mark.parametrize("strides", [PAPER_STRIDES, (2, 2, 4), (4, 2), (3, 5), (2,)], ids=str)
def test_contexts_are_sufficient_and_minimal(strides):
    """V2."""
    model = make_model(strides, torch.float64, encoder_hidden_size=2, decoder_channels=2)
    contexts = encoder_context(strides), decoder_context(strides)
    num_frames = 2 * max(contexts) + 6
    waveform = torch.randn(1, 2, num_frames * model.hop_length, dtype=torch.float64)
    latents = torch.randn(1, 3, num_frames, dtype=torch.float64)
    model.disable_tiling()
    encoded, decoded = parameters_of(model, waveform), model.decode(latents).sample
    model.enable_tiling(3)
    assert relative_error(parameters_of(model, waveform), encoded) < 1e-12
    assert relative_error(model.decode(latents).sample, decoded) < 1e-12
    model.encoder_context, model.decoder_context = contexts[0] - 1, contexts[1] - 1
    assert relative_error(parameters_of(model, waveform), encoded) > 1e-12
    assert relative_error(model.decode(latents).sample, decoded) > 1e-12


@torch.no_grad()
@pytest.mark.parametrize("tile_latent_length", [1, 8, 13, 1000])
@pytest.mark.parametrize("num_samples", [1, 15, 16, 16 * 24, 16 * 29, 16 * 29 + 5])
def test_chunks_equal_whole(tile_latent_length, num_samples):
    """V1. For chunks and lengths that are no multiples of each other."""
    model = make_model(dtype=torch.float64)
    waveform = torch.randn(2, 2, num_samples, dtype=torch.float64)
    model.disable_tiling()
    encoded = parameters_of(model, waveform)
    decoded = model.decode(encoded[:, :3]).sample
    model.enable_tiling(tile_latent_length)
    assert relative_error(parameters_of(model, waveform), encoded) < 1e-12
    chunks = list(model.decode_chunks(encoded[:, :3]))
    assert len(chunks) == math.ceil(encoded.shape[-1] / tile_latent_length)
    assert torch.equal(torch.cat(chunks, dim=-1), model.decode(encoded[:, :3]).sample)
    assert relative_error(torch.cat(chunks, dim=-1), decoded) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("num_frames", [1, 4, 5, 11, 12])
def test_decoding_the_first_frames_equals_cutting_the_whole(num_frames):
    model = make_model(dtype=torch.float64)
    latents = torch.randn(1, 3, 12, dtype=torch.float64)
    whole = model.decode(latents).sample
    model.enable_tiling(4)
    first = model.decode(latents, num_frames=num_frames).sample
    assert first.shape[-1] == 16 * num_frames
    assert relative_error(first, whole[..., : 16 * num_frames]) < 1e-12


def test_gradients_flow_through_the_whole_input():
    """With gradients on, nothing is cut into chunks: training never pays for context twice."""
    model = make_model()
    model.enable_tiling(1)
    latents = torch.randn(1, 3, 4, requires_grad=True)
    assert len(list(model.decode_chunks(latents))) == 1
    with torch.no_grad():
        assert len(list(model.decode_chunks(latents))) == 4


# Lengths


@torch.no_grad()
@pytest.mark.parametrize("strides", [(2, 2, 4), (3, 5), (2, 3), (7,)], ids=str)
def test_lengths(strides):
    """V6. No stride, odd ones included, loses a sample."""
    model = make_model(strides)
    hop = model.hop_length
    assert hop == math.prod(strides)
    for num_samples in [1, 2, hop - 1, hop, hop + 1, 3 * hop - 1, 3 * hop, 5 * hop + hop // 2]:
        latents = model.encode(torch.randn(1, 2, num_samples)).latent_dist.mode()
        assert latents.shape == (1, 3, math.ceil(num_samples / hop))
        assert model.decode(latents).sample.shape == (1, 2, latents.shape[-1] * hop)
        assert model(torch.randn(1, 2, num_samples)).sample.shape == (1, 2, num_samples)


@torch.no_grad()
def test_last_partial_frame_is_completed_with_silence():
    model = make_model()
    waveform = torch.randn(1, 2, 16 * 3 + 5)
    padded = torch.cat([waveform, torch.zeros(1, 2, 11)], dim=-1)
    assert torch.equal(parameters_of(model, waveform), parameters_of(model, padded))


@torch.no_grad()
def test_slicing_equals_batch():
    model = make_model()
    waveform, latents = torch.randn(3, 2, 160), torch.randn(3, 3, 10)
    encoded, decoded = parameters_of(model, waveform), model.decode(latents).sample
    sizes = []
    model.encoder.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    model.enable_slicing()
    assert relative_error(parameters_of(model, waveform), encoded) < 1e-6
    assert relative_error(model.decode(latents).sample, decoded) < 1e-6
    model.disable_slicing()
    parameters_of(model, waveform)
    assert sizes == [1, 1, 1, 3]


# Posterior


def test_kl_closed_form():
    """V3."""

    def posterior(mean, std):
        """Two channels, three frames, whose softplus scale gives exactly `std`."""
        scale = torch.full((1, 2, 3), math.log(math.expm1(std - 1e-4)))
        return DiagonalGaussian(torch.cat([torch.full((1, 2, 3), mean), scale], dim=1))

    assert float(posterior(0.0, 1.0).kl()) == pytest.approx(0, abs=1e-6)
    # twice the divergence, summed over two channels: 2 · (1.5² + 0.5² − ln 0.5² − 1)
    assert float(posterior(1.5, 0.5).kl()) == pytest.approx(2 * (2.25 + 0.25 + 2 * math.log(2) - 1), rel=1e-6)


def test_kl_averages_over_batch_and_frames_and_equals_torch():
    parameters = torch.randn(3, 8, 5)
    posterior = DiagonalGaussian(parameters)
    normal = torch.distributions.Normal(posterior.mean, posterior.std)
    divergence = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(posterior.kl(), 2 * divergence.sum(dim=1).mean())


def test_posterior_splits_channels_and_floors_the_deviation():
    parameters = torch.cat([torch.full((1, 1, 2), 0.7), torch.full((1, 1, 2), -100.0)], dim=1)
    posterior = DiagonalGaussian(parameters)
    assert torch.equal(posterior.mode(), torch.full((1, 1, 2), 0.7))
    torch.testing.assert_close(posterior.std, torch.full((1, 1, 2), 1e-4))


def test_samples_have_the_mean_and_deviation():
    parameters = torch.tensor([0.5, -2.0, 1.0, -1.0])[None, :, None].expand(1, 4, 40_000)
    posterior = DiagonalGaussian(parameters)
    samples = posterior.sample(torch.Generator().manual_seed(0))
    error = samples.mean(dim=-1) - posterior.mean[..., 0]
    assert (error.abs() < 4 * posterior.std[..., 0] / 200).all()
    torch.testing.assert_close(samples.std(dim=-1), posterior.std[..., 0], rtol=0.02, atol=0)


def test_generator_decides_the_sample():
    model = make_model()
    waveform = torch.randn(1, 2, 64)

    def draw(seed):
        return model(waveform, sample_posterior=True, generator=torch.Generator().manual_seed(seed)).sample

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert not torch.equal(draw(1), model(waveform).sample)


# Layers


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


# Errors


@pytest.mark.parametrize(
    "waveform, message",
    [
        (torch.zeros(1, 1, 64), "audio_channels=2"),
        (torch.zeros(2, 64), "batch_size"),
        (torch.zeros(1, 2, 0), "num_samples >= 1"),
        (torch.zeros(1, 2, 64, dtype=torch.float64), "float64"),
    ],
)
def test_wrong_waveforms(waveform, message):
    with pytest.raises(ValueError, match=message):
        make_model().encode(waveform)


@pytest.mark.parametrize(
    "latents, message",
    [
        (torch.zeros(1, 2, 4), "decoder_input_channels=3"),
        (torch.zeros(3, 4), "batch_size"),
        (torch.zeros(1, 3, 0), "latent_length >= 1"),
        (torch.zeros(1, 3, 4, dtype=torch.float16), "float16"),
    ],
)
def test_wrong_latents(latents, message):
    model = make_model()
    with pytest.raises(ValueError, match=message):
        model.decode(latents)
    with pytest.raises(ValueError, match=message):
        list(model.decode_chunks(latents))


def test_other_errors():
    """P8, among others: the error names the rate in Hz."""
    model = make_model()
    waveform = torch.zeros(1, 2, 64)
    model.encode(waveform, sampling_rate=44100)
    with pytest.raises(ValueError, match="48000"):
        model.encode(waveform, sampling_rate=48000)
    with pytest.raises(ValueError, match="got 0"):
        model.enable_tiling(0)
    for num_frames in (0, 5):
        with pytest.raises(ValueError, match=r"\[1, 4\]"):
            model.decode(torch.zeros(1, 3, 4), num_frames=num_frames)
    with pytest.raises(ValueError, match="same length, got 2 and 5"):
        AutoencoderOobleck(downsampling_ratios=[2, 4])
    with pytest.raises(ValueError, match="at least 2"):
        AutoencoderOobleck(downsampling_ratios=[1, 4], channel_multiples=[1, 2])


# What every model has to pass


def test_save_load(inputs, tmp_path):
    loaded = check_save_load(make_model(), inputs, tmp_path)
    assert (loaded.hop_length, loaded.encoder_context) == (16, encoder_context((2, 2, 4)))


def test_determinism(inputs):
    check_determinism(make_model(), inputs)


def test_gradient_checkpointing(inputs):
    """V4."""
    check_gradient_checkpointing(make_model(), inputs)


def test_half_precision(inputs):
    check_half_precision(make_model(), inputs, tolerance=0.03)


def test_return_dict_and_tuple_agree(inputs):
    model = make_model()
    sample, posterior = model(**inputs, return_dict=False)
    output = model(**inputs)
    assert torch.equal(output.sample, sample)
    assert torch.equal(output.posterior.mean, posterior.mean)
    (encoded,) = model.encode(**inputs, return_dict=False)
    assert torch.equal(encoded.mean, posterior.mean)
    assert torch.equal(model.decode(posterior.mode(), return_dict=False)[0], sample)
