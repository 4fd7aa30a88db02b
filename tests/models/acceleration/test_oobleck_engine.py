"""The engine's chunks and tiles give what the network gives that is called as it is."""

import copy

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from common import randomize_weights, relative_error

from stable_longform.models.acceleration import engine, tiles
from stable_longform.models.acceleration.channels_last_layers import ChannelsLastLayers
from stable_longform.models.acceleration.chunk_planning import MEMORY_OF_THREAD_IN_BYTES
from stable_longform.models.acceleration.engine import SWITCH, engine_for
from stable_longform.models.acceleration.oobleck_engine import MIN_FRAMES_OF_CHANNELS_LAST, OobleckEngine
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck

CPU = torch.device("cpu")


def make_model(strides=(2, 2, 4), dtype=torch.float32, **config):
    """A model of a few channels with non-trivial weights; its hop is the product of `strides`."""
    config = {"encoder_hidden_size": 4, "decoder_channels": 4, "decoder_input_channels": 3} | config
    torch.manual_seed(0)
    model = AutoencoderOobleck(downsampling_ratios=list(strides), channel_multiples=[1] * len(strides), **config)
    return randomize_weights(model, std=0.1).to(dtype).eval()


def without_engine(monkeypatch, function, *args):
    """What a function returns when acceleration is turned off."""
    with monkeypatch.context() as patch:
        patch.setenv(SWITCH, "0")
        return function(*args)


def both(model, waveform, latents):
    """Posterior parameters and decoded waveform."""
    return model.encode(waveform).latent_dist.parameters, model.decode(latents).sample


@pytest.fixture
def set_threads():
    """Sets torch's number of threads for a test."""
    yield torch.set_num_threads
    torch.set_num_threads(1)


