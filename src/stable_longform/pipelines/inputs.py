"""Checks of the pipelines' arguments.

Each raises a ValueError that names the value and what is accepted, and returns the value in a uniform form.
"""

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, cast

import numpy as np
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

from stable_longform.pipelines.sections import Section, is_sectioned
from stable_longform.utils.accepted_values import MAX_GUIDANCE_SCALE, MAX_STEPS
from stable_longform.utils.ranges import as_list, check_choice, check_number

Prompt = str | Sequence[Section]
MAX_BATCH_SIZE = 1024
OUTPUT_TYPES = ("pt", "np", "latent")
Generators = torch.Generator | Sequence[torch.Generator] | None


@dataclass(frozen=True)
class Prompts:
    """The checked prompts and negative prompts, as texts or embeddings.

    Args:
        texts: one for each prompt, "" for no prompt; None if `embeds` are given.
        embeds: `(num_prompts, sequence_length, dim)`; None if `texts` are given.
        mask: boolean `(num_prompts, sequence_length)` for `embeds`, or None.
        negative_texts: one for each prompt, or None.
        negative_embeds: like `embeds`, or None.
        negative_mask: like `mask`, or None.
        sections: the sections of each prompt, rising from 0 s, if any prompt has sections. `texts` then holds the
            first section of each.
    """

    texts: list[str] | None
    embeds: torch.Tensor | None
    mask: torch.Tensor | None
    negative_texts: list[str] | None
    negative_embeds: torch.Tensor | None
    negative_mask: torch.Tensor | None
    sections: list[list[Section]] | None = None

    def __len__(self) -> int:
        return len(cast(Sized, self.embeds if self.texts is None else self.texts))


@dataclass(frozen=True)
class Timing:
    """For each prompt, in seconds: the duration of the music, its start in the piece, the duration of the piece."""

    durations: list[float]
    starts: list[float]
    totals: list[float]


def check_prompts(
    prompt: Prompt | Sequence[Prompt] | None,
    negative_prompt: str | Sequence[str] | None,
    prompt_embeds: torch.Tensor | None,
    prompt_attention_mask: torch.Tensor | None,
    negative_prompt_embeds: torch.Tensor | None,
    negative_prompt_attention_mask: torch.Tensor | None,
    *,
    dim: int,
) -> Prompts:
    """Checks texts, or embeddings of width `dim`; arguments as in the pipelines."""
    if (prompt is None) == (prompt_embeds is None):
        raise ValueError("Give either prompt or prompt_embeds.")
    if negative_prompt is not None and negative_prompt_embeds is not None:
        raise ValueError("Give negative_prompt or negative_prompt_embeds, not both.")
    check_embeddings("prompt_embeds", prompt_embeds, prompt_attention_mask, dim)
    sections = None if prompt is None else check_sections(prompt)
    first_texts: Any = prompt if sections is None else [parts[0][1] for parts in sections]
    texts = None if prompt is None else check_texts("prompt", first_texts)
    num_prompts = len(cast(Sized, prompt_embeds if texts is None else texts))
    check_embeddings(
        "negative_prompt_embeds", negative_prompt_embeds, negative_prompt_attention_mask, dim, num_prompts
    )
    negative_texts = None if negative_prompt is None else check_texts("negative_prompt", negative_prompt)
    if negative_texts is not None:
        negative_texts = one_for_each("negative_prompt", negative_texts, num_prompts)
    masks = prompt_attention_mask, negative_prompt_attention_mask
    return Prompts(texts, prompt_embeds, masks[0], negative_texts, negative_prompt_embeds, masks[1], sections)


