"""Transforms music into other music: variations, other instruments, another style. Paper: §4.6.

The music is encoded, and the latents become noisy latents at the time `strength`. From there, they are sampled as in
text to music. The methods differ in the noise: it is drawn (SDEdit), found by inversion, or the same noise is used
with both prompts, so that it cancels.

References: Meng et al., "SDEdit", arXiv 2108.01073; for the others see `editing.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import diffusers
import torch

from stable_longform import noise_schedule
from stable_longform.pipelines import inputs, schedules
from stable_longform.pipelines.audio_inputs import Audio, read_audios
from stable_longform.pipelines.base import LongFormMusicPipelineBase, LongFormMusicPipelineOutput, Request
from stable_longform.pipelines.editing import EditVelocity, invert
from stable_longform.pipelines.guidance import Guidance
from stable_longform.pipelines.inputs import Generators, Prompt, Prompts, Timing
from stable_longform.pipelines.sampling import GuidedVelocity, Run
from stable_longform.schedulers import scheduling
from stable_longform.utils.accepted_values import EDIT_METHODS
from stable_longform.utils.ranges import check_choice


@dataclass(frozen=True)
class TransformPlan:
    """How music becomes other music.

    Args:
        method: one of `EDIT_METHODS`.
        is_all_noise: whether the sampling starts from noise alone, which is so if the strength reaches its first time.
        timing: of each prompt.
        source_prompts: what the original music is like.
        source_guidance: how strongly the velocity of the original music follows them.
    """

    method: str
    is_all_noise: bool
    timing: Timing
    source_prompts: Prompts
    source_guidance: Guidance


class LongFormMusicAudioToAudioPipeline(LongFormMusicPipelineBase):
    """Audio to long-form music. Its components and settings are those of `LongFormMusicPipelineBase`.

    `from_pipe` makes one from a text-to-music pipeline, or the other way round, without loading anything again.
    """

    @torch.no_grad()
    def __call__(
        self,
        prompt: Prompt | Sequence[Prompt] | None = None,
        audio: Audio | Sequence[Audio] | None = None,
        strength: float = 0.8,
        duration: float | Sequence[float] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        method: str = "noise",
        source_prompt: str | Sequence[str] | None = None,
        source_guidance_scale: float | None = None,
        sampling_rate: int | None = None,
        seconds_start: float | Sequence[float] = 0.0,
        seconds_total: float | Sequence[float] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
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
        window_in_s: float | None = None,
        audio_end_in_s: float | Sequence[float] | None = None,
        audio_start_in_s: float | Sequence[float] | None = None,
    ) -> LongFormMusicPipelineOutput | Any:
        """Transforms music. Arguments not described here are those of `LongFormMusicPipeline`.

        Args:
            prompt: for the result, as a text or in sections; None: music without a prompt.
            audio: one recording for all prompts, or one for each; a single prompt may have several recordings. A path,
                or a tensor or array `(channels, num_samples)` with full scale 1. Any rate; mono or stereo.
            strength: time t in (0, 1] at which sampling starts: near 0 the result is the music itself, at 1 it is
                independent of it. The noise level σ/α is tan(πt/2), for rectified flow t / (1 − t).
                stable-audio-tools' `init_noise_level` 0.1, 0.5, 1, 5, 10 and 100 correspond to 0.064, 0.295, 0.5,
                0.874, 0.937 and 0.994; for rectified flow it is the time itself.
            duration: seconds of music to return; None: as long as the audio. Longer audio is cut off, shorter audio
                is followed by silence.
            negative_prompt: what to steer away from.
            method: "noise" adds noise and removes it with the prompt. "invert" finds the noise from which the model
                would generate the music with the source prompt and without guidance, and samples from it; it keeps
                more of the music, takes twice the time and needs a deterministic scheduler. "edit" follows the
                difference between the source and the target prompt, without inversion; it takes twice the time too,
                and needs a deterministic scheduler or ping-pong.
            source_prompt: describes the music as it is now, for "invert" and "edit"; None: no prompt.
            source_guidance_scale: for the source prompt of "edit"; None: `guidance_scale`. "invert" uses no guidance.
            sampling_rate: rate in Hz of audio that is not a file; None: the model's.
            seconds_start: where in the whole piece the music starts, in seconds.
            seconds_total: duration of the whole piece in seconds.
            num_inference_steps: steps of the whole schedule from noise to music; only those after the start are taken.
            guidance_scale: weight of classifier-free guidance.
            guidance_rescale: φ in [0, 1].
            guidance_interval: times t between which guidance is on.
            num_waveforms_per_prompt: results for each prompt.
            generator: for the noise; a list has one for each result.
            latents: the noise `(batch_size, latent_channels, latent_length)` of unit variance, not for "invert".
            prompt_embeds: instead of `prompt`.
            prompt_attention_mask: of `prompt_embeds`.
            negative_prompt_embeds: instead of `negative_prompt`.
            negative_prompt_attention_mask: of `negative_prompt_embeds`.
            output_type: "pt", "np" or "latent".
            return_dict: an output object, or the tuple `(audios, sampling_rate)`.
            callback_on_step_end: called after each step, except those of an inversion.
            callback_on_step_end_tensor_inputs: names of the tensors that it receives.
            window_in_s: seconds that are sampled.
            audio_end_in_s: diffusers' name for `seconds_start + duration`.
            audio_start_in_s: diffusers' name for `seconds_start`.

        Returns:
            `LongFormMusicPipelineOutput`.

        Raises:
            ValueError: an argument is outside its range (raised before any work is done), or a result is not finite.
        """
        # Check before any work.
        self._require("Audio to audio", "transformer", "scheduler", "vae")
        strength = inputs.check_strength(strength)
        _check_method(method, source_prompt, source_guidance_scale, latents)
        waveforms = read_audios(audio, sampling_rate, self.sampling_rate, self.vae.config.audio_channels)
        if prompt_embeds is None:
            prompt = inputs.prompts_for(prompt, len(waveforms))
        embeds = (prompt_embeds, prompt_attention_mask, negative_prompt_embeds, negative_prompt_attention_mask)
        prompts = self._check_prompts(prompt, negative_prompt, *embeds)
        waveforms = inputs.one_for_each("audio", waveforms, len(prompts))
        source_prompts = self._check_source_prompts(source_prompt, negative_prompt, *embeds[2:], len(prompts))
        guidance = self._check_guidance(guidance_scale, guidance_rescale, guidance_interval)
        source_guidance = _check_source_guidance(method, guidance, source_guidance_scale)
        callback = self._check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        request = self._check_request(prompts, guidance, callback, num_waveforms_per_prompt, generator, output_type)
        duration, seconds_start = inputs.check_start_and_end(duration, seconds_start, audio_start_in_s, audio_end_in_s)
        if duration is None:
            duration = [waveform.shape[1] / self.sampling_rate for waveform in waveforms]
        timing, latent_lengths = self._check_timing(
            duration, seconds_start, seconds_total, len(prompts), window_in_s, self._check_noise(latents, request)
        )
        self._check_sections(prompts, timing.durations)
        scheduler, is_all_noise = self._check_start(strength, method, num_inference_steps)
        plan = TransformPlan(method, is_all_noise, timing, source_prompts, source_guidance)

        with self._running(request.guidance, len(scheduler.timesteps)) as run:
            # Encode.
            music = [
                self._encode_audio(waveform[:, : round(seconds * self.sampling_rate)], length)
                for waveform, seconds, length in zip(waveforms, timing.durations, latent_lengths, strict=True)
            ]
            self.maybe_free_model_hooks()
            # Sample.
            noise = None
            if method != "invert":
                noise = self._noise(latents, [latent_lengths[item] for item in request.items], request)
            sampled = self._transform(plan, music, noise, scheduler, run, request)
            # Decode.
            audios = self._decode(sampled, [timing.durations[item] for item in request.items], output_type)
        return LongFormMusicPipelineOutput(audios, self.sampling_rate) if return_dict else (audios, self.sampling_rate)

    # --- check

    def _check_source_prompts(
        self, source_prompt, negative_prompt, negative_embeds, negative_mask, num_prompts: int
    ) -> Prompts:
        """Checks the prompts of the original music, one for each prompt of the result, with the same negative ones."""
        texts = inputs.check_texts("source_prompt", "" if source_prompt is None else source_prompt)
        texts = inputs.one_for_each("source_prompt", texts, num_prompts)
        return self._check_prompts(texts, negative_prompt, None, None, negative_embeds, negative_mask)

    def _check_start(self, strength: float, method: str, num_inference_steps: int | None) -> tuple[Any, bool]:
        """A copy of the scheduler that starts at `strength`, and whether it starts from noise alone."""
        scheduler = self._check_scheduler(num_inference_steps)
        is_all_noise = method == "noise" and strength >= scheduler.timesteps[0]
        schedules.start_at(scheduler, strength, self.config.prediction_type)
        if method != "noise":
            schedules.check_deterministic(scheduler, method)
        return scheduler, bool(is_all_noise)

    # --- sample

    def _transform(
        self,
        plan: TransformPlan,
        music: Sequence[torch.Tensor],
        noise: Sequence[torch.Tensor] | None,
        scheduler,
        run: Run,
        request: Request,
    ) -> list[torch.Tensor]:
        """Latents `(latent_channels, latent_length)` of each result.

        Args:
            plan: what to do.
            music: latents of the audio of each prompt.
            noise: for each result, in the shape of its music; None for "invert".
            scheduler: starting at the strength.
            run: the state of the generation.
            request: the arguments that all pipelines share.
        """
        prompts, kind = request.prompts, self.config.prediction_type
        conditioning = self._make_conditioning(prompts, plan.timing).select(request.items)
        source_conditioning = self._make_conditioning(plan.source_prompts, plan.timing).select(request.items)

        def sample_items(items, follow, generator):
            numbers = [request.items[item] for item in items]
            before = torch.stack([music[number] for number in numbers])
            sectioned = self._in_sections(
                conditioning.select(items), prompts, numbers, self._frame_times(before.shape[-1])
            )
            velocity = GuidedVelocity(self.transformer, sectioned, run.guidance)
            source = GuidedVelocity(
                self.transformer, source_conditioning.select(items), plan.source_guidance, "source"
            )
            if noise is None:
                return follow(velocity, invert(source, scheduler, before, follow, kind))
            drawn = torch.stack([noise[item] for item in items]).to(before)
            if plan.is_all_noise:
                return follow(velocity, drawn * scheduling.init_noise_sigma(scheduler))
            t = scheduler.timesteps[0]
            start = schedules.in_scheduler_scale(scheduler, noise_schedule.add_noise(before, drawn, t, kind), t)
            if plan.method == "noise":
                return follow(velocity, start)
            edit = EditVelocity(
                velocity, source, before, drawn, scheduler, lambda: self._draw_noise_like(drawn, generator), kind
            )
            return follow(edit, start, before_step=edit.renew_noise)

        latent_lengths = [music[item].shape[-1] for item in request.items]
        num_paths = 2 if plan.method == "invert" else 1
        return self._sample(latent_lengths, sample_items, scheduler, run, request, num_paths)


def _check_source_guidance(method: str, guidance: Guidance, scale: float | None) -> Guidance:
    """The guidance of the original music's velocity: none for "invert", else that of the result, or its own scale."""
    if scale is not None:
        return replace(guidance, scale=inputs.check_guidance_scale(scale, "source_guidance_scale"))
    return Guidance(1.0) if method == "invert" else guidance


def _check_method(
    method: str, source_prompt, source_guidance_scale: float | None, latents: torch.Tensor | None
) -> None:
    """Raises a ValueError for an unknown method, or for arguments that the method does not use."""
    check_choice("method", method, EDIT_METHODS)
    if source_prompt is not None and method == "noise":
        raise ValueError("source_prompt is for method='invert' and method='edit', got method='noise'.")
    if source_guidance_scale is not None and method != "edit":
        raise ValueError(f"source_guidance_scale is for method='edit', got method={method!r}.")
    if latents is not None and method == "invert":
        raise ValueError("method='invert' finds the noise in the audio: give no latents.")


# `DiffusionPipeline.from_pretrained` looks here for the class that a folder names.
diffusers.LongFormMusicAudioToAudioPipeline = LongFormMusicAudioToAudioPipeline
