"""The autoencoder between stereo waveforms and latents (Oobleck).

Paper: §2.1, figure 3 and table 1: 156 M parameters, 2048-fold downsampling, 64 latent channels, 21.5 latents a
second at 44.1 kHz. State-dict keys are those of diffusers' `AutoencoderOobleck`, so weights go both ways.

Conventions: waveforms are `(batch_size, audio_channels, num_samples)`, latents `(batch_size, latent_channels,
latent_length)`; one latent frame is `hop_length` samples. Long inputs are processed in exact chunks, see `chunks.py`.
In diffusers' method names, a chunk is called a tile and one item of a batch a slice.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from diffusers.utils.accelerate_utils import apply_forward_hook

from stable_longform.models.acceleration.engine import engine_for
from stable_longform.models.bfloat16_decoding import Bfloat16DecodingMixin
from stable_longform.models.checked_loading import CheckedModelMixin, check_integer_lists, check_integers
from stable_longform.models.chunks import ChunkedModelMixin, join, latent_chunks, waveform_chunks
from stable_longform.models.diagonal_gaussian import DiagonalGaussian
from stable_longform.models.oobleck_layers import OobleckDecoder, OobleckEncoder
from stable_longform.models.single_file import SingleFileMixin
from stable_longform.models.stable_audio_tools_keys import AUTOENCODER_PREFIX, autoencoder_keys


@dataclass
class AutoencoderOobleckOutput(BaseOutput):
    """Output of `encode`: the posterior `latent_dist`."""

    latent_dist: DiagonalGaussian


@dataclass
class OobleckDecoderOutput(BaseOutput):
    """Output of `decode` and of the whole model.

    Args:
        sample: waveform `(batch_size, audio_channels, num_samples)`.
        posterior: what the encoder returned, if the whole model was called.
    """

    sample: torch.Tensor
    posterior: DiagonalGaussian | None = None


class AutoencoderOobleck(
    CheckedModelMixin, ModelMixin, ConfigMixin, ChunkedModelMixin, Bfloat16DecodingMixin, SingleFileMixin
):
    """The variational autoencoder of the paper. Paper: §2.1, figure 3, table 1 (157 M).

    Args:
        encoder_hidden_size: channels of the encoder at the full rate.
        downsampling_ratios: stride of each block, >= 2, from the waveform to the latents; product: `hop_length`.
        channel_multiples: width of each block's output, in units of `encoder_hidden_size` or `decoder_channels`.
        decoder_channels: channels of the decoder at the full rate.
        decoder_input_channels: latent channels. diffusers can only open `encoder_hidden_size` equal to twice this.
        audio_channels: 1 or 2.
        sampling_rate: Hz.

    Raises:
        ValueError: a value is not an integer or out of range, or the lists have different lengths.
    """

    stable_audio_tools_prefix = AUTOENCODER_PREFIX
    stable_audio_tools_keys = staticmethod(autoencoder_keys)
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
        check_integers(
            self.config, "encoder_hidden_size", "decoder_channels", "decoder_input_channels", "audio_channels"
        )
        check_integers(self.config, "sampling_rate", high=10**6)
        check_integer_lists(self.config, "channel_multiples")
        check_integer_lists(self.config, "downsampling_ratios", low=2)
        if len(downsampling_ratios) != len(channel_multiples):
            lengths = f"{len(downsampling_ratios)} and {len(channel_multiples)}"
            raise ValueError(f"downsampling_ratios and channel_multiples must have the same length, got {lengths}.")
        self.hop_length = math.prod(downsampling_ratios)
        multiples, strides, latent_channels = (1, *channel_multiples), downsampling_ratios, decoder_input_channels
        encoder_widths = [encoder_hidden_size * multiple for multiple in multiples]
        decoder_widths = [decoder_channels * multiple for multiple in multiples]
        self.encoder = OobleckEncoder(audio_channels, encoder_widths, strides, 2 * latent_channels)
        self.decoder = OobleckDecoder(latent_channels, decoder_widths, strides, audio_channels)
        self.encoder_context = self.encoder.context(self.hop_length)
        self.decoder_context = self.decoder.context(self.hop_length)

    @property
    def latent_rate(self) -> float:
        """Latent frames a second (21.53 for the paper's model)."""
        return self.config.sampling_rate / self.hop_length

    @apply_forward_hook  # moves an offloaded model to its device
    def encode(
        self, waveform: torch.Tensor, sampling_rate: int | None = None, return_dict: bool = True
    ) -> AutoencoderOobleckOutput | tuple[DiagonalGaussian]:
        """Encodes a waveform.

        Args:
            waveform: `(batch_size, audio_channels, num_samples)`, in the model's dtype, values in [-1, 1]. If the
                last frame is incomplete, it is padded with silence.
            sampling_rate: the waveform's rate in Hz; if given, it must be the model's.

        Returns:
            `AutoencoderOobleckOutput` with `latent_dist` over `ceil(num_samples / hop_length)` frames, or a tuple.

        Raises:
            ValueError: wrong number of dimensions or channels, no samples, another dtype or sampling rate.
        """
        self._check("waveform", waveform, "audio_channels", "num_samples")
        if sampling_rate is not None and sampling_rate != self.config.sampling_rate:
            raise ValueError(f"sampling_rate must be {self.config.sampling_rate} Hz, got {sampling_rate}: resample.")
        num_frames = -(-waveform.shape[-1] // self.hop_length)
        parameters = torch.cat(
            [join(self._encode_chunks([item], num_frames), num_frames) for item in self._slices(waveform)]
        )
        posterior = DiagonalGaussian(parameters)
        return AutoencoderOobleckOutput(posterior) if return_dict else (posterior,)

    @apply_forward_hook
    def encode_stream(self, waveforms: Iterable[torch.Tensor]) -> Iterator[DiagonalGaussian]:
        """Encodes a waveform that comes block by block, for example from a file, without gradients.

        It needs the memory of a few chunks, however long the recording is.

        Args:
            waveforms: consecutive blocks `(batch_size, audio_channels, n)` of any lengths and on any device, otherwise
                as in `encode`. They are read one by one as needed.

        Yields:
            posteriors of consecutive latents. Concatenated, they are what `encode` returns for the whole waveform.

        Raises:
            ValueError: there is no block; or, when a block is read, for the same reasons as `encode`.
        """
        blocks = waveforms if self.device.type == "meta" else (block.to(self.device) for block in waveforms)
        for parameters in torch.no_grad()(self._encode_chunks)(blocks):
            yield DiagonalGaussian(parameters)

    @apply_forward_hook  # moves an offloaded model to its device
    def decode(
        self, latents: torch.Tensor, num_frames: int | None = None, return_dict: bool = True
    ) -> OobleckDecoderOutput | tuple[torch.Tensor]:
        """Decodes latents.

        Args:
            latents: `(batch_size, decoder_input_channels, latent_length)`, in the model's dtype.
            num_frames: decode only this number of frames (with the following ones as context), in
                [1, `latent_length`]; None decodes all.

        Returns:
            `OobleckDecoderOutput` with `sample` `(batch_size, audio_channels, num_frames * hop_length)`, or a tuple.

        Raises:
            ValueError: wrong number of dimensions or channels, no frames, another dtype, `num_frames` out of range.
        """
        num_frames = self._check_latents(latents, num_frames)
        num_samples = num_frames * self.hop_length
        waveform = torch.cat(
            [join(self._decode_chunks(item, num_frames), num_samples) for item in self._slices(latents)]
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
            An iterator over consecutive waveforms `(batch_size, audio_channels, n)`. Concatenated, they are what
            `decode` returns.

        Raises:
            ValueError: as in `decode`, raised by this call and not by the first chunk.
        """
        return torch.no_grad()(self._decode_chunks)(latents, self._check_latents(latents, num_frames))

    def forward(
        self,
        sample: torch.Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> OobleckDecoderOutput | tuple[torch.Tensor]:
        """Encodes and decodes `(batch_size, audio_channels, num_samples)`; the result has the same shape.

        Args:
            sample: a waveform, as in `encode`.
            sample_posterior: decode a sample from the posterior (as in training) instead of its mean.
            return_dict: whether to return an output object or the tuple `(sample,)`.
            generator: for sampling from the posterior.
        """
        posterior = self.encode(sample).latent_dist
        latents = posterior.sample(generator) if sample_posterior else posterior.mode()
        decoded = self.decode(latents).sample[..., : sample.shape[-1]]
        return OobleckDecoderOutput(decoded, posterior) if return_dict else (decoded,)

    def _encode_chunks(
        self, waveforms: Iterable[torch.Tensor], num_frames: int | None = None
    ) -> Iterator[torch.Tensor]:
        """Yields the posterior's parameters for consecutive chunks; `num_frames` is the total if it is known."""
        engine = engine_for(self.encoder, self.device, num_frames)
        length = self._chunk_length(num_frames, self.config.encoder_hidden_size, engine and engine.plan)
        blocks = (self._check("waveform", block, "audio_channels", "num_samples") for block in waveforms)
        chunks = waveform_chunks(blocks, length, self.encoder_context, self.hop_length)
        if engine is not None:
            yield from engine.run(chunks)
            return
        for samples, start, stop in chunks:
            yield self.encoder(samples)[..., start:stop]

    def _decode_chunks(self, latents: torch.Tensor, num_frames: int) -> Iterator[torch.Tensor]:
        """Yields the waveforms of consecutive chunks."""
        engine = engine_for(self.decoder, self.device, num_frames, self.use_bfloat16_decoding)
        length = self._chunk_length(num_frames, self.config.decoder_channels, engine and engine.plan)
        chunks = latent_chunks(latents, num_frames, length, self.decoder_context)
        if engine is not None:
            yield from engine.run(chunks)
            return
        for frames, start, stop in chunks:
            yield self.decoder(frames)[..., start * self.hop_length : stop * self.hop_length]

    def _check_latents(self, latents: torch.Tensor, num_frames: int | None) -> int:
        """Returns the number of frames to decode, or raises a ValueError."""
        self._check("latents", latents, "decoder_input_channels", "latent_length")
        num_frames = latents.shape[-1] if num_frames is None else num_frames
        if not 1 <= num_frames <= latents.shape[-1]:
            raise ValueError(f"num_frames must be in [1, {latents.shape[-1]}], got {num_frames}.")
        return num_frames

    def _check(self, name: str, tensor: torch.Tensor, channels: str, length: str) -> torch.Tensor:
        """Returns a tensor `(at least 1, channels, at least 1)` in the model's dtype; else raises a ValueError."""
        if tensor.ndim != 3 or tensor.shape[1] != self.config[channels] or 0 in tensor.shape:
            shape = f"(batch_size >= 1, {channels}={self.config[channels]}, {length} >= 1)"
            raise ValueError(f"{name} must be {shape}, got shape {tuple(tensor.shape)}.")
        if not torch.is_autocast_enabled(tensor.device.type) and tensor.dtype != self.dtype:
            raise ValueError(f"{name} must have the model's dtype {self.dtype}, got {tensor.dtype}.")
        return tensor