def check_sections(prompt: Prompt | Sequence[Prompt]) -> list[list[Section]] | None:
    """The sections of each prompt (a plain text is one section); None if no prompt has sections."""
    prompts: Any = [prompt] if is_sectioned(prompt) else prompt
    if isinstance(prompts, str) or not isinstance(prompts, (list, tuple)) or not any(map(is_sectioned, prompts)):
        return None
    every = []
    for one in prompts:
        if not is_sectioned(one):
            every.append([(0.0, check_texts("prompt", one)[0])])
            continue
        for part in one:
            if not isinstance(part, (list, tuple)) or len(part) != 2:
                raise ValueError(f"A section must be (start in seconds, text), got {part!r}.")
        starts = [check_number("The start of a section", start, 0) for start, _ in one]
        if starts[0] != 0 or any(a >= b for a, b in zip(starts, starts[1:], strict=False)):
            raise ValueError(f"Sections must start at 0 s and rise, got {', '.join(f'{s:g}' for s in starts)}.")
        every.append(list(zip(starts, check_texts("prompt", [text for _, text in one]), strict=True)))
    return every


def prompts_for(prompt: Prompt | Sequence[Prompt] | None, number: int) -> Sequence[Prompt]:
    """Repeats a single prompt, or none, `number` times; several prompts are returned unchanged."""
    one: Any = "" if prompt is None else prompt
    return [one] * number if isinstance(one, str) or is_sectioned(one) else one


def check_texts(name: str, texts: str | Sequence[str]) -> list[str]:
    """Returns one or several texts as a list. Blank ones, which mean no prompt, become ""."""
    if isinstance(texts, str):
        texts = [texts]
    elif not isinstance(texts, (list, tuple, np.ndarray)):
        raise ValueError(f"{name} must be a text or a list of texts, got {texts!r}.")
    if len(texts) == 0:
        raise ValueError(f"{name} must hold at least one text, got none.")
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{name} must be text, got {text!r}.")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(f"{name} must be valid Unicode, without lone surrogates, got {text!r}.")
    return [str(text) if text.strip() else "" for text in texts]


def one_for_each(name: str, values: list, num_prompts: int) -> list:
    """Returns one value for each prompt; a single value is repeated."""
    if len(values) not in (1, num_prompts):
        raise ValueError(f"{name} must be one or {num_prompts}, one for each prompt, got {len(values)}.")
    return values * (num_prompts // len(values))


def check_numbers(name: str, value: float | Sequence[float], num_prompts: int) -> list[float]:
    """Returns a list with a number for each prompt; a single number is repeated."""
    value = as_list(name, value)
    values: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value] * num_prompts
    if len(values) != num_prompts:
        raise ValueError(f"{name} must be one number or {num_prompts}, one for each prompt, got {len(values)}.")
    for entry in values:
        if not isinstance(entry, Real) or isinstance(entry, bool):
            raise ValueError(f"{name} must be a number or a list of numbers, got {value!r}.")
    try:
        return [float(entry) for entry in values]
    except OverflowError as error:
        raise ValueError(f"{name} must be finite, got an integer that is too large.") from error


def check_tensor(name: str, tensor: torch.Tensor) -> None:
    """Checks a dense tensor of real floating-point numbers of 16 bits or more, all of them finite."""
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}.")
    if not tensor.is_floating_point() or tensor.dtype.itemsize < 2:
        raise ValueError(f"{name} must be a floating-point tensor of at least 16 bits, got dtype {tensor.dtype}.")
    check_dense(name, tensor)
    if not tensor.isfinite().all():
        raise ValueError(f"{name} must be finite, got {int((~tensor.isfinite()).sum())} values that are not.")


def check_dense(name: str, tensor: torch.Tensor) -> None:
    """Raises a ValueError if a tensor has no values (on the meta device), or is sparse or nested."""
    if tensor.is_meta or tensor.is_nested or tensor.layout != torch.strided:
        kind = "is on the meta device" if tensor.is_meta else "is sparse or nested"
        raise ValueError(f"{name} must be a dense tensor with values, got one that {kind}.")


