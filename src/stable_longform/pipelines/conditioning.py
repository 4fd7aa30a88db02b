"""Turns the user's text, timing and sections into the transformer's inputs."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from diffusers.utils import logging

from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.clap_text_encoder import text_length, tokenize_texts
from stable_longform.models.timing_conditioner import TimingConditioner
from stable_longform.models.transformer_dit_1d import DiTTransformer1D
from stable_longform.pipelines import inputs
from stable_longform.pipelines.guidance import Conditioning
from stable_longform.pipelines.inputs import Prompts, Timing
from stable_longform.pipelines.sections import Section, check_durations, sections_of_times

logger = logging.get_logger(__name__)


class ConditioningMixin:
    """Checks and encodes prompts with a pipeline's text encoder, tokenizer and timing conditioner."""

    # Components of the pipeline; one that it was opened without is None.
    vae: AutoencoderOobleck
    text_encoder: Any
    tokenizer: Any
    timing_conditioner: TimingConditioner
    transformer: DiTTransformer1D
    scheduler: Any
    config: Any
    _execution_device: torch.device
    _require: Callable[..., None]

    @torch.no_grad()
    def encode_prompt(
        self,
        prompt: str | Sequence[str] | None = None,
        prompt_embeds: torch.Tensor | None = None,
        prompt_attention_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Turns prompts into the transformer's text condition.

        Args:
            prompt: one text or several; texts longer than the encoder's `max_length` are cut with a warning. "" means
                no prompt, whose embeddings are zero.
            prompt_embeds: `(num_prompts, sequence_length, dim)`, returned unchanged instead of encoding `prompt`.
            prompt_attention_mask: boolean mask for `prompt_embeds`.

        Returns:
            `(embeddings (num_prompts, sequence_length, dim), mask)`: the boolean mask `(num_prompts,
            sequence_length)`, or None if all tokens are attended to, including padding, as in the paper's code.
        """
        if prompt_embeds is None:
            embeddings, mask = self._encode_texts(inputs.check_texts("prompt", cast(Any, prompt)))
            return embeddings, mask if self.config.mask_text_padding else None
        device = self._execution_device
        return prompt_embeds.to(device), None if prompt_attention_mask is None else prompt_attention_mask.to(device)

    def _check_prompts(self, *arguments: Any) -> Prompts:
        """Checks prompts, see `inputs.check_prompts`, and that the two branches of guidance have the same length."""
        prompts = inputs.check_prompts(*arguments, dim=self.transformer.config.cross_attention_input_dim)
        if prompts.texts is not None or prompts.negative_texts is not None:
            self._require("A prompt", "text_encoder", "tokenizer")
        if prompts.negative_texts is not None or prompts.negative_embeds is not None:
            lengths = [
                text_length(self.text_encoder, self.tokenizer) if embeds is None else embeds.shape[1]
                for embeds in (prompts.embeds, prompts.negative_embeds)
            ]
            if lengths[0] != lengths[1]:
                raise ValueError(
                    "The embeddings of the prompt and of the negative prompt must have the same sequence length, "
                    f"got {lengths[0]} and {lengths[1]}."
                )
        return prompts

    def _make_conditioning(self, prompts: Prompts, timing: Timing) -> Conditioning:
        """Embeds text and timing, one item for each prompt."""
        tokens, global_states = self._embed_timing(timing.starts, timing.totals)
        return replace(self._embed_prompts(prompts), timing_tokens=tokens, global_states=global_states)

    def _embed_prompts(self, prompts: Prompts) -> Conditioning:
        """Embeds the text of each prompt; the timing is still missing."""
        if prompts.sections is None:
            prompt_embeds, mask = self.encode_prompt(prompts.texts, prompts.embeds, prompts.mask)
        else:
            prompt_embeds, mask = self._encode_sections(prompts.sections)
        negative_embeds, negative_mask = prompts.negative_embeds, prompts.negative_mask
        if prompts.negative_texts is not None:
            negative_embeds, negative_mask = self._encode_texts(prompts.negative_texts)
        if negative_embeds is None:
            negative_embeds = torch.zeros_like(prompt_embeds)
        elif negative_mask is not None:  # the padding of a negative prompt is zero, as in the paper's code
            negative_embeds = negative_embeds * negative_mask.to(negative_embeds)[..., None]
        return Conditioning(prompt_embeds, mask, negative_embeds.to(prompt_embeds))

    def _embed_timing(self, starts: Sequence[float], totals: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeds seconds as timing tokens `(num_prompts, 2, dim)` and global states `(num_prompts, 1, dim)`."""
        device = self._execution_device
        seconds = (torch.tensor(values, dtype=torch.float32, device=device) for values in (starts, totals))
        embedded = self.timing_conditioner(*seconds)
        return embedded.encoder_hidden_states, embedded.global_hidden_states

    def _encode_texts(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings `(num_texts, max_length, dim)`, zero for "", and the boolean mask of real tokens."""
        self._require("A prompt", "text_encoder", "tokenizer")
        max_length = text_length(self.text_encoder, self.tokenizer)
        input_ids, mask, num_tokens = tokenize_texts(self.tokenizer, texts, max_length)
        for text, number in zip(texts, num_tokens, strict=True):
            if number > max_length:
                logger.warning("The prompt has %d tokens, only %d are used: %r", number, max_length, text)
        input_ids, mask = input_ids.to(self._execution_device), mask.to(self._execution_device)
        features = self.text_encoder(input_ids, attention_mask=mask).last_hidden_state
        features = self.timing_conditioner.project_text(features)
        if self.config.zero_text_padding:
            features = features * mask[..., None]
        if "" in texts:
            is_blank = torch.tensor([text == "" for text in texts], device=features.device)
            features = features.masked_fill(is_blank[:, None, None], 0)
        return features, mask

    def _encode_sections(self, sections: Sequence[Sequence[Section]]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embeddings `(B, K * S, dim)` of B items with up to K sections each, and their mask or None."""
        number = max(len(parts) for parts in sections)
        texts = [text for parts in sections for text in [*(text for _, text in parts), *[""] * (number - len(parts))]]
        embeds, mask = self.encode_prompt(texts)
        batch_size = len(sections)
        embeds = embeds.reshape(batch_size, -1, embeds.shape[2])
        return embeds, None if mask is None else mask.reshape(batch_size, -1)

    def _in_sections(
        self, conditioning: Conditioning, prompts: Prompts, numbers: Sequence[int], times: torch.Tensor
    ) -> Conditioning:
        """Adds the section of each frame to the conditioning, if the prompts have sections.

        Args:
            conditioning: of B items.
            prompts: of the call.
            numbers: the number of each item's prompt.
            times: of the frames in the music, in seconds, `(B, L)` or `(L,)`.
        """
        if prompts.sections is None:
            return conditioning
        sections = [prompts.sections[number] for number in numbers]
        frames = sections_of_times(sections, times.expand(len(sections), -1))
        return replace(conditioning, sections=frames.to(conditioning.prompt_embeds.device))

    def _check_sections(self, prompts: Prompts, durations: Sequence[float]) -> None:
        """Raises a ValueError if a section starts after the end of the music, or if the latent rate is unknown."""
        if prompts.sections is not None:
            self._require("A prompt in sections", "vae")
            check_durations(prompts.sections, durations)

    def _frame_times(self, length: int) -> torch.Tensor:
        """Seconds at which the frames of a window start, `(length,)`."""
        return torch.arange(length, dtype=torch.float64) / (1.0 if self.vae is None else self.vae.latent_rate)
