"""Generates stereo music from a prompt and a duration, up to the model's window (4m45s for the paper's model).

Paper: §2 and §3. Text, timing and time condition a diffusion transformer. DPM-Solver++ with classifier-free guidance
samples the whole window, which the model fills with silence after the requested duration. Only the requested frames
are decoded.
"""

from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import torch

from stable_longform.pipelines import inputs
from stable_longform.pipelines.base import LongFormMusicPipelineBase, LongFormMusicPipelineOutput
from stable_longform.pipelines.dissimilarity import DissimilarityGuidance, DissimilarVelocity
from stable_longform.pipelines.inputs import Generators, Prompt
from stable_longform.pipelines.sampling import GuidedVelocity
from stable_longform.schedulers import scheduling


class LongFormMusicPipeline(LongFormMusicPipelineBase):
    """Text to long-form music. Its components and settings are those of `LongFormMusicPipelineBase`.

    Generations may run in several threads at the same time, unless components are offloaded or cached.
    """

    @torch.no_grad()
    def __call__(
        self,
        prompt: Prompt | Sequence[Prompt] | None = None,
        duration: float | Sequence[float] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
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
        timesteps: Sequence[float] | None = None,
        dissimilarity: DissimilarityGuidance | None = None,
    ) -> LongFormMusicPipelineOutput | Any:
        """Generates music.

        Args:
            prompt: one text or several, in the style of the training prompts, for example
                "Genre: Ambient|Instruments: Piano, Strings" or "ambient, piano, strings". "" means no prompt. Instead
                of a text, a prompt can be a list of sections `[(0, "intro, piano"), (30, "chorus, full band")]`, each
                with its start in seconds: a frame attends to the prompt of its own section.
            duration: seconds of music to return, in (0, `max_duration_in_s`]; one value, or one for each prompt. None:
                the model's longest window.
            negative_prompt: what to steer away from; one text, or one for each prompt. "" means none.
            seconds_start: where in the whole piece the music starts, in seconds; one value, or one for each prompt.
            seconds_total: duration of the whole piece in seconds, greater than `seconds_start`; None:
                `seconds_start + duration`.
            num_inference_steps: sampling steps, in [1, 1000]. With guidance, each step evaluates the transformer
                twice. None: the checkpoint's default, which is 100 unless its configuration sets it.
            guidance_scale: weight s of classifier-free guidance, v_u + s·(v_c − v_u), in [-100, 100]; 1 switches it
                off, 0 follows only the negative prompt. None: the checkpoint's default, which is 7 unless its
                configuration sets it.
            guidance_rescale: φ in [0, 1] of Lin et al. (2023): how far the guided prediction is rescaled to the
                standard deviation of the conditional one, frame by frame.
            guidance_interval: times t, within [0, 1], between which guidance is on; None: the checkpoint's default,
                which is (0, 1) unless its configuration sets it. With an upper limit below 1, guidance does not affect
                what is decided at high noise levels, such as where the music ends. Kynkäänniemi et al., arXiv
                2404.07724. stable-audio-tools compares sin(πt/2) instead: its 0.988 is 0.9 here. A narrow interval may
                contain no step at all.
            num_waveforms_per_prompt: results for each prompt; at most 1024 results in all.
            generator: for the noise; a list has one for each result, which then does not depend on the other results.
            latents: initial noise `(batch_size, latent_channels, latent_length)` of unit variance. Its length is the
                window, at most `transformer.config.sample_size`.
            prompt_embeds: instead of `prompt`, `(num_prompts, sequence_length, dim)`; all zero for no prompt.
            prompt_attention_mask: boolean `(num_prompts, sequence_length)` for `prompt_embeds`, True = attend.
            negative_prompt_embeds: instead of `negative_prompt`, with the same shape as the prompt's embeddings.
            negative_prompt_attention_mask: boolean; tokens where it is False are zeroed.
            output_type: "pt" (tensors), "np" (arrays) or "latent" (not decoded).
            return_dict: an output object, or the tuple `(audios, sampling_rate)`.
            callback_on_step_end: called as `callback(pipe, step, t, tensors)` after each step; may return a dict of
                tensors to continue with, and set `pipe.guidance_scale` or `pipe._interrupt`. If items have different
                windows, it is called for all steps of one window, then for the next.
            callback_on_step_end_tensor_inputs: names among "latents", "prompt_embeds" and "negative_prompt_embeds".
            window_in_s: seconds that are sampled, of which `duration` are returned; at most `max_duration_in_s`.
                None: for each item the smallest sufficient window that the model was trained on, see the class. Noise
                is drawn in the size of the window, so another window gives different music.
            audio_end_in_s: diffusers' name for `seconds_start + duration`, instead of `duration`.
            audio_start_in_s: diffusers' name for `seconds_start`.
            timesteps: times t in (0, 1] of the steps, strictly falling, instead of `num_inference_steps`.
            dissimilarity: latents of music that the result must not resemble; see `DissimilarityGuidance`.

        Returns:
            `LongFormMusicPipelineOutput`.

        Raises:
            ValueError: an argument is outside its range (raised before any work is done), or a result is not finite.
        """
        # Check before any work.
        self._require("Generating", "transformer", "scheduler")
        embeds = (prompt_embeds, prompt_attention_mask, negative_prompt_embeds, negative_prompt_attention_mask)
        prompts = self._check_prompts(prompt, negative_prompt, *embeds)
        guidance = self._check_guidance(guidance_scale, guidance_rescale, guidance_interval)
        callback = self._check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        request = self._check_request(prompts, guidance, callback, num_waveforms_per_prompt, generator, output_type)
        duration, seconds_start = inputs.check_start_and_end(duration, seconds_start, audio_start_in_s, audio_end_in_s)
        timing, latent_lengths = self._check_timing(
            duration, seconds_start, seconds_total, len(prompts), window_in_s, self._check_noise(latents, request)
        )
        self._check_sections(prompts, timing.durations)
        scheduler = self._check_scheduler(num_inference_steps, timesteps)
        if dissimilarity is not None:
            dissimilarity.check_channels(self.transformer.config.in_channels)

        with self._running(request.guidance, len(scheduler.timesteps)) as run:
            # Sample.
            latent_lengths = [latent_lengths[item] for item in request.items]
            noise = self._noise(latents, latent_lengths, request)
            conditioning = self._make_conditioning(prompts, timing).select(request.items)

            def sample_items(items, follow, generator):
                start = torch.stack([noise[item] for item in items]).to(self._execution_device)
                numbers, times = [request.items[item] for item in items], self._frame_times(start.shape[-1])
                sectioned = self._in_sections(conditioning.select(items), prompts, numbers, times)
                velocity = GuidedVelocity(self.transformer, sectioned, run.guidance)
                if dissimilarity is not None:
                    velocity = DissimilarVelocity(velocity, dissimilarity, self.config.prediction_type)
                return follow(velocity, start * scheduling.init_noise_sigma(scheduler))

            sampled = self._sample(latent_lengths, sample_items, scheduler, run, request)
            # Decode.
            audios = self._decode(sampled, [timing.durations[item] for item in request.items], output_type)
        return LongFormMusicPipelineOutput(audios, self.sampling_rate) if return_dict else (audios, self.sampling_rate)


# `DiffusionPipeline.from_pretrained` looks here for the class that a folder names.
diffusers.LongFormMusicPipeline = LongFormMusicPipeline