@torch.no_grad()
@pytest.mark.parametrize(("strides", "size"), [((2, 2, 4), 40), ((3, 5), 1000)], ids=str)
def test_tiles_of_any_size_equal_whole(strides, size, monkeypatch, set_threads):
    """Batches, odd strides, and lengths around the edges of chunks and of the tiles inside of them."""
    monkeypatch.setattr(tiles, "tile_lengths", lambda steps, *limits: [size] * len(steps))
    model = make_model(strides, torch.float64)
    context = max(model.encoder_context, model.decoder_context)
    for num_frames in (1, 2 * context + 3):
        waveform = torch.randn(2, 2, num_frames * model.hop_length - num_frames % 3, dtype=torch.float64)
        latents = torch.randn(2, 3, num_frames, dtype=torch.float64)
        model.disable_tiling()
        expected = without_engine(monkeypatch, both, model, waveform, latents)
        for length, num_threads in ((None, 1), (context + 1, 2), (num_frames - 1 or 1, 2)):
            model.enable_tiling(length) if length else model.disable_tiling()
            set_threads(num_threads)
            for output, target in zip(both(model, waveform, latents), expected, strict=True):
                assert relative_error(output, target) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("dtype, error", [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_tiles_of_fast_dtypes_equal_whole(dtype, error, monkeypatch):
    """These are computed in channels-last format."""
    monkeypatch.setattr(tiles, "tile_lengths", lambda steps, *limits: [40] * len(steps))
    model = make_model((3, 5), dtype)
    waveform, latents = torch.randn(2, 2, 890, dtype=dtype), torch.randn(2, 3, 60, dtype=dtype)
    expected = without_engine(monkeypatch, both, model, waveform, latents)
    for output, target in zip(both(model, waveform, latents), expected, strict=True):
        assert relative_error(output, target) < error


@torch.no_grad()
def test_weights_are_not_converted_for_few_frames(monkeypatch):
    """It would take longer than it saves. The result is then that of the network to the last bit."""
    model = make_model()
    for num_frames in (MIN_FRAMES_OF_CHANNELS_LAST - 1, MIN_FRAMES_OF_CHANNELS_LAST, None):
        is_short = num_frames == MIN_FRAMES_OF_CHANNELS_LAST - 1
        for network in (model.encoder, model.decoder):
            layers = engine_for(network, CPU, num_frames)._layers
            assert isinstance(layers, ChannelsLastLayers) != is_short
    assert isinstance(OobleckEngine(model.decoder, CPU, torch.bfloat16, num_frames=1)._layers, ChannelsLastLayers)
    num_frames = MIN_FRAMES_OF_CHANNELS_LAST - 1
    waveform, latents = torch.randn(1, 2, num_frames * model.hop_length), torch.randn(1, 3, num_frames)
    expected = without_engine(monkeypatch, both, model, waveform, latents)
    for output, target in zip(both(model, waveform, latents), expected, strict=True):
        assert torch.equal(output, target)


@torch.no_grad()
@pytest.mark.parametrize("num_threads", [1, 2, 3, 8, 15, 64])
def test_any_number_of_threads_gives_the_same(num_threads, monkeypatch, set_threads):
    model = make_model((2, 4), torch.float64)
    waveform, latents = (
        torch.randn(1, 2, 8 * 150 - 3, dtype=torch.float64),
        torch.randn(1, 3, 150, dtype=torch.float64),
    )
    expected = without_engine(monkeypatch, both, model, waveform, latents)
    set_threads(num_threads)
    for output, target in zip(both(model, waveform, latents), expected, strict=True):
        assert relative_error(output, target) < 1e-12
    lengths = [chunk.shape[-1] // 8 for chunk in model.decode_stream(latents)]
    assert lengths == {1: [150], 2: [75, 75], 3: [50] * 3}.get(num_threads, [38, 38, 38, 36])
    posteriors = list(model.encode_stream(waveform.split(100, dim=-1)))
    parameters = torch.cat([posterior.parameters for posterior in posteriors], dim=-1)
    assert relative_error(parameters, expected[0]) < 1e-12
    assert torch.get_num_threads() == num_threads


@torch.no_grad()
def test_results_can_be_trained_on_and_streams_left(set_threads):
    model = make_model()
    keys = list(model.state_dict())
    model.enable_tiling(3)
    set_threads(2)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            latents = model.encode(torch.randn(1, 2, 160)).latent_dist.mean
            waveform = model.decode(latents).sample
            assert latents.is_inference() == waveform.is_inference() == torch.is_inference_mode_enabled()
    stream = model.decode_stream(torch.randn(1, 3, 40))
    next(stream)
    stream.close()
    assert torch.get_num_threads() == 2
    assert list(model.state_dict()) == keys


@torch.no_grad()
def test_memory_decides_the_length_of_chunks():
    model = make_model()
    latents = torch.randn(1, 3, 1100)
    assert next(model.decode_stream(latents)).shape[-1] == 512 * 16
    whole = model.decode(latents).sample
    lengths = []
    for memory in (2**17, 2**16, 1):
        model.enable_tiling(memory_in_bytes=memory)
        lengths.append(next(model.decode_stream(latents)).shape[-1] // 16)
        assert relative_error(model.decode(latents).sample, whole) < 1e-6
    assert 512 > lengths[0] > lengths[1] > lengths[2] == 16


def test_the_memory_of_a_chunk():
    """Tiles bound it: at the paper's size a chunk of any length takes less than 96 MiB."""
    with torch.device("meta"):
        model = AutoencoderOobleck().eval()
    for network in (model.encoder, model.decoder):
        engine = OobleckEngine(network, CPU)
        taken = [engine._bytes_of_chunk(num_frames) for num_frames in (1, 16, 512, 5000)]
        assert taken == sorted(taken) and taken[0] < taken[-1] < MEMORY_OF_THREAD_IN_BYTES
    # one frame of the decoder: the input of each step, three more of the widest; 128 channels at 2048 a frame
    widths_and_rates = [(2048, 1), (1024, 8), (512, 64), (256, 256), (128, 1024), (128, 2048), (128, 2048)]
    values = [width * rate for width, rate in widths_and_rates]
    assert OobleckEngine(model.decoder, CPU)._bytes_of_chunk(1) == 4 * (sum(values) + 3 * max(values))


@torch.no_grad()
def test_where_there_is_an_engine(monkeypatch):
    model = make_model()
    for network in (model.encoder, model.decoder):
        for device in (CPU, torch.device("cuda")):
            assert isinstance(engine_for(network, device), OobleckEngine)
        assert engine_for(network, torch.device("meta")) is None
    decoder = model.decoder
    with torch.enable_grad():
        assert engine_for(decoder, CPU) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert engine_for(decoder, CPU) is None
    assert engine_for(decoder.train(), CPU) is None
    decoder.eval()
    monkeypatch.setenv(SWITCH, "0")
    assert engine_for(decoder, CPU) is None
    monkeypatch.setenv(SWITCH, "off")
    with pytest.raises(ValueError, match="STABLE_LONGFORM_ACCELERATION must be 0 or 1, got 'off'"):
        engine_for(decoder, CPU)
    monkeypatch.delenv(SWITCH)
    assert engine_for(decoder, CPU) is not None


def changed_forward(network):
    network.conv2.forward = lambda hidden_states: hidden_states[:, :2]


def changed_layer(network):
    network.conv1 = torch.nn.Conv1d(3, 4, 7, padding=3)


@torch.no_grad()
@pytest.mark.parametrize(
    "change",
    [
        changed_forward,
        changed_layer,
        lambda network: network.block[0].snake1.register_forward_hook(lambda *_: None),
        lambda network: network.register_forward_pre_hook(lambda *_: None),
        lambda network: add_hook_to_module(network.block[0].res_unit1, ModelHook()),
        lambda network: network.block[1].compile(backend="eager"),
        lambda network: torch.nn.utils.parametrize.register_parametrization(
            network.conv2, "weight_g", torch.nn.ReLU()
        ),
    ],
)
def test_networks_that_were_changed_are_called_as_they_are(change):
    decoder = copy.deepcopy(make_model().decoder)
    change(decoder)
    assert engine_for(decoder, CPU) is None


@torch.no_grad()
@pytest.mark.parametrize("has_instructions", [True, False])
def test_bfloat16_decoding_where_the_cpu_has_them(has_instructions, monkeypatch):
    monkeypatch.setattr(engine, "multiplies_bfloat16", lambda: has_instructions)
    model = make_model(decoder_channels=8, encoder_hidden_size=8)
    waveform, latents = torch.randn(1, 2, 640), torch.randn(1, 3, 40)
    expected = both(model, waveform, latents)
    model.enable_bfloat16_decoding()
    parameters, decoded = both(model, waveform, latents)
    assert torch.equal(parameters, expected[0])  # the encoder stays exact
    error = relative_error(decoded, expected[1])
    assert decoded.dtype == torch.float32
    assert 1e-4 < error < 0.02 if has_instructions else error == 0
    model.disable_bfloat16_decoding()
    for output, target in zip(both(model, waveform, latents), expected, strict=True):
        assert torch.equal(output, target)
