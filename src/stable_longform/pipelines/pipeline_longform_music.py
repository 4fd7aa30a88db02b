"""From a prompt and a duration to stereo music of up to the model's window (4m45s for the paper's model).

Paper: §2 and §3. Text, timing and time condition a diffusion transformer; DPM-Solver++ with classifier-free guidance
samples the whole window, which the model fills with silence after the asked duration; only the frames that were asked
for are decoded.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput, logging
from transformers import PreTrainedModel

from stable_longform import noise_schedule
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.clap_text_encoder import ClapTextEncoder, encode_texts
from stable_longform.models.timing_conditioner import TimingConditioner
from stable_longform.models.transformer_dit_1d import DiTTransformer1D
from stable_longform.pipelines import inputs
from stable_longform.pipelines.guidance import branches_in_turn, guide, make_conditions, predict_velocity
from stable_longform.pipelines.inputs import Generators
from stable_longform.pipelines.lora import LongFormMusicLoraLoaderMixin
from stable_longform.pipelines.stable_audio_folder import StableAudioFolderMixin

logger = logging.get_logger(__name__)

MEMORY_ALIGNMENT = 64  # bytes, that of torch's own allocations on a CPU


@dataclass
class LongFormMusicPipelineOutput(BaseOutput):
    """What the pipeline returns.

    Args:
        audios: for each item a waveform `(audio_channels, num_samples)` trimmed to its own duration, as a tensor or
            an array; with `output_type="latent"` one tensor `(batch_size, latent_channels, latent_length)`.
        sampling_rate: Hz.
    """

    audios: list[torch.Tensor] | list[np.ndarray] | torch.Tensor
    sampling_rate: int


class LongFormMusicPipeline(StableAudioFolderMixin, DiffusionPipeline, LongFormMusicLoraLoaderMixin):
    """Text to long-form music.

    Args:
        vae: `AutoencoderOobleck`.
        text_encoder: `ClapTextEncoder`; its next-to-last layer is the text condition. Paper: §2.4. A transformers
            encoder such as `T5EncoderModel` works as well, with the tokenizer's `model_max_length` tokens.
        tokenizer: of the text encoder.
        timing_conditioner: `TimingConditioner` for the start and the total duration in seconds. Paper: §2.2.
        transformer: `DiTTransformer1D`; its `sample_size` is the window in latent frames.
        scheduler: from `noise_schedule.make_scheduler`, or a `CosineDPMSolverMultistepScheduler`.
        mask_text_padding: hide padding tokens of the prompt from the transformer. The paper's code does not.
        zero_text_padding: set the features of padding tokens to zero, as models with T5 (Stable Audio Open) are
            trained. The paper's code, with CLAP, does not.
        guidance_interval: that of calls which don't give one, two rising times in [0, 1]. The paper's: (0, 1).

    Raises:
        ValueError: `guidance_interval` is not such a pair.
    """

    model_cpu_offload_seq = "text_encoder->timing_conditioner->transformer->vae"
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]

    def __init__(
        self,
        vae: AutoencoderOobleck,
        text_encoder: ClapTextEncoder | PreTrainedModel,
        tokenizer,
        timing_conditioner: TimingConditioner,
        transformer: DiTTransformer1D,
        scheduler,
        mask_text_padding: bool = False,
        zero_text_padding: bool = False,
        guidance_interval: list[float] | tuple[float, float] = (0.0, 1.0),
    ):
        super().__init__()
        inputs.check_interval(guidance_interval)
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            timing_conditioner=timing_conditioner,
            transformer=transformer,
            scheduler=scheduler,
        )
        self.register_to_config(
            mask_text_padding=mask_text_padding,
            zero_text_padding=zero_text_padding,
            guidance_interval=list(guidance_interval),
        )
        self._interrupt, self._current_timestep = False, None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs) -> "LongFormMusicPipeline":
        """Opens a folder or a Hub repository; arguments as in diffusers' `DiffusionPipeline.from_pretrained`.

        It may also have been saved by diffusers' `StableAudioPipeline`: its components become ours.

        Weights that come to lie at odd addresses of a mapped file are copied to aligned memory: kernels take another
        path for them, and the same weights would give another last bit before and after saving.
        """
        pipe = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        for component in pipe.components.values():
            if isinstance(component, torch.nn.Module):
                for tensor in (*component.parameters(), *component.buffers()):
                    if tensor.device.type == "cpu" and tensor.data_ptr() % MEMORY_ALIGNMENT:
                        tensor.data = tensor.data.clone()
        return pipe

    @property
    def sampling_rate(self) -> int:
        """Of the generated audio, in Hz."""
        return self.vae.config.sampling_rate

    @property
    def max_duration_in_s(self) -> float:
        """The model's window in seconds: the longest duration it can generate."""
        return self.transformer.config.sample_size * self.vae.hop_length / self.sampling_rate

    @property
    def interrupt(self) -> bool:
        """Set `_interrupt = True`, for example in a callback, to skip the steps that remain."""
        return self._interrupt

    @property
    def current_timestep(self) -> float | None:
        """Time t in [0, 1] of the step that is being computed, for diffusers' caches; None between generations."""
        return self._current_timestep

    def enable_vae_tiling(self, tile_latent_length: int | None = None, memory_in_bytes: int | None = None) -> None:
        """Decodes in chunks, with the same result as at once (the default); see `AutoencoderOobleck.enable_tiling`."""
        self.vae.enable_tiling(tile_latent_length, memory_in_bytes)

    def disable_vae_tiling(self) -> None:
        """Decodes each item at once."""
        self.vae.disable_tiling()

    def enable_vae_slicing(self) -> None:
        """Makes the autoencoder process batches one item at a time. Decoding here always does."""
        self.vae.enable_slicing()

    def disable_vae_slicing(self) -> None:
        """Undoes `enable_vae_slicing`."""
        self.vae.disable_slicing()

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        duration: float | Sequence[float] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        seconds_start: float | Sequence[float] = 0.0,
        seconds_total: float | Sequence[float] | None = None,
        num_inference_steps: int = 100,
        guidance_scale: float = 7.0,
        guidance_rescale: float = 0.0,
        guidance_interval: tuple[float, float] | None = None,
        num_waveforms_per_prompt: int = 1,
        generator: Generators = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        prompt_attention_mask: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        negative_prompt_attention_mask: torch.Tensor | None = None,
        output_type: str = "pt",
        return_dict: bool = True,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> LongFormMusicPipelineOutput | tuple:
        """Generates music.

        Args:
            prompt: one text or several; in the style of the training prompts, for example
                "Genre: Ambient|Instruments: Piano, Strings" or "ambient, piano, strings".
            duration: seconds of music to return, in (0, `max_duration_in_s`]; one value, or one for each prompt. None:
                the model's window.
            negative_prompt: what to steer away from; one text, or one for each prompt.
            seconds_start: where in the whole piece the music starts, in seconds; one value, or one for each prompt.
            seconds_total: duration of the whole piece in seconds; None: `seconds_start + duration`.
            num_inference_steps: sampling steps, each two evaluations of the transformer with guidance.
            guidance_scale: weight s of classifier-free guidance, v_u + s·(v_c − v_u); 1 switches it off.
            guidance_rescale: φ in [0, 1] of Lin et al. (2023): how far the guided prediction is brought back to the
                standard deviation of the conditional one, frame by frame.
            guidance_interval: times t, within [0, 1], between which guidance is on; None: the pipeline's own, (0, 1)
                unless its configuration says otherwise. Below 1 guidance leaves alone what is decided in the noise,
                such as where the music ends. Kynkäänniemi et al., arXiv 2404.07724.
            num_waveforms_per_prompt: results for each prompt.
            generator: for the noise; a list has one for each result, which then does not depend on its neighbours.
            latents: initial noise `(batch_size, latent_channels, sample_size)` of unit variance.
            prompt_embeds: instead of `prompt`, `(num_prompts, sequence_length, dim)`.
            prompt_attention_mask: boolean `(num_prompts, sequence_length)` for `prompt_embeds`, True = attend.
            negative_prompt_embeds: instead of `negative_prompt`, of the same shape as the prompt's embeddings.
            negative_prompt_attention_mask: boolean; tokens where it is False are zeroed.
            output_type: "pt" (tensors), "np" (arrays) or "latent" (not decoded).
            return_dict: an output object, or the tuple `(audios, sampling_rate)`.
            callback_on_step_end: called as `callback(pipe, step, t, tensors)` after each step; may return a dict of
                tensors to go on with.
            callback_on_step_end_tensor_inputs: names among "latents", "prompt_embeds" and "negative_prompt_embeds".

        Returns:
            `LongFormMusicPipelineOutput`.

        Raises:
            ValueError: an argument outside its range, before any work is done.
        """
        num_prompts = self._check_prompts(
            prompt,
            negative_prompt,
            prompt_embeds,
            prompt_attention_mask,
            negative_prompt_embeds,
            negative_prompt_attention_mask,
        )
        latest = self.timing_conditioner.config.max_value
        durations, starts, totals = inputs.check_timing(
            duration, seconds_start, seconds_total, num_prompts, self.max_duration_in_s, latest
        )
        inputs.check_count("num_inference_steps", num_inference_steps)
        guidance_interval = self.config.guidance_interval if guidance_interval is None else guidance_interval
        inputs.check_guidance(guidance_scale, guidance_rescale)
        inputs.check_interval(guidance_interval)
        inputs.check_count("num_waveforms_per_prompt", num_waveforms_per_prompt)
        inputs.check_output_type(output_type)
        inputs.check_callback_inputs(callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        noise_schedule.check_scheduler(self.scheduler)
        batch_size = num_prompts * num_waveforms_per_prompt
        generator = inputs.check_generator(generator, batch_size)
        latents = self._prepare_latents(batch_size, generator, latents)
        self._interrupt = False
        try:
            device = self._execution_device
            timesteps = noise_schedule.set_timesteps(self.scheduler, num_inference_steps, device)
            prompt_embeds, attention_mask = self.encode_prompt(prompt, prompt_embeds, prompt_attention_mask)
            negative_prompt_embeds = self._encode_negative(
                negative_prompt, negative_prompt_embeds, negative_prompt_attention_mask, prompt_embeds
            )
            timing = self.timing_conditioner(
                torch.tensor(starts, dtype=torch.float32, device=device),
                torch.tensor(totals, dtype=torch.float32, device=device),
            )
            repeated = (
                tensor.repeat_interleave(num_waveforms_per_prompt, dim=0) if tensor is not None else None
                for tensor in (
                    prompt_embeds,
                    attention_mask,
                    negative_prompt_embeds,
                    timing.encoder_hidden_states,
                    timing.global_hidden_states,
                )
            )
            prompt_embeds, attention_mask, negative_prompt_embeds, timing_tokens, global_states = repeated
            latents = latents.to(device) * self.scheduler.init_noise_sigma
            times = timesteps.tolist()  # read once, not to stall the device in each step
            is_guided = [guidance_scale != 1 and guidance_interval[0] <= t <= guidance_interval[1] for t in times]
            in_turn = branches_in_turn(self.transformer, latents)
            conditions = {}  # with and without guidance, made when first needed
            with self.progress_bar(total=num_inference_steps) as progress:
                for i, t in enumerate(timesteps):
                    if self.interrupt:
                        continue
                    self._current_timestep = times[i]
                    if is_guided[i] != is_guided[i - 1]:
                        self.transformer._reset_stateful_cache()  # of enable_cache: the batch has another size now
                    if is_guided[i] not in conditions:
                        negative = negative_prompt_embeds if is_guided[i] else None
                        fixed = (timing_tokens, global_states, attention_mask, in_turn)
                        conditions[is_guided[i]] = make_conditions(self.transformer, prompt_embeds, negative, *fixed)
                    noisy_latents = self.scheduler.scale_model_input(latents, t)
                    v = predict_velocity(self.transformer, noisy_latents, t, conditions[is_guided[i]])
                    if is_guided[i]:
                        v = guide(*v.chunk(2), guidance_scale, guidance_rescale)
                    latents = self.scheduler.step(v, t, latents, generator=generator, return_dict=False)[0]
                    if callback_on_step_end is not None:
                        tensors = {
                            "latents": latents,
                            "prompt_embeds": prompt_embeds,
                            "negative_prompt_embeds": negative_prompt_embeds,
                        }
                        chosen = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                        tensors |= callback_on_step_end(self, i, t, chosen) or {}
                        latents = tensors["latents"]
                        if tensors["prompt_embeds"] is not prompt_embeds or (
                            tensors["negative_prompt_embeds"] is not negative_prompt_embeds
                        ):
                            prompt_embeds = tensors["prompt_embeds"]
                            negative_prompt_embeds = tensors["negative_prompt_embeds"]
                            conditions.clear()
                    progress.update()
            if output_type == "latent":
                audios = latents
            else:
                durations = np.repeat(durations, num_waveforms_per_prompt)
                audios = [self.decode_latents(item, seconds) for item, seconds in zip(latents, durations, strict=True)]
                if output_type == "np":
                    audios = [audio.cpu().float().numpy() for audio in audios]
        finally:
            self._current_timestep = None
            self.maybe_free_model_hooks()
        return LongFormMusicPipelineOutput(audios, self.sampling_rate) if return_dict else (audios, self.sampling_rate)

    def encode_prompt(
        self,
        prompt: str | Sequence[str] | None = None,
        prompt_embeds: torch.Tensor | None = None,
        prompt_attention_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Turns prompts into the transformer's text condition.

        Args:
            prompt: one text or several; texts longer than the encoder's `max_length` are cut with a warning.
            prompt_embeds: `(num_prompts, sequence_length, dim)`, returned as they are instead of encoding `prompt`.
            prompt_attention_mask: boolean mask of `prompt_embeds`.

        Returns:
            `(embeddings (num_prompts, sequence_length, dim), mask)`: the boolean mask `(num_prompts,
            sequence_length)`, or None when all tokens are attended to, padding included, as in the paper's code.
        """
        device = self._execution_device
        if prompt_embeds is not None:
            mask = None if prompt_attention_mask is None else prompt_attention_mask.to(device)
            return prompt_embeds.to(device), mask
        embeddings, mask = self._encode_text(inputs.check_texts("prompt", prompt))
        return embeddings, mask if self.config.mask_text_padding else None

    @torch.no_grad()
    def decode_latents(self, latents: torch.Tensor, duration: float) -> torch.Tensor:
        """Decodes one item's latents `(latent_channels, latent_length)` to `(audio_channels, num_samples)`.

        Only the frames that `duration` seconds need are computed, in chunks; `num_samples` is the duration times the
        sampling rate, rounded.
        """
        num_samples = max(round(duration * self.sampling_rate), 1)
        num_frames = math.ceil(num_samples / self.vae.hop_length)
        return self.vae.decode(latents[None].to(self.vae.dtype), num_frames).sample[0, :, :num_samples]

    @torch.no_grad()
    def stream_latents(self, latents: torch.Tensor, duration: float) -> Iterator[torch.Tensor]:
        """Decodes as `decode_latents`, but yields chunks `(audio_channels, n)` as they are computed."""
        remaining = max(round(duration * self.sampling_rate), 1)
        num_frames = math.ceil(remaining / self.vae.hop_length)
        for chunk in self.vae.decode_stream(latents[None].to(self.vae.dtype), num_frames):
            yield chunk[0, :, :remaining]
            remaining -= chunk.shape[-1]

    def _encode_text(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings `(num_texts, max_length, dim)` and the boolean mask of real tokens."""
        max_length = inputs.text_length(self.text_encoder, self.tokenizer)
        for text, ids in zip(texts, self.tokenizer(texts).input_ids, strict=True):
            if len(ids) > max_length:
                logger.warning("The prompt has %d tokens, only %d are used: %r", len(ids), max_length, text)
        features, mask = encode_texts(self.text_encoder, self.tokenizer, texts, max_length, self._execution_device)
        features = self.timing_conditioner.project_text(features)
        if self.config.zero_text_padding:
            features = features * mask[..., None]
        return features, mask

    def _encode_negative(
        self,
        negative_prompt: str | Sequence[str] | None,
        negative_prompt_embeds: torch.Tensor | None,
        mask: torch.Tensor | None,
        prompt_embeds: torch.Tensor,
    ) -> torch.Tensor:
        """Text embeddings of the unguided branch: zeros, or the negative prompt's with its padding zeroed."""
        if negative_prompt is not None:
            texts = inputs.check_texts("negative_prompt", negative_prompt)
            negative_prompt_embeds, mask = self._encode_text(texts)
            if len(texts) == 1:
                negative_prompt_embeds = negative_prompt_embeds.expand(len(prompt_embeds), -1, -1)
        if negative_prompt_embeds is None:
            return torch.zeros_like(prompt_embeds)
        if mask is not None:
            negative_prompt_embeds = negative_prompt_embeds * mask.to(negative_prompt_embeds)[..., None]
        return negative_prompt_embeds.to(prompt_embeds)

    def _prepare_latents(self, batch_size: int, generator: Generators, latents: torch.Tensor | None) -> torch.Tensor:
        """Unit Gaussian noise `(batch_size, latent_channels, sample_size)` in float32, one generator an item if many.

        Noise is drawn on the generator's own device, on the CPU when there is none.
        """
        shape = (batch_size, self.transformer.config.in_channels, self.transformer.config.sample_size)
        if latents is not None:
            if latents.shape != shape:
                raise ValueError(f"latents must have shape {shape}, got {tuple(latents.shape)}.")
            return latents.float()
        generators = generator if isinstance(generator, list) else [generator] * batch_size
        return torch.stack(
            [torch.randn(shape[1:], generator=g, device="cpu" if g is None else g.device).cpu() for g in generators]
        )

    def _check_prompts(
        self,
        prompt: str | Sequence[str] | None,
        negative_prompt: str | Sequence[str] | None,
        prompt_embeds: torch.Tensor | None,
        prompt_attention_mask: torch.Tensor | None,
        negative_prompt_embeds: torch.Tensor | None,
        negative_prompt_attention_mask: torch.Tensor | None,
    ) -> int:
        """Checks the texts or their embeddings; returns the number of prompts."""
        if (prompt is None) == (prompt_embeds is None):
            raise ValueError("Give either prompt or prompt_embeds.")
        if negative_prompt is not None and negative_prompt_embeds is not None:
            raise ValueError("Give negative_prompt or negative_prompt_embeds, not both.")
        dim = self.transformer.config.cross_attention_input_dim
        inputs.check_embeddings("prompt_embeds", prompt_embeds, prompt_attention_mask, dim)
        num_prompts = len(prompt_embeds) if prompt is None else len(inputs.check_texts("prompt", prompt))
        inputs.check_embeddings(
            "negative_prompt_embeds", negative_prompt_embeds, negative_prompt_attention_mask, dim, num_prompts
        )
        if negative_prompt is not None:
            num_negative = len(inputs.check_texts("negative_prompt", negative_prompt))
            if num_negative not in (1, num_prompts):
                raise ValueError(f"negative_prompt must be one text or {num_prompts}, got {num_negative}.")
        if negative_prompt is not None or negative_prompt_embeds is not None:
            lengths = [
                inputs.text_length(self.text_encoder, self.tokenizer) if embeds is None else embeds.shape[1]
                for embeds in (prompt_embeds, negative_prompt_embeds)
            ]
            if lengths[0] != lengths[1]:
                raise ValueError(
                    "The embeddings of the prompt and of the negative prompt must have the same sequence length, "
                    f"got {lengths[0]} and {lengths[1]}."
                )
        return num_prompts
