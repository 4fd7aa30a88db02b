"""The autoencoder between stereo waveforms and latents (Oobleck).

Paper: §2.1, figure 3 and table 1: 156 M parameters, 2048-fold downsampling, 64 latent channels, 21.5 latents a
second at 44.1 kHz. State-dict keys are those of diffusers' `AutoencoderOobleck`, so weights go both ways.

Conventions: waveforms are `(batch_size, audio_channels, num_samples)`, latents `(batch_size, latent_channels,
latent_length)`; one latent frame is `hop_length` samples. Long inputs are processed in chunks of whole frames that
carry the network's receptive field as context, which gives the same result as processing them whole.
"""

import contextlib
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from diffusers.utils.torch_utils import randn_tensor
from torch import nn

from stable_longform.models import tiles
from stable_longform.models.hooks import has_hooks
from stable_longform.models.oobleck_layers import (
    OobleckDecoder,
    OobleckEncoder,
    fuse_weight_norm,
    unfuse_weight_norm,
    weight_norm_fused,
)
from stable_longform.models.single_file import SingleFileMixin
from stable_longform.utils import key_maps

CACHE_IN_BYTES = 2**21  # of one activation of a tile on a CPU
DEFAULT_MEMORY_IN_BYTES = 2**28
MIN_TILE_LENGTH, MAX_TILE_LENGTH = 16, 512  # frames of a chunk whose length follows from the memory
MAX_LENGTH_ON_MPS = 2**15  # its convolutions take up to 65,536 positions


