"""Cuts long audio into chunks that a network with a limited receptive field computes exactly.

A chunk consists of consecutive whole latent frames. The network gets a chunk together with its context: the frames on
either side that the result depends on, as far as they exist. The output for the context is cut off. So the
concatenated chunks are the result for the whole, and only one chunk has to fit into memory.

Conventions: waveforms and latents are `(batch_size, channels, length)`. A frame is a latent, or `hop_length` samples.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

DEFAULT_MEMORY_IN_BYTES = 2**28  # on devices other than CUDA, whose free memory is queried
MIN_LENGTH, MAX_LENGTH = 16, 512  # frames of a chunk if the length is derived from the memory
LIVE_ACTIVATIONS = 4  # number of tensors of the widest layer's size that exist at the same time


class Chunk(NamedTuple):
    """The network's input for one chunk.

    Args:
        inputs: latents or samples of the chunk and its context.
        start: first frame of the chunk, counted from the first frame of `inputs`.
        stop: the frame after its last one.
    """

    inputs: torch.Tensor
    start: int
    stop: int


def latent_chunks(latents: torch.Tensor, num_frames: int, length: int, context: int) -> Iterator[Chunk]:
    """Cuts the first `num_frames` of latents into chunks of `length` frames, with `context` more on either side."""
    for start in range(0, num_frames, length):
        stop = min(start + length, num_frames)
        first = max(start - context, 0)
        yield Chunk(latents[..., first : stop + context], start - first, stop - first)


def waveform_chunks(waveforms: Iterable[torch.Tensor], length: int, context: int, hop_length: int) -> Iterator[Chunk]:
    """Cuts a waveform that comes block by block into chunks of `length` frames, with `context` more on either side.

    The last frame is padded with silence. Only a chunk, its context and the latest block are held in memory.

    Args:
        waveforms: consecutive blocks `(batch_size, channels, n)` of any lengths.
        length: frames of a chunk.
        context: frames on either side.
        hop_length: samples of a frame.

    Raises:
        ValueError: there is no block.
    """
    held, first, start = None, 0, 0  # samples from frame `first` on; the next chunk begins at frame `start`
    for block in waveforms:
        held = block if held is None else torch.cat([held, block], dim=-1)
        while first + held.shape[-1] // hop_length >= start + length + context:
            stop = start + length
            yield Chunk(held[..., : (stop + context - first) * hop_length], start - first, stop - first)
            start, kept_from = stop, max(stop - context, 0)
            held, first = held[..., (kept_from - first) * hop_length :], kept_from
    if held is None:
        raise ValueError("waveforms must hold at least one block, got none.")
    held = F.pad(held, (0, -held.shape[-1] % hop_length))
    num_frames = first + held.shape[-1] // hop_length
    while start < num_frames:
        stop = min(start + length, num_frames)
        left = max(start - context, 0)
        samples = held[..., (left - first) * hop_length : (stop + context - first) * hop_length]
        yield Chunk(samples, start - left, stop - left)
        start = stop


def join(parts: Iterable[torch.Tensor], length: int) -> torch.Tensor:
    """Concatenates consecutive tensors to one of the given length, whose memory is allocated only once.

    Raises:
        ValueError: there is no part.
    """
    whole, start = None, 0
    for part in parts:
        if whole is None:
            if part.shape[-1] == length:
                return part
            whole = part.new_empty(*part.shape[:-1], length)
        whole[..., start : start + part.shape[-1]] = part
        start += part.shape[-1]
    if whole is None:
        raise ValueError("parts must hold at least one tensor, got none.")
    return whole


class ChunkedModelMixin:
    """Adds diffusers' switches to an autoencoder: tiling means chunks, slicing one item of a batch at a time."""

    device: torch.device
    dtype: torch.dtype
    hop_length: int

    use_tiling, use_slicing = True, False
    tile_latent_length: int | None = None
    tile_memory_in_bytes: int | None = None

    def enable_tiling(self, tile_latent_length: int | None = None, memory_in_bytes: int | None = None) -> None:
        """Encodes and decodes in chunks, with the same result as processing the whole (this is the default).

        Args:
            tile_latent_length: frames in a chunk, at least 1; None: as many as `memory_in_bytes` allows, up to 512.
            memory_in_bytes: for the activations of all chunks that are computed at the same time, at least 1; chunks
                have at least 16 frames. None: a quarter of a GPU's free memory; on a CPU 256 MiB, or 96 MiB for each
                thread if that is more.

        Raises:
            ValueError: a value less than 1.
        """
        for name, value in (("tile_latent_length", tile_latent_length), ("memory_in_bytes", memory_in_bytes)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        self.use_tiling, self.tile_latent_length = True, tile_latent_length
        self.tile_memory_in_bytes = memory_in_bytes

    def disable_tiling(self) -> None:
        """Encodes and decodes each input as a whole, which takes memory in proportion to its length."""
        self.use_tiling = False

    def enable_slicing(self) -> None:
        """Processes a batch one item at a time, to save memory."""
        self.use_slicing = True

    def disable_slicing(self) -> None:
        """Processes all items of a batch at once."""
        self.use_slicing = False

    def _slices(self, batch: torch.Tensor) -> Sequence[torch.Tensor]:
        """The items of the batch if slicing is on, otherwise the whole batch."""
        return batch.split(1) if self.use_slicing else [batch]

    def _chunk_length(self, num_frames: int | None, channels: int, plan: Callable | None = None) -> int:
        """Number of frames in a chunk, for a network with this number of channels at the full rate.

        `num_frames` is the length of the whole if it is known. `plan` is an engine's own way to choose.
        """
        length = self.tile_latent_length
        if torch.is_grad_enabled() or not self.use_tiling:  # in training, no context is computed twice
            length = sys.maxsize if num_frames is None else num_frames
        if plan is not None:
            return plan(num_frames, length, self.tile_memory_in_bytes)
        if length is not None:
            return length
        memory = self.tile_memory_in_bytes or default_memory(self.device)
        bytes_of_frame = LIVE_ACTIVATIONS * channels * self.hop_length * self.dtype.itemsize
        return min(max(memory // bytes_of_frame, MIN_LENGTH), MAX_LENGTH)


@torch.compiler.assume_constant_result
def default_memory(device: torch.device) -> int:
    """Bytes for the activations of a chunk: a quarter of a GPU's free memory, 256 MiB elsewhere."""
    return torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else DEFAULT_MEMORY_IN_BYTES
