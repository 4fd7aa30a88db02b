"""Classifier-free guidance. Paper: §3.

References: Ho and Salimans, "Classifier-free diffusion guidance", arXiv 2207.12598. Lin et al., "Common diffusion
noise schedules and sample steps are flawed", arXiv 2305.08891 (rescaling).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stable_longform.models.dit_attention import Context
from stable_longform.models.hooks import has_hooks
from stable_longform.models.transformer_dit_1d import DiTTransformer1D


@dataclass(frozen=True)
class Condition:
    """What the transformer is given in every step besides latents and time, see `DiTTransformer1D.forward`.

    The batch has the unconditional items first, if there are any.
    """

    encoder_hidden_states: torch.Tensor
    global_hidden_states: torch.Tensor
    encoder_attention_mask: torch.Tensor | None
    projected_context: Sequence[Context] | None


def make_condition(
    transformer: DiTTransformer1D,
    prompt_embeds: torch.Tensor,
    negative_prompt_embeds: torch.Tensor | None,
    timing_tokens: torch.Tensor,
    global_states: torch.Tensor,
    attention_mask: torch.Tensor | None,
) -> Condition:
    """Puts together, in the transformer's dtype, what does not change from step to step.

    An unconditional item without a negative prompt has no text and no timing tokens; a negative prompt keeps its
    timing tokens. The global timing is never dropped.

    Args:
        transformer: that will be given the result.
        prompt_embeds: `(B, S, D)`.
        negative_prompt_embeds: `(B, S, D)`, all zero for items without a negative prompt; None: no guidance.
        timing_tokens: `(B, 2, D)`.
        global_states: `(B, 1, G)`.
        attention_mask: boolean `(B, S)` for `prompt_embeds`, or None.
    """
    timing_tokens = timing_tokens.to(prompt_embeds)
    tokens = torch.cat([prompt_embeds, timing_tokens], dim=1)
    if attention_mask is not None:
        attention_mask = torch.cat([attention_mask, attention_mask.new_ones(timing_tokens.shape[:2])], dim=1)
    if negative_prompt_embeds is not None:
        global_states = global_states.repeat(2, 1, 1)
        is_null = ~negative_prompt_embeds.flatten(1).any(dim=1)[:, None, None]
        if not is_null.all():
            negative_timing = timing_tokens.masked_fill(is_null, 0)
            tokens = torch.cat([torch.cat([negative_prompt_embeds, negative_timing], dim=1), tokens])
            if attention_mask is not None:
                attention_mask = torch.cat([torch.ones_like(attention_mask), attention_mask])
    tokens = tokens.to(transformer.dtype)
    is_hooked = any(has_hooks(part) for part in transformer.children())  # by libraries that may move the weights
    projected = None if is_hooked else transformer.project_context(tokens)
    return Condition(tokens, global_states.to(transformer.dtype), attention_mask, projected)


def guide(
    unconditional: torch.Tensor, conditional: torch.Tensor, guidance_scale: float, guidance_rescale: float = 0.0
) -> torch.Tensor:
    """Classifier-free guidance v_u + s·(v_c − v_u), with the rescaling φ of Lin et al. (2023), eq. 15 and 16.

    The standard deviations are over the channels of each frame, as in the code of the paper.

    Args:
        unconditional: v_u `(B, C, L)`.
        conditional: v_c `(B, C, L)`.
        guidance_scale: s.
        guidance_rescale: φ in [0, 1].
    """
    guided = unconditional + guidance_scale * (conditional - unconditional)
    if guidance_rescale == 0:
        return guided
    rescaled = guided * conditional.std(dim=1, keepdim=True) / guided.std(dim=1, keepdim=True)
    return guidance_rescale * rescaled + (1 - guidance_rescale) * guided
