"""Chunks side by side are the whole, each with all of its context."""

import itertools

import pytest
import torch

from stable_longform.models import chunks
from stable_longform.models.chunks import ChunkedModelMixin, join, latent_chunks, waveform_chunks

HOP = 4


def inner(chunk, hop_length=1):
    """The chunk without its context."""
    return chunk.inputs[..., chunk.start * hop_length : chunk.stop * hop_length]


@pytest.mark.parametrize("length, context, num_frames", list(itertools.product([1, 3, 20], [0, 2, 9], [1, 7, 12])))
def test_latents_in_chunks(length, context, num_frames):
    latents = torch.arange(12.0).expand(2, 3, -1)
    cut = list(latent_chunks(latents, num_frames, length, context))
    assert torch.equal(torch.cat([inner(chunk) for chunk in cut], dim=-1), latents[..., :num_frames])
    for number, chunk in enumerate(cut):
        first, last = number * length, min((number + 1) * length, num_frames) - 1
        assert chunk.inputs[0, 0, 0] == max(first - context, 0)
        assert chunk.inputs[0, 0, -1] == min(last + context, 11)


@pytest.mark.parametrize("length, context", list(itertools.product([1, 3, 20], [0, 2, 9])))
@pytest.mark.parametrize("block", [1, 5, 8, 100])
@pytest.mark.parametrize("num_samples", [1, 4, 43, 48])
def test_waveforms_in_chunks(length, context, block, num_samples):
    """However the waveform comes, the chunks are those of the padded whole."""
    waveform = torch.arange(float(num_samples)).expand(2, 1, -1) + 1
    num_frames = -(-num_samples // HOP)
    padded = torch.nn.functional.pad(waveform, (0, num_frames * HOP - num_samples))
    cut = list(waveform_chunks(waveform.split(block, dim=-1), length, context, HOP))
    assert torch.equal(torch.cat([inner(chunk, HOP) for chunk in cut], dim=-1), padded)
    for number, chunk in enumerate(cut):
        first, stop = number * length, min((number + 1) * length, num_frames)
        expected = padded[..., max(first - context, 0) * HOP : (stop + context) * HOP]
        assert torch.equal(chunk.inputs, expected)


def test_only_a_chunk_is_held():
    """The memory does not grow with the waveform."""
    blocks = (torch.zeros(1, 1, HOP) for _ in range(1000))
    assert max(chunk.inputs.shape[-1] for chunk in waveform_chunks(blocks, 5, 2, HOP)) == (5 + 2 * 2) * HOP


def test_no_block():
    with pytest.raises(ValueError, match="at least one block"):
        next(waveform_chunks([], 1, 1, HOP))


def test_join():
    whole = torch.randn(2, 3, 10)
    assert torch.equal(join(iter(whole.split(4, dim=-1)), 10), whole)
    assert join([whole], 10) is whole
    with pytest.raises(ValueError, match="at least one tensor, got none"):
        join([], 10)


class Model(ChunkedModelMixin):
    hop_length, dtype, device = 8, torch.float32, torch.device("cpu")


@torch.no_grad()
def test_memory_decides_the_length(monkeypatch):
    """Four activations of 10 channels, 8 samples and 4 bytes for a frame."""
    model = Model()
    lengths = {2**30: 512, 100 * 4 * 10 * 8 * 4: 100, 1: 16}
    for memory, length in lengths.items():
        model.enable_tiling(memory_in_bytes=memory)
        assert model._chunk_length(10_000, channels=10) == length
        monkeypatch.setattr(chunks, "DEFAULT_MEMORY_IN_BYTES", memory)
        model.enable_tiling()
        assert model._chunk_length(None, channels=10) == length
    model.enable_tiling(7, memory_in_bytes=1)
    assert model._chunk_length(10_000, channels=10) == 7
    model.disable_tiling()
    assert model._chunk_length(10_000, channels=10) == 10_000
    model.enable_tiling(7)
    with torch.enable_grad():
        assert model._chunk_length(10_000, channels=10) == 10_000
