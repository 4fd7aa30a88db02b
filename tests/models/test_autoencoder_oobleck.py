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
from packaging.version import Version

from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck

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
    return {"sample": torch.stack([make_audio(320, seed=1), make_audio(320, seed=2)])}


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
    contexts = model.encoder_context, model.decoder_context
    num_frames = 2 * max(contexts) + 6
    waveform = torch.randn(1, 2, num_frames * model.hop_length, dtype=torch.float64)
    latents = torch.randn(1, 3, num_frames, dtype=torch.float64)
    model.disable_tiling()
    encoded, decoded = parameters_of(model, waveform), model.decode(latents).sample
    model.enable_tiling(3)
    assert relative_error(parameters_of(model, waveform), encoded) < 1e-12
    assert relative_error(model.decode(latents).sample, decoded) < 1e-12
    model.train()  # networks as a whole on pieces with this context
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
    chunks = list(model.decode_stream(encoded[:, :3]))
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
    lengths = []
    model.decoder.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[-1]))
    model.decode(latents).sample.sum().backward()
    assert lengths == [4] and latents.grad.abs().max() > 0
    assert [chunk.requires_grad for chunk in model.decode_stream(latents)] == [False] * 4


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[1], [7, 1000, 3], [16 * 40 + 5], [16] * 20, [16 * 4 - 1, 1, 16 * 4 + 1]], ids=str)
def test_encoding_a_stream_equals_encoding_it_whole(sizes):
    model = make_model(dtype=torch.float64)
    blocks = [torch.randn(2, 2, size, dtype=torch.float64) for size in sizes]
    expected = model.encode(torch.cat(blocks, dim=-1)).latent_dist
    for tile in (1, 4, 1000):
        model.enable_tiling(tile)
        posteriors = list(model.encode_stream(iter(blocks)))
        assert len(posteriors) == math.ceil(expected.mean.shape[-1] / tile)
        for name in ("mean", "std"):
            together = torch.cat([getattr(posterior, name) for posterior in posteriors], dim=-1)
            assert relative_error(together, getattr(expected, name)) < 1e-12


def test_a_stream_is_read_as_it_is_needed():
    """An endless recording is encoded, and a chunk comes as soon as its context is there."""
    model = make_model()
    model.enable_tiling(10)
    num_read = 0

    def endless():
        nonlocal num_read
        while True:
            num_read += 1
            yield torch.zeros(1, 2, 16)

    stream = model.encode_stream(endless())
    for number in range(1, 4):
        posterior = next(stream)
        assert posterior.mean.shape == (1, 3, 10) and not posterior.mean.requires_grad
        assert num_read == 10 * number + model.encoder_context


def test_streams_of_wrong_blocks():
    model = make_model()
    with pytest.raises(ValueError, match="at least one block"):
        list(model.encode_stream([]))
    with pytest.raises(ValueError, match="audio_channels=2"):
        list(model.encode_stream([torch.zeros(1, 2, 5), torch.zeros(1, 1, 5)]))


@torch.no_grad()
def test_networks_with_hooks_are_called_as_such():
    """A hook may move, cast or replace anything, so it sees whole calls."""
    model = make_model()
    model.enable_tiling(30)
    context = model.decoder_context
    expected = model.decode(latents := torch.randn(1, 3, 90)).sample
    lengths = []
    hook = model.decoder.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[-1]))
    assert relative_error(model.decode(latents).sample, expected) < 1e-6
    assert lengths == [30 + context, 30 + 2 * context, 30 + context]
    hook.remove()
    model.decoder.block[0].conv_t1.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[-1]))
    assert relative_error(model.decode(latents).sample, expected) < 1e-6
    assert lengths[3:] == lengths[:3]


@torch.no_grad()
def test_under_autocast_chunks_equal_whole():
    model = make_model()
    latents = torch.randn(1, 3, 30)
    with torch.autocast("cpu", torch.bfloat16):
        model.disable_tiling()
        expected = model.decode(latents).sample
        model.enable_tiling(7)
        assert relative_error(model.decode(latents).sample, expected) < 0.01
        assert model.decode(latents).sample.dtype == expected.dtype


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


