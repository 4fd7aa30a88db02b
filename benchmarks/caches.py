"""The effect of diffusers' transformer caches on music, compared with the same sampling without a cache.

    python benchmarks/caches.py
    python benchmarks/caches.py --duration 47 --num_prompts 2

All rows start from the same noise. "Blocks" is the share of the last block's evaluations that were computed. Errors
are those of `music_errors.py`: the mean difference of the levels of 128 mel bands, and the ratios of loudness and of
spectral centroid, from the smallest to the largest of all prompts. Rows with fewer steps show the result for the same
time without a cache. Keys and values of the text are always kept over the steps, which is exact; one row recomputes
them.
"""

import argparse
import ast
import contextlib
import io
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from diffusers import (
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
from music_errors import music_errors
from steps import PROMPTS
from timing import machine, print_table

from stable_longform import TINY_CHECKPOINT, LongFormMusicPipeline
from stable_longform.models.dit_attention import DiTAttnProcessor
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import SECONDS, STEPS, ScriptParser, run_main

HEADER = ("option", "blocks", "sampling, processor s", "log-mel L1, dB", "RMS ratio", "centroid ratio")
ATTENTION = [r"transformer_blocks\.\d+\.attn[12]"]


class Result(NamedTuple):
    """Music of all prompts `(audio_channels, num_samples)`, the last block's evaluations, seconds for one piece."""

    music: list[torch.Tensor]
    evaluations: int
    seconds: float


def main() -> None:
    """Prints the table."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--checkpoint", default=TINY_CHECKPOINT, help="folder or Hub id")
    parser.add_number("--steps", STEPS, default=40, help="sampling steps")
    parser.add_number("--duration", SECONDS, kind=float, default=11.5, help="seconds of each piece")
    parser.add_number("--num_prompts", Range(1, len(PROMPTS)), default=len(PROMPTS), help="number of built-in prompts")
    arguments = parser.parse_args()
    print(f"pieces of {arguments.duration:g} s, {arguments.steps} steps; {machine('cpu')}\n")
    pipe = LongFormMusicPipeline.from_pretrained(arguments.checkpoint)
    pipe.set_progress_bar_config(disable=True)
    exact = make(pipe, arguments)
    rows = [row("no cache", exact, exact, pipe)]
    for share in (4, 2):
        steps = max(arguments.steps * (share - 1) // share, 1)
        rows.append(row(f"{steps} steps", make(pipe, arguments, steps), exact, pipe))
    for name, config in configurations(pipe, arguments):
        pipe.transformer.enable_cache(config)
        rows.append(row(name, make(pipe, arguments), exact, pipe))
        pipe.transformer.disable_cache()
    hook = pipe.transformer.transformer_blocks[0].register_forward_hook(lambda *_: None)
    rows.append(row("text projected again in each step", make(pipe, arguments), exact, pipe))
    hook.remove()
    print_table(HEADER, rows)


def configurations(pipe: LongFormMusicPipeline, arguments: argparse.Namespace) -> Iterator[tuple[str, object]]:
    """Names and configurations of the caches."""
    for threshold in (0.05, 0.1, 0.2):
        yield f"first-block cache, threshold {threshold}", FirstBlockCacheConfig(threshold)
    for interval in (2, 3):
        config = TaylorSeerCacheConfig(interval, cache_identifiers=ATTENTION, taylor_factors_dtype=torch.float32)
        yield f"TaylorSeer of the attentions, every {interval} steps", config
    pyramid = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        cross_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(0.1, 0.9),
        cross_attention_timestep_skip_range=(0.1, 0.9),
        current_timestep_callback=lambda: pipe.current_timestep,
    )
    yield "pyramid attention broadcast, every 2 steps", pyramid
    ratios = magnitude_ratios(pipe, arguments)
    for skips in (1, 3):
        config = MagCacheConfig(mag_ratios=ratios, num_inference_steps=arguments.steps, max_skip_steps=skips)
        yield f"MagCache, at most {skips} skipped", config


def magnitude_ratios(pipe: LongFormMusicPipeline, arguments: argparse.Namespace) -> list[float]:
    """What MagCache has to know of a model; it prints it."""
    pipe.transformer.enable_cache(MagCacheConfig(calibrate=True, num_inference_steps=arguments.steps))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        sample(pipe, arguments, PROMPTS[0], 0)
    pipe.transformer.disable_cache()
    return ast.literal_eval(next(line for line in printed.getvalue().splitlines() if line.startswith("[1.0")))


def sample(pipe, arguments: argparse.Namespace, prompt: str, seed: int, steps: int | None = None) -> torch.Tensor:
    """Latents of one piece `(C, L)`."""
    settings = {"generator": torch.Generator().manual_seed(seed), "output_type": "latent"}
    return pipe(prompt, arguments.duration, num_inference_steps=steps or arguments.steps, **settings).audios[0]


@torch.inference_mode()
def make(pipe: LongFormMusicPipeline, arguments: argparse.Namespace, steps: int | None = None) -> Result:
    """Pieces of all prompts."""
    counter = Counter()
    pipe.transformer.transformer_blocks[-1].attn1.set_processor(counter)
    start = time.process_time()
    latents = [
        sample(pipe, arguments, prompt, seed, steps) for seed, prompt in enumerate(PROMPTS[: arguments.num_prompts])
    ]
    seconds = (time.process_time() - start) / len(latents)
    return Result([pipe.decode_latents(item, arguments.duration) for item in latents], counter.calls, seconds)


class Counter(DiTAttnProcessor):
    """The last block's self-attention, counted; a hook would keep the pipeline from keeping the text's projections."""

    def __init__(self):
        self.calls = 0

    def __call__(self, *args, **kwargs) -> torch.Tensor:
        self.calls += 1
        return super().__call__(*args, **kwargs)


def row(name: str, result: Result, exact: Result, pipe: LongFormMusicPipeline) -> tuple:
    """A row of the table."""
    rate = pipe.vae.config.sampling_rate
    errors = [music_errors(*pair, rate) for pair in zip(result.music, exact.music, strict=True)]
    log_mel = sum(error.log_mel_l1 for error in errors) / len(errors)
    ratios = [[error[index] for error in errors] for index in (1, 2)]
    ranges = [f"{min(values):.2f} to {max(values):.2f}" for values in ratios]
    return name, result.evaluations / exact.evaluations, result.seconds, log_mel, *ranges


if __name__ == "__main__":
    run_main(main)
