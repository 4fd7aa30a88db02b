"""Classifier-free guidance. Paper: §3.

References: Ho and Salimans, "Classifier-free diffusion guidance", arXiv 2207.12598. Lin et al., "Common diffusion
noise schedules and sample steps are flawed", arXiv 2305.08891 (rescaling).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from stable_longform.models.dit_attention import Context
from stable_longform.models.hooks import has_hooks
from stable_longform.models.transformer_dit_1d import DiTTransformer1D
from stable_longform.pipelines.sections import attention_mask as section_mask

MIN_TOKENS_IN_TURN = 512  # with items of this length, a CPU computes the two branches one by one without losing time
WIDTHS_A_TOKEN = 16  # values held in memory for each token in a block, in units of the inner width


@dataclass
class Guidance:
    """How strongly, and at which times, a generation follows its prompt; see the arguments of the pipelines."""

    scale: float
    rescale: float = 0.0
    interval: tuple[float, float] = (0.0, 1.0)

    def is_on(self, time: float) -> bool:
        """Whether the unconditional branch is needed at this time t in [0, 1]."""
        return self.scale != 1 and self.interval[0] <= time <= self.interval[1]


@dataclass(frozen=True)
class Conditioning:
    """What each of B items should sound like.

    Args:
        prompt_embeds: `(B, S, D)`; all zero for items without a prompt.
        attention_mask: boolean `(B, S)` for `prompt_embeds`, or None.
        negative_prompt_embeds: `(B, S, D)`; all zero for items without a negative prompt.
        timing_tokens: `(B, 2, D)`; None as long as the timing is not known.
        global_states: `(B, 1, G)`; None as long as the timing is not known.
        sections: boolean `(B, L, K)`: which of K sections each frame belongs to. `prompt_embeds` then holds the texts
            of the K sections one after the other. None: no sections.
    """

    prompt_embeds: torch.Tensor
    attention_mask: torch.Tensor | None
    negative_prompt_embeds: torch.Tensor
    timing_tokens: torch.Tensor | None = None
    global_states: torch.Tensor | None = None
    sections: torch.Tensor | None = None

    def select(self, items: Sequence[int]) -> "Conditioning":
        """The conditioning of some items, in this order; an item may occur more than once."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen: dict[str, Any] = {name: None if value is None else value[items] for name, value in tensors.items()}
        return replace(self, **chosen)


@dataclass(frozen=True)
class Condition:
    """The inputs of the transformer besides latents and time, see `DiTTransformer1D.forward`.

    If a batch holds both branches, the unconditional items come first.
    """

    encoder_hidden_states: torch.Tensor | None
    global_hidden_states: torch.Tensor
    encoder_attention_mask: torch.Tensor | None
    projected_context: Sequence[Context] | None
    projected_global: torch.Tensor | None


def make_conditions(
    transformer: DiTTransformer1D,
    prompt_embeds: torch.Tensor,
    negative_prompt_embeds: torch.Tensor | None,
    timing_tokens: torch.Tensor,
    global_states: torch.Tensor,
    attention_mask: torch.Tensor | None,
    in_turn: bool = False,
    sections: torch.Tensor | None = None,
) -> list[Condition]:
    """Prepares everything that stays the same in all steps, in the transformer's dtype.

    As in training, an item without a prompt, or an unconditional item without a negative prompt, has neither text nor
    timing tokens; a negative prompt keeps its timing tokens. The global timing is never dropped.

    Args:
        transformer: the model that will get the result.
        prompt_embeds: `(B, S, D)`, all zero for items without a prompt.
        negative_prompt_embeds: `(B, S, D)`, all zero for items without a negative prompt; None: no guidance.
        timing_tokens: `(B, 2, D)`.
        global_states: `(B, 1, G)`.
        attention_mask: boolean `(B, S)` for `prompt_embeds`, or None.
        in_turn: compute the two branches one after the other instead of in one batch.
        sections: boolean `(B, L, K)`, see `Conditioning`, or None.

    Returns:
        One condition, or two with the unconditional one first.
    """
    global_states = global_states.to(transformer.dtype)
    tokens = _join_tokens(prompt_embeds, timing_tokens)
    if sections is not None:
        patch_size, num_timing_tokens = transformer.config.patch_size, timing_tokens.shape[1]
        attention_mask = section_mask(sections, prompt_embeds, attention_mask, patch_size, num_timing_tokens)
    elif attention_mask is not None:
        attention_mask = torch.cat([attention_mask, attention_mask.new_ones(timing_tokens.shape[:2])], dim=1)
    if negative_prompt_embeds is None:
        return [_condition(transformer, tokens, global_states, attention_mask)]
    negative = _join_tokens(negative_prompt_embeds, timing_tokens)
    negative_mask = None if attention_mask is None or sections is not None else torch.ones_like(attention_mask)
    if in_turn or (sections is not None and negative is not None):  # a negative prompt has no sections
        unconditional = _condition(transformer, negative, global_states, negative_mask)
        return [unconditional, _condition(transformer, tokens, global_states, attention_mask)]
    if negative is not None:
        tokens = torch.cat([negative, torch.zeros_like(negative) if tokens is None else tokens])
        if attention_mask is not None and negative_mask is not None:
            attention_mask = torch.cat([negative_mask, attention_mask])
    return [_condition(transformer, tokens, global_states.repeat(2, 1, 1), attention_mask)]


