"""Attention of the diffusion transformer: rotary positions, self- and cross-attention.

Conventions: a sequence is `(B, S, D)` and its heads `(B, S, H, head_dim)`. Masks are boolean, True = attend.

References: Su et al., "RoFormer", arXiv 2104.09864. Ainslie et al., "GQA", arXiv 2305.13245. Henry et al., "Query-key
normalization for transformers", arXiv 2010.04245.
"""

from collections.abc import Callable

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import nn

# What cross-attention attends to: `(B, S, D)`, or its keys and values, each `(B, S, H, head_dim)`.
Context = torch.Tensor | tuple[torch.Tensor, torch.Tensor]

ROTARY_BASE = 10000.0
QK_NORM_EPS = 1e-6  # stable-audio-tools'


def rotary_frequencies(dim: int, device: torch.device | str | None = None) -> torch.Tensor:
    """Rotation angles of neighbouring positions, base^(-2i/dim) for i < dim/2, `(dim / 2,)` in float32."""
    exponents = torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim
    return 1.0 / ROTARY_BASE**exponents


def rotary_table(length: int, dim: int, device: torch.device | str | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of the rotation angles, position x base^(-2i/dim) for i < dim/2, in float32.

    Args:
        length: number of positions, which run from 0 to length - 1.
        dim: number of rotated channels of a head, even.
        device: where the table is computed.

    Returns:
        `(cos, sin)`, each `(length, dim / 2)`.
    """
    positions = torch.arange(length, dtype=torch.float32, device=device)
    angles = positions[:, None] * rotary_frequencies(dim, device)
    return angles.cos(), angles.sin()


def apply_rotary(hidden_states: torch.Tensor, table: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotates the first channels of every head, pairing channel i with i + dim/2; the other channels are kept.

    Args:
        hidden_states: queries or keys `(B, S, H, head_dim)`; the rotation is done in float32.
        table: `rotary_table(S, dim)` with dim at most head_dim.

    Returns:
        The shape and dtype of `hidden_states`.
    """
    cos, sin = table[0][:, None], table[1][:, None]  # (S, 1, dim / 2)
    half = cos.shape[-1]
    first, second, rest = hidden_states.split([half, half, hidden_states.shape[-1] - 2 * half], dim=-1)
    rotated = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return torch.cat([rotated.to(hidden_states.dtype), rest], dim=-1)


def _for_heads(attention_mask: torch.Tensor) -> torch.Tensor:
    """A mask `(B, S2)` or `(B, S, S2)` for all heads: `(B, 1, 1 or S, S2)`."""
    return attention_mask[:, None, None] if attention_mask.ndim == 2 else attention_mask[:, None]


class DiTAttnProcessor:
    """The arithmetic of `DiTAttention`, with the attention backend that is selected in diffusers."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: "DiTAttention",
        hidden_states: torch.Tensor,
        encoder_hidden_states: Context | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_embedding: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """See `DiTAttention.forward`."""
        if encoder_hidden_states is None:
            query, key, value = attn.project(hidden_states)
        else:
            query = attn.norm_q(attn.split_heads(attn.to_q(hidden_states)))
            if isinstance(encoder_hidden_states, torch.Tensor):
                encoder_hidden_states = attn.project_context(encoder_hidden_states)
            key, value = encoder_hidden_states
        if rotary_embedding is not None:
            query, key = apply_rotary(query, rotary_embedding), apply_rotary(key, rotary_embedding)
        attended = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=None if attention_mask is None else _for_heads(attention_mask),
            backend=self._attention_backend,
            # Every device has all text tokens, so cross-attention needs no communication.
            parallel_config=self._parallel_config if encoder_hidden_states is None else None,
        )
        return attn.to_out[0](attended.flatten(2, 3).to(query.dtype))


class DiTAttention(nn.Module, AttentionModuleMixin):
    """Multi-head attention without biases; with fewer key/value heads than query heads it is grouped-query attention.

    Args:
        dim: width of the queries' sequence and of the output.
        num_heads: number of query heads.
        head_dim: channels per head.
        num_key_value_heads: number of key and value heads, a divisor of `num_heads`.
        context_dim: width of the keys' and values' sequence; None: self-attention.
        qk_norm: "layer_norm" normalises queries and keys of each head before they are rotated. None, as in the paper,
            does not.
    """

    _default_processor_cls = DiTAttnProcessor
    _available_processors = [DiTAttnProcessor]
    use_bias = False
    processor: Callable[..., torch.Tensor]
    set_processor: Callable[..., None]
    to_qkv: nn.Linear  # if projections are fused
    to_kv: nn.Linear
    norm_q: nn.Module
    norm_k: nn.Module

    def __init__(
        self,
        dim: int,
        num_heads: int,
        head_dim: int,
        num_key_value_heads: int,
        context_dim: int | None = None,
        qk_norm: str | None = None,
    ):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        self.is_cross_attention = context_dim is not None
        context_dim = dim if context_dim is None else context_dim
        self.to_q = nn.Linear(dim, num_heads * head_dim, bias=False)
        self.to_k = nn.Linear(context_dim, num_key_value_heads * head_dim, bias=False)
        self.to_v = nn.Linear(context_dim, num_key_value_heads * head_dim, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(num_heads * head_dim, dim, bias=False)])
        for name in ("norm_q", "norm_k"):
            setattr(self, name, nn.Identity() if qk_norm is None else nn.LayerNorm(head_dim, eps=QK_NORM_EPS))
        self.set_processor(DiTAttnProcessor())

    def project(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Queries, keys and values `(B, S, H, head_dim)` of self-attention; one projection computes all if fused."""
        if self.fused_projections:
            projected = self.to_qkv(hidden_states).chunk(3, dim=-1)
        else:
            projected = self.to_q(hidden_states), self.to_k(hidden_states), self.to_v(hidden_states)
        query, key, value = (self.split_heads(part) for part in projected)
        return self.norm_q(query), self.norm_k(key), value

    def project_context(self, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values `(B, S2, H, head_dim)` of cross-attention, one for each query head."""
        if self.fused_projections:
            key, value = (self.split_heads(part) for part in self.to_kv(context).chunk(2, dim=-1))
        else:
            key, value = self.split_heads(self.to_k(context)), self.split_heads(self.to_v(context))
        key = self.norm_k(key)
        repeats = self.num_heads // key.shape[2]
        if repeats > 1:
            # Grouped queries. Repeating the few text keys costs nothing, and every backend supports the result.
            key, value = key.repeat_interleave(repeats, dim=2), value.repeat_interleave(repeats, dim=2)
        return key, value

    def split_heads(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(B, S, H * head_dim)` to `(B, S, H, head_dim)`."""
        return hidden_states.unflatten(-1, (-1, self.head_dim))

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: Context | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_embedding: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Attends from `hidden_states` `(B, S, dim)` to itself or to `encoder_hidden_states`.

        `encoder_hidden_states` is `(B, S2, context_dim)`, or the result of `project_context`.
        `attention_mask` is boolean over the attended sequence, `(B, S)` or `(B, S2)`, or for every query `(B, S, S2)`.
        Returns `(B, S, dim)`.
        """
        return self.processor(self, hidden_states, encoder_hidden_states, attention_mask, rotary_embedding)
