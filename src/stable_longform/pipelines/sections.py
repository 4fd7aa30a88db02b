"""Prompts in sections: each frame of the music attends only to the prompt of its own section.

A prompt in sections is a list `[(start_in_s, text), ...]`. The texts follow each other in the cross-attended sequence,
and a mask shows each frame the tokens of its section and those of the timing. Self-attention is unchanged, so that the
sections form one piece. No training is needed.
"""

from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch

MAX_SECTIONS = 100
Section = tuple[float, str]  # its start in seconds, and its prompt


def is_sectioned(prompt) -> bool:
    """Whether a prompt is a list of sections, rather than a text or a list of prompts."""
    return (
        isinstance(prompt, (list, tuple))
        and len(prompt) > 0
        and any(isinstance(part, (list, tuple)) and len(part) > 0 and isinstance(part[0], Real) for part in prompt)
    )


def check_durations(sections: Sequence[Sequence[Section | list[Any]]] | None, durations: Sequence[float]) -> None:
    """Raises a ValueError if a section, which in JSON is a list, starts after the end of the music.

    Or if there are more sections than `MAX_SECTIONS`: the attention of every frame grows with all texts.
    """
    for parts, duration in zip(sections or (), durations, strict=False):
        if len(parts) > MAX_SECTIONS:
            raise ValueError(f"There may be at most {MAX_SECTIONS} sections, got {len(parts)}.")
        if parts[-1][0] >= duration:
            raise ValueError(f"Sections must start before the end at {duration:g} s, got {parts[-1][0]:g} s.")


def sections_of_times(sections: Sequence[Sequence[Section]], times: torch.Tensor) -> torch.Tensor:
    """Which section each frame belongs to, boolean `(B, L, K)`; K is the largest number of sections.

    Args:
        sections: of B items.
        times: `(B, L)` in seconds.
    """
    number = max(len(parts) for parts in sections)
    starts = torch.full((len(sections), number), float("inf"), dtype=torch.float64)
    for item, parts in enumerate(sections):
        starts[item, : len(parts)] = torch.tensor([start for start, _ in parts], dtype=torch.float64)
    indices = torch.searchsorted(starts, times.double().contiguous(), right=True) - 1
    return torch.nn.functional.one_hot(indices.clamp(min=0), number).bool()


def attention_mask(
    sections: torch.Tensor, embeds: torch.Tensor, mask: torch.Tensor | None, patch_size: int, num_timing_tokens: int
) -> torch.Tensor:
    """What each token of the transformer may attend to, boolean `(B, 1 + L / patch_size, K * S + num_timing_tokens)`.

    The first token, which stands for the whole, attends to the same tokens as the longest section. A section without
    a prompt attends only to its own zeros, like music without a prompt.

    Args:
        sections: boolean `(B, L, K)`.
        embeds: the sections' texts one after the other, `(B, K * S, D)`.
        mask: boolean `(B, K * S)`, or None.
        patch_size: frames in a token; a token belongs to the section of its first frame.
        num_timing_tokens: tokens after the texts, to which every section with a prompt attends.
    """
    batch_size, _, number = sections.shape
    longest = sections.sum(dim=1).argmax(dim=1)
    whole = torch.nn.functional.one_hot(longest, number).bool()[:, None]
    rows = torch.cat([whole, sections[:, ::patch_size]], dim=1)
    length = embeds.shape[1] // number
    text = rows.repeat_interleave(length, dim=2)
    if mask is not None:
        text = text & mask[:, None]
    has_prompt = embeds.reshape(batch_size, number, -1).any(dim=2)
    timing = (rows & has_prompt[:, None]).any(dim=2, keepdim=True).expand(-1, -1, num_timing_tokens)
    return torch.cat([text, timing], dim=2)
