"""Prompts by section: each frame of the music attends to the prompt of its own section only.

A prompt in sections is a list `[(start_in_s, text), ...]`. The texts stand one after the other in the cross-attended
sequence, and a mask shows each frame the tokens of its section and those of the timing. Self-attention is as ever, so
that the sections are one piece. No training is needed.
"""

from collections.abc import Sequence
from numbers import Real

import torch

Section = tuple[float, str]  # where it starts, in seconds, and its prompt


def is_sectioned(prompt) -> bool:
    """Whether a prompt is one in sections, rather than a text or a list of prompts."""
    return (
        isinstance(prompt, (list, tuple))
        and len(prompt) > 0
        and all(isinstance(part, (list, tuple)) and len(part) == 2 and isinstance(part[0], Real) for part in prompt)
    )


def check_durations(sections: Sequence[Sequence[Section]] | None, durations: Sequence[float]) -> None:
    """Raises a ValueError for sections that start when the music is over."""
    for parts, duration in zip(sections or (), durations, strict=False):
        if parts[-1][0] >= duration:
            raise ValueError(f"Sections must start before the end at {duration:g} s, got {parts[-1][0]:g} s.")


def sections_of_times(sections: Sequence[Sequence[Section]], times: torch.Tensor) -> torch.Tensor:
    """Which section each frame is in, boolean `(B, L, K)`, K the largest number of sections.

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

    The first token, which stands for the whole, is shown what the longest section is shown. A section without a
    prompt sees its own zeros only, as music without a prompt does.

    Args:
        sections: boolean `(B, L, K)`.
        embeds: the sections' texts one after the other, `(B, K * S, D)`.
        mask: boolean `(B, K * S)`, or None.
        patch_size: frames of a token; a token is in the section of its first frame.
        num_timing_tokens: tokens after the texts, which every section with a prompt sees.
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
