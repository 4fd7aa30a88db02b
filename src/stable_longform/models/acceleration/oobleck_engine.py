"""An Oobleck encoder or decoder without gradients: chunk by chunk, on a CPU each in tiles that stay in the cache."""

import functools
import math
import sys
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import nn

from stable_longform.models.acceleration import tiles
from stable_longform.models.acceleration.channels_last_layers import ChannelsLastLayers
from stable_longform.models.acceleration.chunk_planning import make_plan
from stable_longform.models.acceleration.folded_layers import FoldedLayers
from stable_longform.models.acceleration.fused_snake import FusedSnakeLayers
from stable_longform.models.acceleration.tiles import Step
from stable_longform.models.acceleration.workers import ordered_map
from stable_longform.models.chunks import Chunk, default_memory
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

CACHE_IN_BYTES = 2**21  # for one activation of a tile on a CPU
MIN_TILE_OF_ENCODER, MIN_TILE_OF_DECODER = 2048, 1024  # positions
FAST_DTYPES = (torch.float32, torch.bfloat16)  # oneDNN has convolutions for these
MIN_FRAMES_OF_CHANNELS_LAST = 32  # converting the weights takes longer than it saves for fewer
MAX_TILES = {"mps": 2**15, "cuda": sys.maxsize}  # convolutions of an Apple GPU take up to 65,536 positions
KNOWN_LAYERS = {
    OobleckEncoder,
    OobleckEncoderBlock,
    OobleckDecoder,
    OobleckDecoderBlock,
    OobleckResidualUnit,
    Snake1d,
    WeightNormConv1d,
    WeightNormConvTranspose1d,
    nn.ModuleList,
}


class OobleckEngine:
    """Computes chunks of an `OobleckEncoder` or `OobleckDecoder`, without gradients.

    Args:
        network: the encoder or decoder; its parameters must not change while this object is in use.
        device: where its inputs are.
        convolution_dtype: see `ChannelsLastLayers`; only on a CPU.
        num_frames: of all chunks together; None: not known.
    """

    def __init__(
        self,
        network: OobleckEncoder | OobleckDecoder,
        device: torch.device,
        convolution_dtype: torch.dtype | None = None,
        num_frames: int | None = None,
    ):
        self._network, self._device = network, device
        self._is_decoder = isinstance(network, OobleckDecoder)
        dtype = network.conv1.weight_v.dtype
        self._itemsize = dtype.itemsize
        is_short = num_frames is not None and num_frames < MIN_FRAMES_OF_CHANNELS_LAST and convolution_dtype is None
        if device.type == "cpu" and dtype in FAST_DTYPES and not is_short:
            self._layers: FoldedLayers = ChannelsLastLayers(network, convolution_dtype)
        else:
            self._layers = FusedSnakeLayers(network) if device.type == "cuda" else FoldedLayers(network)
        self._steps = self._make_steps()
        if device.type in MAX_TILES:
            self._sizes = [MAX_TILES[device.type]] * len(self._steps)
        else:
            least = MIN_TILE_OF_DECODER if self._is_decoder else MIN_TILE_OF_ENCODER
            self._sizes = tiles.tile_lengths(self._steps, CACHE_IN_BYTES // self._itemsize, least)
        self._num_workers = 1

    @staticmethod
    def knows(network: nn.Module) -> bool:
        """Whether all layers of a network are of the expected classes, so that none was replaced."""
        return all(type(part) in KNOWN_LAYERS and "forward" not in vars(part) for part in network.modules())

    def plan(self, num_frames: int | None, chunk_length: int | None, memory_in_bytes: int | None) -> int:
        """Frames of the chunks for `run`. See `chunk_planning.make_plan` for the arguments."""
        num_threads = torch.get_num_threads() if self._device.type == "cpu" else 1
        if self._device.type == "cuda":
            memory_in_bytes = memory_in_bytes or default_memory(self._device)
        length, self._num_workers = make_plan(
            self._bytes_of_chunk, num_threads, num_frames, chunk_length, memory_in_bytes
        )
        return length

    def run(self, chunks: Iterable[Chunk]) -> Iterator[torch.Tensor]:
        """Yields the network's output for each chunk, without its context."""
        return ordered_map(self._decode if self._is_decoder else self._encode, chunks, self._num_workers)

    def _encode(self, chunk: Chunk) -> torch.Tensor:
        """The posterior's parameters for a chunk, item by item, since the cache holds no more than one."""
        limits = tiles.bounds(self._steps, 0, chunk.inputs.shape[-1])
        target = (chunk.start, chunk.stop)
        items = [tiles.collect(self._steps, self._sizes, item, limits, target) for item in chunk.inputs.split(1)]
        return items[0] if len(items) == 1 else torch.cat(items)

    def _decode(self, chunk: Chunk) -> torch.Tensor:
        """The waveform of a chunk, item by item."""
        limits = tiles.bounds(self._steps, 0, chunk.inputs.shape[-1])
        hop_length = limits[-1][1] // limits[0][1]
        target = (chunk.start * hop_length, chunk.stop * hop_length)
        channels = self._network.conv2.out_channels
        output = chunk.inputs.new_empty(len(chunk.inputs), channels, target[1] - target[0])
        for item, part in zip(chunk.inputs.split(1), output.split(1), strict=True):
            tiles.expand(self._steps, self._sizes, item, 0, limits, part, target)
        return output

    def _make_steps(self) -> list[Step]:
        """The network for `tiles`."""
        network, layers = self._network, self._layers
        run_block: Callable = layers.decoder_block if self._is_decoder else layers.encoder_block
        blocks = [
            Step(
                functools.partial(run_block, block),
                block.receptive_field,
                block.channels,
                up=block.stride if self._is_decoder else 1,
                down=1 if self._is_decoder else block.stride,
            )
            for block in network.blocks
        ]

        def run_last(hidden_states: torch.Tensor) -> torch.Tensor:
            return layers.leave(layers.conv(network.conv2, layers.snake(network.snake1, hidden_states)))

        def run_first(hidden_states: torch.Tensor) -> torch.Tensor:
            return layers.conv(network.conv1, layers.enter(hidden_states))

        return [_conv_step(run_first, network.conv1), *blocks, _conv_step(run_last, network.conv2)]

    def _bytes_of_chunk(self, num_frames: int) -> int:
        """Memory of a chunk: one tensor for each step and three more of the widest, none larger than a tile."""
        hop_length = math.prod(step.up * step.down for step in self._steps)
        if self._is_decoder:
            per_frame = [stop for _, stop in tiles.bounds(self._steps, 0, 1)[1:]]
        else:
            per_frame = [stop for _, stop in tiles.bounds(self._steps, 0, hop_length)[:-1]]
        values = [
            step.channels * min(num_frames * length, size)
            for step, size, length in zip(self._steps, self._sizes, per_frame, strict=True)
        ]
        return (sum(values) + 3 * max(values)) * self._itemsize


def _conv_step(run: Callable[[torch.Tensor], torch.Tensor], conv: WeightNormConv1d) -> Step:
    """A convolution with an odd kernel size that keeps the length, as a step for `tiles`."""
    return Step(run, conv.receptive_field, max(conv.in_channels, conv.out_channels))