def predict_velocity(
    transformer: DiTTransformer1D,
    latents: torch.Tensor,
    t: torch.Tensor,
    conditions: Sequence[Condition],
    name: str = "velocity",
) -> torch.Tensor:
    """The transformer's velocity in float32: `(B, C, L)`, or `(2B, C, L)` with an unconditional branch.

    Args:
        transformer: the model.
        latents: noisy latents `(B, C, L)`.
        t: time in [0, 1], a single number.
        conditions: from `make_conditions`.
        name: under which diffusers' caches keep their state from step to step.
    """
    predictions = []
    for branch, condition in enumerate(conditions):
        batch_size = len(condition.global_hidden_states)
        batch = latents if len(latents) == batch_size else latents.repeat(2, 1, 1)
        with transformer.cache_context(f"{name} {branch}"):
            prediction = transformer(
                batch.to(transformer.dtype), t.float().expand(batch_size), **vars(condition), return_dict=False
            )[0]
        predictions.append(prediction.float())
    return predictions[0] if len(predictions) == 1 else torch.cat(predictions)


def branches_in_turn(transformer: DiTTransformer1D, latents: torch.Tensor) -> bool:
    """Whether to compute the branches one after the other: for long items on a CPU, with little memory on a GPU.

    Args:
        transformer: the model.
        latents: `(B, C, L)`, on the device of the computation.
    """
    num_tokens = latents.shape[-1] // transformer.config.patch_size
    if latents.device.type != "cuda":
        return num_tokens >= MIN_TOKENS_IN_TURN
    needed = 2 * len(latents) * num_tokens * WIDTHS_A_TOKEN * transformer.proj_in.out_features
    return needed * transformer.dtype.itemsize > torch.cuda.mem_get_info(latents.device)[0] / 2


def _join_tokens(embeds: torch.Tensor, timing_tokens: torch.Tensor) -> torch.Tensor | None:
    """Text, then timing tokens `(B, S + 2, D)`, all zero for items without text; None if no item has text.

    Zeros have the same effect as no tokens: keys and values have no bias, so cross-attention to zeros returns zero.
    """
    is_null = ~embeds.flatten(1).any(dim=1)[:, None, None]
    if is_null.all():
        return None
    return torch.cat([embeds, timing_tokens.to(embeds).masked_fill(is_null, 0)], dim=1)


def _condition(
    transformer: DiTTransformer1D,
    tokens: torch.Tensor | None,
    global_states: torch.Tensor,
    attention_mask: torch.Tensor | None,
) -> Condition:
    """A condition with all projections computed, unless the transformer has hooks of a library that moves weights."""
    is_hooked = any(has_hooks(part) for part in transformer.children())
    projected_global = None if is_hooked else transformer.project_global(global_states)
    if tokens is None:
        return Condition(None, global_states, None, None, projected_global)
    tokens = tokens.to(transformer.dtype)
    projected_context = None if is_hooked else transformer.project_context(tokens)
    return Condition(tokens, global_states, attention_mask, projected_context, projected_global)


def guide(
    unconditional: torch.Tensor, conditional: torch.Tensor, guidance_scale: float, guidance_rescale: float = 0.0
) -> torch.Tensor:
    """Classifier-free guidance v_u + s·(v_c − v_u), with the rescaling φ of Lin et al. (2023), eq. 15 and 16.

    As in the paper's code, the standard deviations are over the channels of each frame.

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
