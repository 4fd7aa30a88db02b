"""Inpainting, continuation at either end, and loops, with a model that was not trained for these tasks.

In each step, the kept music is inserted into the noisy latents at the noise level of the step. Every step is repeated
so that the new music can adapt to it. Music longer than the model's window is sampled in overlapping windows.

References: Lugmayr et al., "RePaint", arXiv 2201.09865. Bar-Tal et al., "MultiDiffusion", arXiv 2302.08113.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import diffusers
import numpy as np
import torch

from stable_longform.pipelines import inputs
from stable_longform.pipelines.audio_inputs import Audio, read_audios
from stable_longform.pipelines.base import (
    LongFormMusicPipelineBase,
    LongFormMusicPipelineOutput,
    Request,
    check_finite,
)
from stable_longform.pipelines.guidance import Conditioning, Guidance
from stable_longform.pipelines.inputs import Generators, Prompt, Prompts, Timing
from stable_longform.pipelines.pieces import (
    EditedPiece,
    check_crossfade,
    check_extension,
    check_regions,
    crossfade,
    find_stretches,
    lay_out,
    runs,
)
from stable_longform.pipelines.repaint import KeptMusic
from stable_longform.pipelines.sampling import GuidedVelocity, Run, WindowedVelocity
from stable_longform.pipelines.windows import place_window, window_starts
from stable_longform.schedulers import scheduling
from stable_longform.utils.accepted_values import MAX_REPEATS
from stable_longform.utils.recordings import MAX_DURATION_IN_S

OUTPUT_TYPES = (*inputs.OUTPUT_TYPES, "stream")


@dataclass(frozen=True)
class Span:
    """Frames of one result that are sampled at once.

    Args:
        result: number of the result.
        item: number of its prompt and its piece.
        start: first frame.
        stop: the frame after the last one.
        length: frames that are sampled; those after `stop` are discarded.
    """

    result: int
    item: int
    start: int
    stop: int
    length: int


@dataclass(frozen=True)
class InpaintPlan:
    """What is sampled, and where.

    Args:
        places: the piece of each prompt, and how many samples later than the music it starts, see `pieces.lay_out`.
        spans: of all results.
        timing: of each prompt.
        window: largest number of frames that the model sees at once.
        num_repeats: how often each step is taken.
    """

    places: list[tuple[EditedPiece, int]]
    spans: list[Span]
    timing: Timing
    window: int
    num_repeats: int


class LongFormMusicInpaintPipeline(LongFormMusicPipelineBase):
    """Replaces parts of music. Its components and settings are those of `LongFormMusicPipelineBase`.

    `from_pipe` makes one from a text-to-music pipeline, or the other way round, without loading anything again.
    """

    @torch.no_grad()
    def __call__(
        self,
        prompt: Prompt | Sequence[Prompt] | None = None,
        audio: Audio | Sequence[Audio] | None = None,
        regions: Sequence[tuple[float, float]] | None = None,
        mask: torch.Tensor | np.ndarray | None = None,
        extend_to: float | None = None,
        prepend_in_s: float = 0.0,
        loop: bool = False,
        context_in_s: float | None = None,
        crossfade_in_s: float | None = None,
        num_repeats: int = 3,
        negative_prompt: str | Sequence[str] | None = None,
        sampling_rate: int | None = None,
        seconds_start: float | Sequence[float] = 0.0,
        seconds_total: float | Sequence[float] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float = 0.0,
        guidance_interval: tuple[float, float] | None = None,
        num_waveforms_per_prompt: int = 1,
        generator: Generators = None,
        prompt_embeds: torch.Tensor | None = None,
        prompt_attention_mask: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        negative_prompt_attention_mask: torch.Tensor | None = None,
        output_type: str = "pt",
        return_dict: bool = True,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        window_in_s: float | None = None,
        timesteps: Sequence[float] | None = None,
    ) -> LongFormMusicPipelineOutput | Any:
        """Replaces parts of music. Arguments not described here are those of `LongFormMusicPipeline`.

        Kept music is in the result bit for bit, at the model's rate. The result may last up to an hour.

        Args:
            prompt: for the whole piece, as a text or in sections; None: music without a prompt.
            audio: one recording for all prompts, or one for each; a single prompt may have several recordings. A path,
                or a tensor or array `(channels, num_samples)` with full scale 1. Any rate; mono or stereo.
            regions: `(start, stop)` to replace, in seconds of the audio; rising, not overlapping.
            mask: the regions as latent frames instead: boolean tensor or array `(latent_length,)`, True = replace.
                `latent_length` is the number of samples at the model's rate divided by `vae.hop_length`, rounded up.
            extend_to: duration of the result in seconds; the music continues after the audio.
            prepend_in_s: seconds of new music before the audio.
            loop: make a loop: the end of the result leads back to its beginning, and new music there connects them.
            context_in_s: seconds of kept music that the model hears on either side of a new part; None: as much as
                fits into its window.
            crossfade_in_s: seconds of crossfade at the borders of a new part, inside it; at most half of the shortest
                one. None: 0.05 s, or half of a part that is shorter than 0.1 s. The fade is from the old music, or
                from the mirror image of the neighbouring music where there was none.
            num_repeats: how often each step is taken, in [1, 100]; 1: no repetition. The time is proportional to it.
            negative_prompt: what to steer away from.
            sampling_rate: rate in Hz of audio that is not a file; None: the model's.
            seconds_start: where in a longer piece the result starts, in seconds.
            seconds_total: duration of that piece in seconds; None: to the end of the result.
            num_inference_steps: sampling steps.
            guidance_scale: weight of classifier-free guidance.
            guidance_rescale: φ in [0, 1].
            guidance_interval: times t between which guidance is on.
            num_waveforms_per_prompt: results for each prompt.
            generator: for the noise; a list has one for each result.
            prompt_embeds: instead of `prompt`.
            prompt_attention_mask: of `prompt_embeds`.
            negative_prompt_embeds: instead of `negative_prompt`.
            negative_prompt_attention_mask: of `negative_prompt_embeds`.
            output_type: "pt", "np", "latent" or "stream". With "stream", each of `audios` is an iterator over
                consecutive chunks `(audio_channels, n)`, which are decoded one by one, so that the memory does not
                grow with the duration.
            return_dict: an output object, or the tuple `(audios, sampling_rate)`.
            callback_on_step_end: called after each step. Parts far from each other are sampled one after the other.
            callback_on_step_end_tensor_inputs: names of the tensors that it receives.
            window_in_s: seconds that are sampled at once, at most `max_duration_in_s`.
            timesteps: times t in (0, 1] of the steps, instead of `num_inference_steps`.

        Returns:
            `LongFormMusicPipelineOutput`.

        Raises:
            ValueError: an argument is outside its range (raised before any work is done), or a result is not finite.
        """
        # Check before any work.
        self._require("Inpainting", "transformer", "scheduler", "vae")
        waveforms = read_audios(audio, sampling_rate, self.sampling_rate, self.vae.config.audio_channels)
        if prompt_embeds is None:
            prompt = inputs.prompts_for(prompt, len(waveforms))
        embeds = (prompt_embeds, prompt_attention_mask, negative_prompt_embeds, negative_prompt_attention_mask)
        prompts = self._check_prompts(prompt, negative_prompt, *embeds)
        waveforms = inputs.one_for_each("audio", waveforms, len(prompts))
        loop = inputs.check_flag("loop", loop)
        places = [self._lay_out(waveform, regions, mask, extend_to, prepend_in_s, loop) for waveform in waveforms]
        pieces = [piece for piece, _ in places]
        context = None if context_in_s is None else self._frames("context_in_s", context_in_s)
        new_parts = [(a / self.sampling_rate, b / self.sampling_rate) for piece in pieces for a, b in piece.regions]
        fade = round(check_crossfade(crossfade_in_s, new_parts) * self.sampling_rate)
        num_repeats = inputs.check_count("num_repeats", num_repeats, MAX_REPEATS)
        guidance = self._check_guidance(guidance_scale, guidance_rescale, guidance_interval)
        callback = self._check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        request = self._check_request(
            prompts, guidance, callback, num_waveforms_per_prompt, generator, output_type, OUTPUT_TYPES
        )
        durations = [piece.num_samples / self.sampling_rate for piece in pieces]
        timing = inputs.check_place(durations, seconds_start, seconds_total, len(prompts))
        window = self._window_sizes.max_length if window_in_s is None else self._window_sizes.length(window_in_s)
        self._check_sections(prompts, durations)
        scheduler = self._check_scheduler(num_inference_steps, timesteps)

        spans = self._find_spans(request.items, pieces, context, window, window_in_s is not None)
        plan = InpaintPlan(places, spans, timing, window, num_repeats)

        with self._running(request.guidance, len(scheduler.timesteps)) as run:
            # Encode.
            kept = [self._encode_kept(piece) for piece in pieces]
            self.maybe_free_model_hooks()
            # Sample.
            results = self._sample_spans(plan, kept, scheduler, run, request)
            # Decode.
            audios = [
                self._finish(latents, *places[item], fade, output_type)
                for latents, item in zip(results, request.items, strict=True)
            ]
        return LongFormMusicPipelineOutput(audios, self.sampling_rate) if return_dict else (audios, self.sampling_rate)

    # --- check

    def _frames(self, name: str, seconds: float) -> int:
        """The number of frames that hold a number of seconds."""
        return math.ceil(inputs.check_number(name, seconds, 0, MAX_DURATION_IN_S) * self.vae.latent_rate)

    def _lay_out(
        self, waveform: torch.Tensor, regions, mask, extend_to: float | None, prepend_in_s: float, loop: bool
    ) -> tuple[EditedPiece, int]:
        """The piece around a recording, see `pieces.lay_out`."""
        rate, hop_length = self.sampling_rate, self.vae.hop_length
        num_samples = waveform.shape[1]
        before, after = check_extension(num_samples, rate, extend_to, prepend_in_s)
        if mask is not None:
            if regions is not None:
                raise ValueError("Give regions or mask, not both.")
            free = runs(inputs.check_frame_mask(mask, math.ceil(num_samples / hop_length)))
            samples = [(start * hop_length, min(stop * hop_length, num_samples)) for start, stop in free]
        else:
            samples = check_regions([] if regions is None else regions, num_samples, rate)
        return lay_out(waveform, samples, before, after, hop_length, loop)

    # --- encode

    def _encode_kept(self, piece: EditedPiece) -> torch.Tensor:
        """Latents `(latent_channels, num_frames)` of the kept music, on the CPU; zeros elsewhere."""
        latents = torch.zeros(self.transformer.config.in_channels, piece.num_frames)
        hop_length, context = self.vae.hop_length, self.vae.encoder_context
        for start, stop in runs(~piece.is_free):
            first, last = max(start - context, 0), min(stop + context, piece.num_frames)
            blocks = piece.read_blocks(first * hop_length, min(last * hop_length, piece.num_samples))
            posteriors = self.vae.encode_stream(block[None].to(self.vae.dtype) for block in blocks)
            encoded = torch.cat([posterior.mode()[0].float().cpu() for posterior in posteriors], dim=-1)
            latents[:, start:stop] = encoded[:, start - first : stop - first]
        return check_finite("latents that are", latents, self.vae)

    def _find_spans(
        self, items: Sequence[int], pieces: Sequence[EditedPiece], context: int | None, window: int, is_fixed: bool
    ) -> list[Span]:
        """The spans of all results. One that fits into a window gets a window's length, the longest if `is_fixed`."""
        sizes, patch_size, spans = self._window_sizes, self.transformer.config.patch_size, []
        for result, item in enumerate(items):
            for start, stop in find_stretches(pieces[item].is_free, context, window):
                length = stop - start
                if length > window:
                    length = math.ceil(length / patch_size) * patch_size
                elif is_fixed:
                    length = window
                else:
                    length = sizes.smallest(sizes.seconds(length), self.config.window_in_s or ())
                spans.append(Span(result, item, start, stop, length))
        return spans

    # --- sample

    def _sample_spans(self, plan: InpaintPlan, kept: Sequence[torch.Tensor], scheduler, run: Run, request: Request):
        """Latents `(latent_channels, num_frames)` of each result: the kept frames, and new ones between them."""
        spans, generators = plan.spans, request.generator
        if isinstance(generators, list):
            generators = [generators[span.result] for span in spans]
        noise = self._draw_noise([span.length for span in spans], generators)
        text = self._embed_prompts(request.prompts)

        def sample_items(items, follow, generator):
            group = [spans[item] for item in items]
            start = torch.stack([noise[item] for item in items]).to(self._execution_device)
            parts = [_cut(kept[span.item], plan.places[span.item][0].is_free, span) for span in group]
            music, is_free = (torch.stack(tensors).to(start.device) for tensors in zip(*parts, strict=True))
            kept_music = KeptMusic(
                scheduler,
                music,
                is_free,
                start,
                lambda: self._draw_noise_like(start, generator),
                self.config.prediction_type,
            )
            return follow(
                self._velocity(plan, group, text, request.prompts, run.guidance),
                start * scheduling.init_noise_sigma(scheduler),
                before_step=kept_music.put_in_place,
                num_repeats=plan.num_repeats,
                undo_step=kept_music.undo_step,
            )

        sampled = self._sample(_keys(spans), sample_items, scheduler, run, replace(request, generator=generators))
        results = [kept[item].clone() for item in request.items]
        for span, latents in zip(spans, sampled, strict=True):
            is_free = plan.places[span.item][0].is_free[span.start : span.stop]
            part = results[span.result][:, span.start : span.stop]
            part[:, is_free] = latents[:, : span.stop - span.start].to(part)[:, is_free]
        return results

    def _span_times(self, span: Span, piece: EditedPiece, shift: int) -> torch.Tensor:
        """Seconds at which the frames of a span start in the result, `(length,)`; in a loop they wrap around."""
        samples = (span.start + torch.arange(span.length)) * self.vae.hop_length
        if shift > 0:
            samples = (samples + shift) % piece.num_samples
        return samples / self.sampling_rate

    def _velocity(
        self, plan: InpaintPlan, group: Sequence[Span], text: Conditioning, prompts: Prompts, guidance: Guidance
    ) -> GuidedVelocity | WindowedVelocity:
        """The velocity of spans of one length; `text` is the conditioning of all prompts without timing."""
        items = [span.item for span in group]
        times = torch.stack([self._span_times(span, *plan.places[span.item]) for span in group])
        conditioning = self._in_sections(text.select(items), prompts, items, times)
        length, window = group[0].length, plan.window
        starts, frames = ([0], length) if length <= window else (self._window_starts(length, window), window)
        velocities = []
        for start in starts:
            timings = [
                place_window(
                    plan.timing.starts[span.item] + self._window_sizes.seconds(span.start + start),
                    plan.timing.totals[span.item],
                    self._window_sizes.seconds(frames),
                    self.timing_conditioner.config.max_value,
                )
                for span in group
            ]
            tokens, global_states = self._embed_timing(*zip(*timings, strict=True))
            sections = conditioning.sections
            if sections is not None:
                sections = sections[:, start : start + frames]
            timed = replace(conditioning, timing_tokens=tokens, global_states=global_states, sections=sections)
            velocities.append(
                GuidedVelocity(
                    self.transformer, timed, guidance, f"velocity {start}", keeps_conditions=len(starts) == 1
                )
            )
        return velocities[0] if len(starts) == 1 else WindowedVelocity(velocities, starts, window)

    def _window_starts(self, length: int, window: int) -> list[int]:
        """The first frames of a span's windows."""
        return window_starts(length, window, self.transformer.config.patch_size)

    # --- decode

    def _finish(self, latents: torch.Tensor, piece: EditedPiece, shift: int, fade: int, output_type: str):
        """One result as `output_type` says, with a loop rotated back to its own start."""
        if output_type == "latent":
            return latents
        own_start = (piece.num_samples - shift) % piece.num_samples
        parts = ((own_start, piece.num_samples), (0, own_start))
        chunks = itertools.chain(*(self._render(latents, piece, fade, *part) for part in parts))
        if output_type == "stream":
            return chunks
        waveform = torch.empty(self.vae.config.audio_channels, piece.num_samples)
        position = 0
        for chunk in chunks:
            waveform[:, position : position + chunk.shape[1]] = chunk
            position += chunk.shape[1]
        return waveform.numpy() if output_type == "np" else waveform

    @torch.no_grad()
    def _render(
        self, latents: torch.Tensor, piece: EditedPiece, fade: int, start: int, stop: int
    ) -> Iterator[torch.Tensor]:
        """Samples `start` to `stop` of a piece, chunk by chunk: kept music unchanged, new music decoded."""
        position = start
        for low, high in piece.regions:
            first, last = max(low, start), min(high, stop)
            if first >= last:
                continue
            yield from piece.read_blocks(position, first)
            fades = [
                min(fade, (high - low) // 2) if at_border else 0 for at_border in (low > 0, high < piece.num_samples)
            ]
            faded = ((low, low + fades[0]), (high - fades[1], high))
            for chunk in self._decode_part(latents, first, last):
                position = first + chunk.shape[1]
                for begin, end in faded:
                    begin, end = max(begin, first), min(end, position)
                    if begin < end:
                        new = chunk[:, begin - first : end - first]
                        weight = crossfade(torch.arange(begin - low, end - low), high - low, *fades)
                        new.copy_(torch.lerp(piece.read(begin, end), new, weight))
                yield chunk
                first = position
        yield from piece.read_blocks(position, stop)

    def _decode_part(self, latents: torch.Tensor, start: int, stop: int) -> Iterator[torch.Tensor]:
        """Decodes samples `start` to `stop` to the CPU in float32; the same samples as decoding the whole gives."""
        hop_length, context = self.vae.hop_length, self.vae.decoder_context
        first = max(start // hop_length - context, 0)
        needed = math.ceil(stop / hop_length) - first
        part = latents[:, first : first + needed + context].to(self._execution_device, self.vae.dtype)
        position = first * hop_length
        for chunk in self.vae.decode_stream(part[None], needed):
            low, high = max(start - position, 0), min(stop - position, chunk.shape[-1])
            position += chunk.shape[-1]
            if low < high:
                yield check_finite("audio that is", chunk[0, :, low:high].float().cpu(), self.vae)


def _cut(latents: torch.Tensor, is_free: torch.Tensor, span: Span) -> tuple[torch.Tensor, torch.Tensor]:
    """The latents of a span `(latent_channels, length)` and which of its frames are free `(1, length)`."""
    behind = span.length - (span.stop - span.start)
    music = torch.nn.functional.pad(latents[:, span.start : span.stop], (0, behind))
    free = torch.nn.functional.pad(is_free[span.start : span.stop], (0, behind), value=True)
    return music, free[None]


def _keys(spans: Sequence[Span]) -> list[tuple[int, int]]:
    """Keys of the spans. Those with the same key are sampled together: one of each result, all of one length."""
    keys: list[tuple[int, int]] = []
    seen: dict[int, int] = {}
    for span in spans:
        number = seen[span.result] = seen.get(span.result, -1) + 1
        keys.append((number, span.length))
    return keys


# `DiffusionPipeline.from_pretrained` looks here for the class that a folder names.
diffusers.LongFormMusicInpaintPipeline = LongFormMusicInpaintPipeline