def test_generator_decides_the_sample():
    model = make_model()
    waveform = torch.randn(1, 2, 64)

    def draw(seed):
        return model(waveform, sample_posterior=True, generator=torch.Generator().manual_seed(seed)).sample

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert not torch.equal(draw(1), model(waveform).sample)


# Errors


@pytest.mark.parametrize(
    "waveform, message",
    [
        (torch.zeros(1, 1, 64), "audio_channels=2"),
        (torch.zeros(2, 64), "batch_size"),
        (torch.zeros(1, 2, 0), "num_samples >= 1"),
        (torch.zeros(0, 2, 64), "batch_size >= 1"),
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
        (torch.zeros(0, 3, 4), "batch_size >= 1"),
        (torch.zeros(1, 3, 4, dtype=torch.float16), "float16"),
    ],
)
def test_wrong_latents(latents, message):
    model = make_model()
    with pytest.raises(ValueError, match=message):
        model.decode(latents)
    with pytest.raises(ValueError, match=message):
        model.decode_stream(latents)


def test_other_errors():
    """P8, among others: the error names the rate in Hz."""
    model = make_model()
    waveform = torch.zeros(1, 2, 64)
    model.encode(waveform, sampling_rate=44100)
    with pytest.raises(ValueError, match="48000"):
        model.encode(waveform, sampling_rate=48000)
    with pytest.raises(ValueError, match="got 0"):
        model.enable_tiling(0)
    with pytest.raises(ValueError, match="memory_in_bytes must be at least 1, got -1"):
        model.enable_tiling(memory_in_bytes=-1)
    for num_frames in (0, 5):
        with pytest.raises(ValueError, match=r"\[1, 4\]"):
            model.decode(torch.zeros(1, 3, 4), num_frames=num_frames)
    with pytest.raises(ValueError, match="same length, got 2 and 5"):
        AutoencoderOobleck(downsampling_ratios=[2, 4])
    with pytest.raises(ValueError, match=r"downsampling_ratios must be a list of integers in \[2, "):
        AutoencoderOobleck(downsampling_ratios=[1, 4], channel_multiples=[1, 2])


# What every model has to pass


def test_save_load(inputs, tmp_path):
    loaded = check_save_load(make_model(), inputs, tmp_path)
    assert (loaded.hop_length, loaded.encoder_context) == (16, make_model().encoder_context)


def test_determinism(inputs):
    check_determinism(make_model(), inputs)


def test_gradient_checkpointing(inputs):
    """V4."""
    check_gradient_checkpointing(make_model(), inputs)


def test_half_precision(inputs):
    check_half_precision(make_model(), inputs, tolerance=0.03)


@torch.no_grad()
def test_return_dict_and_tuple_agree(inputs):
    model = make_model()
    (sample,) = model(inputs["sample"], return_dict=False)
    output = model(**inputs)
    assert torch.equal(output.sample, sample)
    (posterior,) = model.encode(inputs["sample"], return_dict=False)
    assert torch.equal(posterior.parameters, output.posterior.parameters)
    assert torch.equal(model.decode(posterior.mode(), return_dict=False)[0], sample)


@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.7"), reason="torch 2.6 does not find its own name in diffusers' wrapper"
)
def test_compiles_to_one_graph():
    """In chunks without gradients, whole with them; what is compiled is the plain code."""
    model = make_model((2,))
    model.enable_tiling(20)
    latents, waveform = torch.randn(1, 3, 30), torch.randn(1, 2, 59)
    with torch.no_grad():
        decode, encode = (torch.compile(f, fullgraph=True, backend="eager") for f in (model.decode, model.encode))
        assert relative_error(decode(latents).sample, model.decode(latents).sample) < 1e-5
        expected = model.encode(waveform).latent_dist
        assert relative_error(encode(waveform).latent_dist.parameters, expected.parameters) < 1e-5
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert relative_error(compiled(sample=waveform).sample, model(waveform).sample) < 1e-5