class DiagonalGaussian:
    """The posterior of the VAE: an independent Gaussian for each latent value.

    Args:
        parameters: `(batch_size, 2 * latent_channels, latent_length)`: means, then scales before softplus.
    """

    def __init__(self, parameters: torch.Tensor):
        self.mean, scale = parameters.chunk(2, dim=1)
        self.std = F.softplus(scale) + 1e-4

    def sample(self, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draws latents `(batch_size, latent_channels, latent_length)`."""
        noise = randn_tensor(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + self.std * noise

    def mode(self) -> torch.Tensor:
        """The most likely latents, which are the means."""
        return self.mean

    def kl(self) -> torch.Tensor:
        """Twice the divergence from a standard normal, summed over channels and averaged over batch and frames.

        The factor ½ is left out as in the code of the paper; the loss weight 1e-4 goes with this convention.
        """
        mean, var = self.mean.float(), self.std.float().square()
        return (mean.square() + var - var.log() - 1).sum(dim=1).mean()


@dataclass
class AutoencoderOobleckOutput(BaseOutput):
    """Output of `encode`: the posterior `latent_dist`."""

    latent_dist: DiagonalGaussian


@dataclass
class OobleckDecoderOutput(BaseOutput):
    """Output of `decode` and of the whole model.

    Args:
        sample: waveform `(batch_size, audio_channels, num_samples)`.
        posterior: of the encoder, when the model was called as a whole.
    """

    sample: torch.Tensor
    posterior: DiagonalGaussian | None = None


class AutoencoderOobleck(ModelMixin, ConfigMixin, SingleFileMixin):
    """The variational autoencoder of the paper. Paper: §2.1, figure 3, table 1 (157 M).

    Args:
        encoder_hidden_size: channels of the encoder at the full rate.
        downsampling_ratios: stride of each block, >= 2, from the waveform to the latents; product: `hop_length`.
        channel_multiples: width of each block's output, in units of `encoder_hidden_size` or `decoder_channels`.
        decoder_channels: channels of the decoder at the full rate.
        decoder_input_channels: latent channels. diffusers can only open `encoder_hidden_size` equal to twice this.
        audio_channels: 1 or 2.
        sampling_rate: Hz.
    """

    stable_audio_tools_prefix = "pretransform.model."
    _supports_gradient_checkpointing = True
    _no_split_modules = ["OobleckEncoderBlock", "OobleckDecoderBlock"]
    _group_offload_block_modules = ["encoder", "decoder"]

    @register_to_config
    def __init__(
        self,
        encoder_hidden_size: int = 128,
        downsampling_ratios: Sequence[int] = (2, 4, 4, 8, 8),
        channel_multiples: Sequence[int] = (1, 2, 4, 8, 16),
        decoder_channels: int = 128,
        decoder_input_channels: int = 64,
        audio_channels: int = 2,
        sampling_rate: int = 44100,
    ):
        super().__init__()
        if len(downsampling_ratios) != len(channel_multiples):
            raise ValueError(
                "downsampling_ratios and channel_multiples must have the same length, "
                f"got {len(downsampling_ratios)} and {len(channel_multiples)}."
            )
        if min(downsampling_ratios) < 2:
            raise ValueError(f"downsampling_ratios must be at least 2, got {tuple(downsampling_ratios)}.")
        self.hop_length = math.prod(downsampling_ratios)
        multiples = (1, *channel_multiples)
        self.encoder = OobleckEncoder(
            audio_channels,
            [encoder_hidden_size * multiple for multiple in multiples],
            downsampling_ratios,
            2 * decoder_input_channels,
        )
        self.decoder = OobleckDecoder(
            decoder_input_channels,
            [decoder_channels * multiple for multiple in multiples],
            downsampling_ratios,
            audio_channels,
        )
        self.encoder_context = tiles.context(self.encoder.steps(), self.hop_length, frames_are_inputs=False)
        self.decoder_context = tiles.context(self.decoder.steps(), self.hop_length, frames_are_inputs=True)
        self.use_slicing = False
        self.use_tiling = True
        self.tile_latent_length = None
        self.tile_memory_in_bytes = None

    def stable_audio_tools_names(self, prefix: str) -> tuple[list[key_maps.Rule], dict[str, torch.Tensor]]:
        """See `SingleFileMixin`."""
        return key_maps.autoencoder_rules(len(self.config.downsampling_ratios), prefix), {}

    @property
    def latent_rate(self) -> float:
        """Latent frames a second (21.53 for the paper's model)."""
        return self.config.sampling_rate / self.hop_length

    def enable_tiling(self, tile_latent_length: int | None = None, memory_in_bytes: int | None = None) -> None:
        """Encodes and decodes in chunks, with the same result as whole (this is the default).

        Args:
            tile_latent_length: frames in a chunk, at least 1; None: as many as `memory_in_bytes` allows, up to 512.
            memory_in_bytes: for the activations of all chunks that are computed at a time, at least 1; chunks do not
                get shorter than 16 frames. None: 256 MiB on a CPU, a quarter of a GPU's free memory.

        Raises:
            ValueError: a value less than 1.
        """
        for name, value in (("tile_latent_length", tile_latent_length), ("memory_in_bytes", memory_in_bytes)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        self.use_tiling, self.tile_latent_length = True, tile_latent_length
        self.tile_memory_in_bytes = memory_in_bytes

    def disable_tiling(self) -> None:
        """Encodes and decodes each input whole, which takes memory in proportion to its length."""
        self.use_tiling = False

    def enable_slicing(self) -> None:
        """Processes a batch one item at a time, to save memory."""
        self.use_slicing = True

    def disable_slicing(self) -> None:
        """Processes a batch at once."""
        self.use_slicing = False

    def fuse_weight_norm(self) -> None:
        """Computes every convolution's weight from its norm and direction once, for use without gradients.

        The parameters, and so saved checkpoints, stay as they are. Undone by `unfuse_weight_norm`, `train` and
        `load_state_dict`; after any other change of parameters, call it again. `encode` and `decode` do it by
        themselves for each call; this saves them the time and costs the memory of the weights.
        """
        fuse_weight_norm(self)

    def unfuse_weight_norm(self) -> None:
        """Undoes `fuse_weight_norm`."""
        unfuse_weight_norm(self)

    def train(self, mode: bool = True) -> "AutoencoderOobleck":
        """As `nn.Module.train`; training drops fused weights."""
        if mode:
            unfuse_weight_norm(self)
        return super().train(mode)

    def load_state_dict(self, *args, **kwargs):
        """As `nn.Module.load_state_dict`; drops fused weights."""
        unfuse_weight_norm(self)
        return super().load_state_dict(*args, **kwargs)

    @apply_forward_hook  # moves an offloaded model to its device
    def encode(
        self, waveform: torch.Tensor, sampling_rate: int | None = None, return_dict: bool = True
    ) -> AutoencoderOobleckOutput | tuple[DiagonalGaussian]:
        """Encodes a waveform.

        Args:
            waveform: `(batch_size, audio_channels, num_samples)`, in the model's dtype, values in [-1, 1]. A last
                partial frame is completed with silence.
            sampling_rate: the waveform's rate in Hz, checked against the model's when given.

        Returns:
            `AutoencoderOobleckOutput` with `latent_dist` over `ceil(num_samples / hop_length)` frames, or a tuple.

        Raises:
            ValueError: wrong number of dimensions or channels, no samples, another dtype or sampling rate.
        """
        self._check_waveform(waveform)
        if sampling_rate is not None and sampling_rate != self.config.sampling_rate:
            raise ValueError(f"sampling_rate must be {self.config.sampling_rate} Hz, got {sampling_rate}: resample.")
        num_frames = math.ceil(waveform.shape[-1] / self.hop_length)
        parameters = torch.cat(
            [tiles.concatenate(self._encode_tiles([item], num_frames), num_frames) for item in self._slices(waveform)]
        )
        posterior = DiagonalGaussian(parameters)
        return AutoencoderOobleckOutput(posterior) if return_dict else (posterior,)

    @apply_forward_hook  # moves an offloaded model to its device
    def encode_stream(self, waveforms: Iterable[torch.Tensor]) -> Iterator[DiagonalGaussian]:
        """Encodes a waveform that comes block by block, for example from a file, without gradients.

        The memory is that of a few chunks, however long the recording is.

        Args:
            waveforms: consecutive blocks `(batch_size, audio_channels, n)` of any lengths, as in `encode` otherwise,
                on any device. They are read as they are needed.

        Yields:
            posteriors of consecutive latents; side by side they are what `encode` returns for the blocks side by side.

        Raises:
            ValueError: as `encode`, when the block is read; or there is no block.
        """
        blocks = waveforms if self.device.type == "meta" else (block.to(self.device) for block in waveforms)
        for parameters in torch.no_grad()(self._encode_tiles)(blocks):
            yield DiagonalGaussian(parameters)

    @apply_forward_hook  # moves an offloaded model to its device
    def decode(
        self, latents: torch.Tensor, num_frames: int | None = None, return_dict: bool = True
    ) -> OobleckDecoderOutput | tuple[torch.Tensor]:
        """Decodes latents.

        Args:
            latents: `(batch_size, decoder_input_channels, latent_length)`, in the model's dtype.
            num_frames: decode only the first so many frames (with those behind them as context), in
                [1, `latent_length`]; None decodes all.

        Returns:
            `OobleckDecoderOutput` with `sample` `(batch_size, audio_channels, num_frames * hop_length)`, or a tuple.

        Raises:
            ValueError: wrong number of dimensions or channels, no frames, another dtype, `num_frames` out of range.
        """
        num_frames = self._check_latents(latents, num_frames)
        num_samples = num_frames * self.hop_length
        waveform = torch.cat(
            [tiles.concatenate(self._decode_tiles(item, num_frames), num_samples) for item in self._slices(latents)]
        )
        return OobleckDecoderOutput(waveform) if return_dict else (waveform,)

    @apply_forward_hook  # moves an offloaded model to its device
    def decode_stream(self, latents: torch.Tensor, num_frames: int | None = None) -> Iterator[torch.Tensor]:
        """Decodes latents chunk by chunk without gradients, for a file writer or a player.

        On a CPU a few chunks are computed ahead.

        Args:
            latents: as in `decode`.
            num_frames: as in `decode`.

        Returns:
            An iterator over consecutive waveforms `(batch_size, audio_channels, n)`; side by side they are what
            `decode` returns.

        Raises:
            ValueError: as `decode`, at once.
        """
        return torch.no_grad()(self._decode_tiles)(latents, self._check_latents(latents, num_frames))

    def forward(
        self,
        waveform: torch.Tensor,
        sample_posterior: bool = False,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> OobleckDecoderOutput | tuple[torch.Tensor, DiagonalGaussian]:
        """Encodes and decodes `(batch_size, audio_channels, num_samples)`; the result has the same shape.

        Args:
            waveform: as in `encode`.
            sample_posterior: decode a draw from the posterior (as in training) instead of its mean.
            generator: for that draw.
        """
        posterior = self.encode(waveform).latent_dist
        latents = posterior.sample(generator) if sample_posterior else posterior.mode()
        sample = self.decode(latents).sample[..., : waveform.shape[-1]]
        return OobleckDecoderOutput(sample, posterior) if return_dict else (sample, posterior)

    def _encode_tiles(
        self, waveforms: Iterable[torch.Tensor], num_frames: int | None = None
    ) -> Iterator[torch.Tensor]:
        """Yields posterior parameters of consecutive tiles; `num_frames` is their number where it is known."""
        steps, is_plain = self.encoder.steps(), self._runs_plain(self.encoder)
        num_threads = self._num_threads(is_plain)
        sizes = self._step_sizes(steps, 2048, is_plain)
        if self._runs_whole():
            tile = math.inf
        else:
            limits = tiles.bounds(steps, 0, self.hop_length)[:-1]
            tile = self._tile_length(tiles.costs(steps, sizes, limits), num_threads, num_frames)

        def run(window: tuple[torch.Tensor, int, tuple[int, int]]) -> torch.Tensor:
            samples, offset, target = window
            if is_plain:
                first = offset // self.hop_length
                return self.encoder(samples)[..., target[0] - first : target[1] - first]
            limits = tiles.bounds(steps, offset, offset + samples.shape[-1])
            items = [tiles.collect(steps, sizes, item, limits, target) for item in self._items(samples)]
            return items[0] if len(items) == 1 else torch.cat(items)

        blocks = (self._check_waveform(block) for block in waveforms)
        windows = tiles.windows(blocks, tile, self.encoder_context, self.hop_length)
        with contextlib.nullcontext() if is_plain else weight_norm_fused(self.encoder):
            yield from tiles.ordered_map(run, windows, num_threads)

    def _decode_tiles(self, latents: torch.Tensor, num_frames: int) -> Iterator[torch.Tensor]:
        """Yields waveforms of consecutive tiles."""
        steps, is_plain = self.decoder.steps(), self._runs_plain(self.decoder)
        num_threads = self._num_threads(is_plain)
        sizes = self._step_sizes(steps, 1024, is_plain)
        limits = tiles.bounds(steps, 0, latents.shape[-1])
        if self._runs_whole():
            tile = num_frames
        else:
            costs = tiles.costs(steps, sizes, tiles.bounds(steps, 0, 1)[1:])
            tile = self._tile_length(costs, num_threads, num_frames)

        def run(start: int) -> torch.Tensor:
            stop = min(start + tile, num_frames)
            first, last = start * self.hop_length, stop * self.hop_length
            if is_plain:
                left = max(start - self.decoder_context, 0)
                right = min(stop + self.decoder_context, latents.shape[-1])
                offset = left * self.hop_length
                return self.decoder(latents[..., left:right])[..., first - offset : last - offset]
            output = latents.new_empty(len(latents), self.config.audio_channels, last - first)
            for item, part in zip(self._items(latents), self._items(output), strict=True):
                tiles.expand(steps, sizes, item, 0, limits, part, (first, last))
            return output

        with contextlib.nullcontext() if is_plain else weight_norm_fused(self.decoder):
            yield from tiles.ordered_map(run, range(0, num_frames, tile), num_threads)

    def _runs_whole(self) -> bool:
        """Whether the input is processed at once: training never pays for context twice."""
        return torch.is_grad_enabled() or not self.use_tiling

    def _runs_plain(self, network: nn.Module) -> bool:
        """Whether a network must be called as such: in training, under autocast, compiled or with hooks."""
        if torch.is_grad_enabled() or self.training or torch.compiler.is_compiling():
            return True
        is_compiled = getattr(network, "_compiled_call_impl", None) is not None
        return has_hooks(network) or is_compiled or torch.is_autocast_enabled(self.device.type)

    def _num_threads(self, is_plain: bool) -> int:
        """Tiles computed at a time: one for each thread of a CPU."""
        return 1 if is_plain or self.device.type != "cpu" else torch.get_num_threads()

    def _items(self, batch: torch.Tensor) -> Sequence[torch.Tensor]:
        """What is computed together: single items on a CPU, whose cache holds no more."""
        return batch.split(1) if self.device.type == "cpu" else [batch]

    def _step_sizes(self, steps: Sequence[tiles.Step], least: int, is_plain: bool) -> list[int]:
        """Lengths of the tiles of each step: what a CPU's cache holds; on a GPU everything."""
        if self.device.type == "cpu" and not is_plain:
            return tiles.tile_lengths(steps, CACHE_IN_BYTES // self.dtype.itemsize, least, sys.maxsize)
        most = MAX_LENGTH_ON_MPS if self.device.type == "mps" else sys.maxsize
        return [most] * len(steps)

    def _tile_length(self, costs: list[tuple[float, float]], num_threads: int, num_frames: int | None) -> int:
        """Frames of a chunk, see `enable_tiling`; `costs` as in `tiles.num_values`."""
        if self.tile_latent_length is not None:
            return self.tile_latent_length
        budget = (self.tile_memory_in_bytes or _default_memory(self.device)) / num_threads
        length = MAX_TILE_LENGTH
        while length > MIN_TILE_LENGTH and tiles.num_values(costs, length) * self.dtype.itemsize > budget:
            length //= 2
        return length if num_frames is None else min(length, math.ceil(num_frames / num_threads))

    def _slices(self, batch: torch.Tensor) -> Sequence[torch.Tensor]:
        """The batch item by item when slicing is on."""
        return batch.split(1) if self.use_slicing else [batch]

    def _check_waveform(self, waveform: torch.Tensor) -> torch.Tensor:
        """Raises a ValueError unless the waveform can be encoded; returns it."""
        self._check(waveform, "waveform", ("audio_channels", self.config.audio_channels), "num_samples")
        return waveform

    def _check_latents(self, latents: torch.Tensor, num_frames: int | None) -> int:
        """Raises a ValueError unless so many frames of the latents can be decoded; returns how many."""
        channels = self.config.decoder_input_channels
        self._check(latents, "latents", ("decoder_input_channels", channels), "latent_length")
        num_frames = latents.shape[-1] if num_frames is None else num_frames
        if not 1 <= num_frames <= latents.shape[-1]:
            raise ValueError(f"num_frames must be in [1, {latents.shape[-1]}], got {num_frames}.")
        return num_frames

    def _check(self, tensor: torch.Tensor, name: str, channels: tuple[str, int], length_name: str) -> None:
        """Raises a ValueError unless the tensor is `(batch_size, channels, at least 1)` in the model's dtype."""
        if tensor.ndim != 3 or tensor.shape[1] != channels[1] or tensor.shape[2] < 1:
            raise ValueError(
                f"{name} must be (batch_size, {channels[0]}={channels[1]}, {length_name} >= 1), "
                f"got shape {tuple(tensor.shape)}."
            )
        if not torch.is_autocast_enabled(tensor.device.type) and tensor.dtype != self.dtype:
            raise ValueError(f"{name} must have the model's dtype {self.dtype}, got {tensor.dtype}.")


def _default_memory(device: torch.device) -> int:
    """Bytes for the activations of the chunks that are computed at a time."""
    return torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else DEFAULT_MEMORY_IN_BYTES