def check_embeddings(
    name: str, embeds: torch.Tensor | None, mask: torch.Tensor | None, dim: int, num_prompts: int | None = None
) -> None:
    """Checks embeddings `(num_prompts, sequence_length, dim)` and their boolean mask, if they are given."""
    mask_name = name.replace("embeds", "attention_mask")
    if embeds is None:
        if mask is not None:
            raise ValueError(f"{mask_name} needs {name}, which are missing.")
        return
    check_tensor(name, embeds)
    is_wrong = embeds.ndim != 3 or embeds.shape[2] != dim or 0 in embeds.shape
    if is_wrong or num_prompts not in (None, len(embeds)):
        sizes = f"({num_prompts or 'num_prompts'}, sequence_length, {dim})"
        raise ValueError(f"{name} must have shape {sizes}, got {tuple(embeds.shape)}.")
    if mask is None:
        return
    if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool or mask.shape != embeds.shape[:2]:
        got = f"shape {tuple(mask.shape)}, dtype {mask.dtype}" if isinstance(mask, torch.Tensor) else repr(mask)
        raise ValueError(f"{mask_name} must be a boolean tensor {tuple(embeds.shape[:2])}, True = attend, got {got}.")
    check_dense(mask_name, mask)


def check_latents(latents: torch.Tensor, batch_size: int, channels: int, max_length: int, patch_size: int) -> None:
    """Checks noise `(batch_size, channels, L)`, L a multiple of `patch_size` and at most `max_length`."""
    check_tensor("latents", latents)
    shape = tuple(latents.shape)
    is_right = len(shape) == 3 and shape[:2] == (batch_size, channels)
    if not is_right or not 0 < shape[2] <= max_length or shape[2] % patch_size:
        lengths = f"L in [{patch_size}, {max_length}]" + (f", a multiple of {patch_size}" if patch_size > 1 else "")
        raise ValueError(f"latents must have shape ({batch_size}, {channels}, L) with {lengths}, got {shape}.")


def check_timing(
    duration: float | Sequence[float] | None,
    seconds_start: float | Sequence[float],
    seconds_total: float | Sequence[float] | None,
    num_prompts: int,
    window_in_s: float,
    latest: float,
    sampling_rate: int | None = None,
) -> Timing:
    """Checks durations, starts and totals in seconds, and returns one of each for each prompt.

    Args:
        duration: at least one sample, at most `window_in_s`; None: the window.
        seconds_start: in [0, `latest`], before `seconds_total`.
        seconds_total: in (0, `latest`]; None: the start plus the duration.
        num_prompts: number of prompts.
        window_in_s: the longest duration.
        latest: the largest time that the model knows, in seconds.
        sampling_rate: samples a second, None if that is not known.
    """
    durations = check_numbers("duration", window_in_s if duration is None else duration, num_prompts)
    starts = check_numbers("seconds_start", seconds_start, num_prompts)
    for value in durations:
        if not 0 < value <= window_in_s or (sampling_rate is not None and value * sampling_rate <= 0.5):
            first = "(0" if sampling_rate is None else f"[1/{sampling_rate}"
            raise ValueError(f"duration must be in {first}, {window_in_s:.3f}] seconds, got {value}.")
    for value in starts:
        if not 0 <= value <= latest:
            raise ValueError(f"seconds_start must be in [0, {latest}] seconds, got {value}.")
    if seconds_total is None:
        totals = [start + length for start, length in zip(starts, durations, strict=True)]
    else:
        totals = check_numbers("seconds_total", seconds_total, num_prompts)
    for start, total in zip(starts, totals, strict=True):
        if not 0 < total <= latest:
            raise ValueError(f"seconds_total must be in (0, {latest}] seconds, got {total}.")
        if start >= total:
            raise ValueError(f"seconds_start must be before seconds_total={total} seconds, got {start}.")
    return Timing(durations, starts, totals)


def check_place(
    durations: Sequence[float],
    seconds_start: float | Sequence[float],
    seconds_total: float | Sequence[float] | None,
    num_prompts: int,
) -> Timing:
    """Like `check_timing`, for pieces whose durations are known and may exceed the times that the model knows."""
    starts = check_numbers("seconds_start", seconds_start, num_prompts)
    for value in starts:
        check_number("seconds_start", value, 0, 1e6)
    ends = [start + duration for start, duration in zip(starts, durations, strict=True)]
    totals = ends if seconds_total is None else check_numbers("seconds_total", seconds_total, num_prompts)
    for end, total in zip(ends, totals, strict=True):
        check_number("seconds_total", total, end, 1e6)
    return Timing(list(durations), starts, totals)


