"""Checks of what users give to the pipelines.

Each raises a ValueError that names the value and what is accepted, and returns the value in one form.
"""

import math
from collections.abc import Sequence
from numbers import Integral, Real

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin

MAX_TEXT_LENGTH = 4096
OUTPUT_TYPES = ("pt", "np", "latent")
Generators = torch.Generator | Sequence[torch.Generator] | None


def check_texts(name: str, texts: str | Sequence[str]) -> list[str]:
    """One text or several, none of them blank, as a list."""
    if isinstance(texts, str):
        texts = [texts]
    elif not isinstance(texts, (list, tuple, np.ndarray)):
        raise ValueError(f"{name} must be a text or a list of texts, got {texts!r}.")
    if len(texts) == 0:
        raise ValueError(f"{name} must hold at least one text, got none.")
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{name} must be text that is not blank, got {text!r}.")
    return [str(text) for text in texts]


def check_numbers(name: str, value: float | Sequence[float], num_prompts: int) -> list[float]:
    """One number, Python's, numpy's or torch's, or one for each prompt, as a list with one for each prompt."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        value = value.tolist()
    values = list(value) if isinstance(value, (list, tuple)) else [value] * num_prompts
    if len(values) != num_prompts:
        raise ValueError(f"{name} must be one number or {num_prompts}, one for each prompt, got {len(values)}.")
    for entry in values:
        if not isinstance(entry, Real) or isinstance(entry, bool):
            raise ValueError(f"{name} must be a number or a list of numbers, got {value!r}.")
    return [float(entry) for entry in values]


def text_length(text_encoder: torch.nn.Module, tokenizer) -> int:
    """Number of tokens to which texts are padded and cut: that of our text encoder, or another one's tokenizer's.

    Tokenizers that know no limit give an astronomic number, which is refused.
    """
    length = text_encoder.config.get("max_length") if isinstance(text_encoder, ConfigMixin) else None
    length = tokenizer.model_max_length if length is None else length
    if length > MAX_TEXT_LENGTH:
        raise ValueError(f"tokenizer.model_max_length must be at most {MAX_TEXT_LENGTH} tokens, got {length}: set it.")
    return length


def check_embeddings(
    name: str, embeds: torch.Tensor | None, mask: torch.Tensor | None, dim: int, num_prompts: int | None = None
) -> None:
    """Embeddings `(num_prompts, sequence_length, dim)`, if given, and their mask, if any, boolean without `dim`."""
    mask_name = name.replace("embeds", "attention_mask")
    if embeds is None:
        if mask is not None:
            raise ValueError(f"{mask_name} goes with {name}, which are missing.")
        return
    sizes = f"({num_prompts or 'num_prompts'}, sequence_length, {dim})"
    is_wrong = embeds.ndim != 3 or embeds.shape[2] != dim or 0 in embeds.shape or not embeds.is_floating_point()
    if is_wrong or num_prompts not in (None, len(embeds)):
        raise ValueError(
            f"{name} must be a floating-point tensor {sizes}, got shape {tuple(embeds.shape)}, dtype {embeds.dtype}."
        )
    if mask is not None and (mask.dtype != torch.bool or mask.shape != embeds.shape[:2]):
        raise ValueError(
            f"{mask_name} must be a boolean tensor {tuple(embeds.shape[:2])}, True = attend, "
            f"got shape {tuple(mask.shape)}, dtype {mask.dtype}."
        )


def check_timing(
    duration: float | Sequence[float] | None,
    seconds_start: float | Sequence[float],
    seconds_total: float | Sequence[float] | None,
    num_prompts: int,
    window: float,
    latest: float,
) -> tuple[list[float], list[float], list[float]]:
    """Durations, starts and totals in seconds, one of each for each prompt.

    Args:
        duration: in (0, `window`]; None is the window.
        seconds_start: in [0, `latest`].
        seconds_total: in (0, `latest`]; None is the start plus the duration.
        num_prompts: how many there are.
        window: the longest duration, in seconds.
        latest: the largest time that the model knows, in seconds.
    """
    durations = check_numbers("duration", window if duration is None else duration, num_prompts)
    starts = check_numbers("seconds_start", seconds_start, num_prompts)
    for value in durations:
        if not 0 < value <= window:
            raise ValueError(f"duration must be in (0, {window:.3f}] seconds, got {value}.")
    for value in starts:
        if not 0 <= value <= latest:
            raise ValueError(f"seconds_start must be in [0, {latest}] seconds, got {value}.")
    if seconds_total is None:
        totals = [start + length for start, length in zip(starts, durations, strict=True)]
    else:
        totals = check_numbers("seconds_total", seconds_total, num_prompts)
    for value in totals:
        if not 0 < value <= latest:
            raise ValueError(f"seconds_total must be in (0, {latest}] seconds, got {value}.")
    return durations, starts, totals


def check_count(name: str, value: int) -> None:
    """An integer of at least 1."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")


def check_guidance(guidance_scale: float, guidance_rescale: float) -> None:
    """A finite scale and a rescaling φ in [0, 1]."""
    if not math.isfinite(guidance_scale):
        raise ValueError(f"guidance_scale must be finite, got {guidance_scale}.")
    if not 0 <= guidance_rescale <= 1:
        raise ValueError(f"guidance_rescale must be in [0, 1], got {guidance_rescale}.")


def check_interval(guidance_interval: Sequence[float]) -> None:
    """Two rising times in [0, 1]."""
    if len(guidance_interval) != 2 or not 0 <= guidance_interval[0] <= guidance_interval[1] <= 1:
        raise ValueError(f"guidance_interval must be two rising times in [0, 1], got {guidance_interval}.")


def check_output_type(output_type: str) -> None:
    """One of `OUTPUT_TYPES`."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}.")


def check_callback_inputs(names: Sequence[str], known: Sequence[str]) -> None:
    """Names of tensors that the pipeline can show to a callback."""
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"callback_on_step_end_tensor_inputs must be among {', '.join(known)}, got {', '.join(unknown)}."
        )


def check_generator(generator: Generators, batch_size: int) -> torch.Generator | list[torch.Generator] | None:
    """None, one generator, or a list of one for each item, in which form schedulers take it."""
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    if not isinstance(generator, (list, tuple)) or not all(isinstance(g, torch.Generator) for g in generator):
        raise ValueError(f"generator must be a torch.Generator or a list of {batch_size}, got {generator!r}.")
    if len(generator) != batch_size:
        raise ValueError(f"generator must be one or a list of {batch_size}, got {len(generator)}.")
    return list(generator)
