"""Snake in Triton, which interprets its kernels on a machine without a GPU, and what is used where there is none."""

import pytest
import torch
from common import randomize_weights, relative_error

from stable_longform.models.acceleration import fused_snake, oobleck_engine
from stable_longform.models.acceleration.oobleck_engine import OobleckEngine
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.chunks import latent_chunks, waveform_chunks
from stable_longform.models.oobleck_layers import Snake1d

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_triton = pytest.mark.skipif(fused_snake.triton is None, reason="needs Triton")


@needs_triton
@torch.no_grad()
@pytest.mark.parametrize("dtype, error", [(torch.float32, 1e-6), (torch.bfloat16, 6e-3), (torch.float16, 8e-4)])
def test_the_kernel_is_snake(dtype, error):
    """Against float64; the lengths are no multiples of a block, and the last input is not contiguous."""
    snake = randomize_weights(Snake1d(3)).to(DEVICE, dtype)
    alpha, inverse = (constant.flatten() for constant in snake.constants())
    for x in (torch.randn(2, 3, 2500), torch.randn(1, 3, 1), torch.randn(2, 1100, 3).mT):
        x = (5 * x).to(DEVICE, dtype)
        kept = x.clone()
        output = fused_snake.fused_snake(x, alpha, inverse)
        assert output.dtype == dtype and torch.equal(x, kept)
        assert relative_error(output, snake.double()(x.double())) < error
        snake.to(dtype)


@torch.no_grad()
@pytest.mark.parametrize("has_triton", [pytest.param(True, marks=needs_triton), False])
def test_the_engine_of_a_gpu(has_triton, monkeypatch):
    """Its arithmetic, on a GPU or on the CPU: two chunks of two items through the encoder and the decoder."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(oobleck_engine, "default_memory", lambda device: 2**20)
    if not has_triton:
        monkeypatch.setattr(fused_snake, "triton", None)
    config = {"encoder_hidden_size": 4, "decoder_channels": 4, "decoder_input_channels": 3}
    model = AutoencoderOobleck(downsampling_ratios=[2, 3], channel_multiples=[1, 1], **config)
    model = randomize_weights(model, std=0.1).eval().to(DEVICE)
    latents, waveform = torch.randn(2, 3, 60, device=DEVICE), torch.randn(2, 2, 360, device=DEVICE)
    engine = OobleckEngine(model.decoder, torch.device("cuda"))
    length = engine.plan(60, 40, None)
    chunks = latent_chunks(latents, 60, length, model.decoder_context)
    assert relative_error(torch.cat(list(engine.run(chunks)), dim=-1), model.decoder(latents)) < 1e-5
    engine = OobleckEngine(model.encoder, torch.device("cuda"))
    chunks = waveform_chunks([waveform], length, model.encoder_context, model.hop_length)
    assert relative_error(torch.cat(list(engine.run(chunks)), dim=-1), model.encoder(waveform)) < 1e-5


def test_chunks_on_a_gpu_are_as_long_as_its_memory_allows(monkeypatch):
    """A quarter of what is free: with 128 channels, 2048 samples a frame, 512 frames fit 8 GiB."""
    with torch.device("meta"):
        decoder = AutoencoderOobleck().eval().decoder
    engine = OobleckEngine(decoder, torch.device("cuda"))
    lengths = []
    for memory in (2**28, 2**30, 2**33):
        monkeypatch.setattr(oobleck_engine, "default_memory", lambda device, memory=memory: memory)
        lengths.append(engine.plan(6144, None, None))
    assert lengths[0] < lengths[1] < lengths[2] == 512 and lengths[0] * engine._bytes_of_chunk(1) <= 2**28
    assert engine.plan(6144, None, 2**28) == lengths[0]