def check_frame_mask(mask: torch.Tensor | np.ndarray, latent_length: int) -> torch.Tensor:
    """Returns a boolean mask `(latent_length,)` as a tensor on the CPU."""
    if isinstance(mask, np.ndarray) and mask.dtype == bool:
        mask = torch.from_numpy(mask.copy())  # the copy has no negative strides
    if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool or mask.shape != (latent_length,):
        has_shape = isinstance(mask, (torch.Tensor, np.ndarray))
        got = f"shape {tuple(mask.shape)}, dtype {mask.dtype}" if has_shape else type(mask).__name__
        raise ValueError(f"mask must be boolean, of shape ({latent_length},), True = replace, got {got}.")
    check_dense("mask", mask)
    return mask.cpu()


def check_start_and_end(
    duration: float | Sequence[float] | None,
    seconds_start: float | Sequence[float],
    audio_start_in_s: float | Sequence[float] | None,
    audio_end_in_s: float | Sequence[float] | None,
) -> tuple[float | Sequence[float] | None, float | Sequence[float]]:
    """Returns duration and start; diffusers' names are accepted too."""
    seconds_start = as_list("seconds_start", seconds_start)
    audio_start_in_s = as_list("audio_start_in_s", audio_start_in_s)
    audio_end_in_s = as_list("audio_end_in_s", audio_end_in_s)
    if audio_start_in_s is not None:
        if np.any(seconds_start):
            raise ValueError("Give seconds_start or audio_start_in_s, not both.")
        seconds_start = audio_start_in_s
    if audio_end_in_s is None:
        return duration, seconds_start
    if duration is not None:
        raise ValueError("Give duration or audio_end_in_s, not both.")
    sizes = {np.size(value) for value in (seconds_start, audio_end_in_s)} - {1}
    number = sizes.pop() if sizes else 1
    starts, ends = (
        check_numbers(name, value, number)
        for name, value in (("audio_start_in_s", seconds_start), ("audio_end_in_s", audio_end_in_s))
    )
    for start, end in zip(starts, ends, strict=True):
        if not start < end:
            raise ValueError(f"audio_end_in_s must be after audio_start_in_s={start}, got {end}.")
    durations = [end - start for start, end in zip(starts, ends, strict=True)]
    return (durations if number > 1 else durations[0]), seconds_start


def check_windows(window_in_s: Sequence[float]) -> list[float]:
    """Returns rising window lengths in seconds, each greater than 0, from one number or several."""
    given: Any = window_in_s if isinstance(window_in_s, (list, tuple, np.ndarray)) else [window_in_s]
    windows = sorted(check_number("window_in_s", value) for value in given)
    if windows and windows[0] <= 0:
        raise ValueError(f"window_in_s must be greater than 0 seconds, got {windows[0]}.")
    return windows


def check_count(name: str, value: int, high: int) -> int:
    """Checks an integer in [1, `high`]."""
    if not isinstance(value, Integral) or isinstance(value, bool) or not 1 <= value <= high:
        raise ValueError(f"{name} must be an integer in [1, {high}], got {value!r}.")
    return int(value)


def check_flag(name: str, value: bool) -> bool:
    """Returns a bool; raises a ValueError for anything else: the text "no" would count as true."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}.")
    return value


def check_times(name: str, times: Sequence[float]) -> list[float]:
    """Checks strictly falling times in [0, 1], at most `MAX_STEPS`."""
    times = as_list(name, times)
    if not isinstance(times, (list, tuple)) or not 1 <= len(times) <= MAX_STEPS:
        raise ValueError(f"{name} must be a list of 1 to {MAX_STEPS} falling times in [0, 1], got {times!r}.")
    checked = [check_number(name, time, 0, 1) for time in times]
    if any(after >= before for before, after in zip(checked, checked[1:], strict=False)):
        raise ValueError(f"{name} must strictly fall, got {times!r}.")
    return checked


def check_batch_size(num_prompts: int, num_waveforms_per_prompt: int) -> int:
    """Returns the number of results, at most `MAX_BATCH_SIZE`."""
    num_waveforms_per_prompt = check_count("num_waveforms_per_prompt", num_waveforms_per_prompt, MAX_BATCH_SIZE)
    if num_prompts * num_waveforms_per_prompt > MAX_BATCH_SIZE:
        raise ValueError(
            f"There may be at most {MAX_BATCH_SIZE} results in one call, got {num_prompts} prompts times "
            f"num_waveforms_per_prompt={num_waveforms_per_prompt}."
        )
    return num_prompts * num_waveforms_per_prompt


def check_guidance_scale(guidance_scale: float, name: str = "guidance_scale") -> float:
    """Checks a number whose absolute value is at most `MAX_GUIDANCE_SCALE`."""
    return check_number(name, guidance_scale, -MAX_GUIDANCE_SCALE, MAX_GUIDANCE_SCALE)


def check_strength(strength: float) -> float:
    """Checks a time in (0, 1]."""
    strength = check_number("strength", strength)
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be in (0, 1], got {strength}.")
    return strength


def check_interval(guidance_interval: Sequence[float]) -> tuple[float, float]:
    """Checks two rising times in [0, 1]."""
    message = f"guidance_interval must be two rising times in [0, 1], got {guidance_interval!r}."
    guidance_interval = as_list("guidance_interval", guidance_interval)
    if not isinstance(guidance_interval, (list, tuple)) or len(guidance_interval) != 2:
        raise ValueError(message)
    if any(not isinstance(time, Real) or isinstance(time, bool) for time in guidance_interval):
        raise ValueError(message)
    if not 0 <= guidance_interval[0] <= guidance_interval[1] <= 1:
        raise ValueError(message)
    return float(guidance_interval[0]), float(guidance_interval[1])


def check_output_type(output_type: str, known: Sequence[str] = OUTPUT_TYPES) -> None:
    """Checks that the output type is one of `known`."""
    check_choice("output_type", output_type, known)


def check_callback(callback: Callable | None, names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Returns the names of the tensors for a callback, which must be among `known`; diffusers' own bring theirs."""
    if callback is not None and not callable(callback):
        raise ValueError(f"callback_on_step_end must be callable, got {callback!r}.")
    if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
        names = callback.tensor_inputs
    if isinstance(names, str) or not isinstance(names, (list, tuple, set)):
        raise ValueError(f"callback_on_step_end_tensor_inputs must be a list of names, got {names!r}.")
    unknown = [str(name) for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"callback_on_step_end_tensor_inputs must be among {', '.join(known)}, got {', '.join(unknown)}."
        )
    return list(names)


def check_callback_result(result: dict | None, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Checks the tensors that a callback returned to replace some of `tensors`; the shapes must be the same."""
    if result is None:
        return {}
    if not isinstance(result, dict):
        raise ValueError(f"callback_on_step_end must return a dict or None, got {type(result).__name__}.")
    unknown = [str(name) for name in result if name not in tensors]
    if unknown:
        raise ValueError(
            f"callback_on_step_end may return {', '.join(tensors)}, got {', '.join(unknown)}, which would be ignored."
        )
    for name, tensor in result.items():
        check_tensor(f"{name} from callback_on_step_end", tensor)
        if tensor.shape != tensors[name].shape:
            shape = tuple(tensors[name].shape)
            raise ValueError(f"{name} from callback_on_step_end must have shape {shape}, got {tuple(tensor.shape)}.")
    return {name: tensor.to(tensors[name]) for name, tensor in result.items()}


def check_generator(generator: Generators, batch_size: int) -> torch.Generator | list[torch.Generator] | None:
    """Returns None, one generator, or a list with one for each item, as schedulers accept it."""
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    if not isinstance(generator, (list, tuple)) or not all(isinstance(g, torch.Generator) for g in generator):
        raise ValueError(f"generator must be a torch.Generator or a list of {batch_size}, got {generator!r}.")
    if len(generator) != batch_size:
        raise ValueError(f"generator must be one or a list of {batch_size}, got {len(generator)}.")
    return list(generator)
