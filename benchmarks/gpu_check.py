"""Measures a GPU in ten minutes: whole generations at the paper's size, compared with diffusers' classes.

    make gpu-check
    python benchmarks/gpu_check.py --device cuda --report gpu_check.md
    python benchmarks/gpu_check.py --device cpu --size tiny --window 64 --steps 2 --few_steps 1

Weights are random, which does not affect the time, and the same in both. Guided rows evaluate the transformer with and
without the prompt; the last row is for a distilled model: ping-pong without guidance. diffusers' transformer runs
three steps, from which the time of all is extrapolated, and its decoder decodes the whole window, as in its pipeline.
The autoencoders compute in float32. The latent error is the distance from the same sampling in float32. The share is
the arithmetic rate, with only the operations that guidance needs, relative to that of a matrix product in the same
run. The decoder runs with the engine (folded weights, Snake in Triton), without it, as a stream and in bfloat16.
`--compile` adds torch.compile, and reports how many graphs are compiled for three durations and for windows of three
lengths. `--fp8` adds 8-bit floats in the blocks through torchao: weights and activations where the GPU multiplies them
(compute capability 8.9), otherwise weights only. `--profile FILE` writes a trace of the last row for chrome://tracing.
"""

import argparse
import contextlib
import io
import os
import time
from pathlib import Path
from unittest.mock import patch

import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from model_pairs import LATENT_CHANNELS, TRANSFORMERS, autoencoders, transformers
from timing import interleave, machine, matmul_peak, peak_resident_bytes, print_table, relative_error, synchronize
from transformer_step import NUM_TEXT_TOKENS, operations

from stable_longform import LongFormMusicPipeline, TimingConditioner
from stable_longform.models.acceleration.engine import SWITCH
from stable_longform.schedulers.scheduling import make_scheduler
from stable_longform.utils.accepted_values import DTYPES
from stable_longform.utils.files import write_text
from stable_longform.utils.optional import require
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import STEPS, ScriptParser, run_main

HEADER = ("steps", "model", "sampling, s", "decoding, s", "whole, s", "ratio", "peak memory, GB", "share of the peak")


def main() -> None:
    """Prints the report, and writes it if requested."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--size", choices=TRANSFORMERS, default="paper", help="size of the models")
    parser.add_number("--window", Range(8, 6144), default=6144, help="window to sample and decode, in latent frames")
    parser.add_number("--steps", STEPS, nargs="+", default=[100, 50, 25], help="sampling steps with guidance")
    parser.add_number("--few_steps", STEPS, default=8, help="ping-pong steps without guidance")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="precision of the transformer")
    parser.add_argument("--compile", action="store_true", help="also measure with torch.compile")
    parser.add_argument("--fp8", action="store_true", help="also measure 8-bit floats; needs the extra `quantization`")
    parser.add_argument("--profile", type=Path, help="trace file to write")
    parser.add_argument("--report", type=Path, help="Markdown file for the report")
    parser.add_device()
    arguments = parser.parse_args()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed) if arguments.report else contextlib.nullcontext():
        check(arguments)
    if arguments.report:
        write_text(arguments.report, printed.getvalue())
        print(printed.getvalue(), end="")


@torch.inference_mode()
def check(arguments: argparse.Namespace) -> None:
    """All rows."""
    dtype, device = DTYPES[arguments.dtype], arguments.device
    print(f"{arguments.size} size, {arguments.window} latents, {arguments.dtype}; {machine(device)}\n")
    ours, theirs = transformers(arguments.size, None, dtype, device)
    vae, their_vae = autoencoders(arguments.size, torch.float32, device)
    pipe = build_pipeline(ours, vae)
    cases = [(steps, True) for steps in arguments.steps] + [(arguments.few_steps, False)]
    peak, rows, expected = matmul_peak(dtype, device), [], {}
    for case in cases:
        baseline = run_diffusers(theirs, their_vae, *case, arguments)
        rows.append(row(*case, "diffusers", baseline, baseline, None))
        result = run_ours(pipe, *case, arguments)
        expected[case] = result[0]
        share = operations(ours.config, arguments.window) * case[0] / result[1] / peak if case[1] else None
        rows.append(row(*case, "ours", result[1:], baseline, share))
    print_table(HEADER, rows)
    print_decoding(vae, arguments)
    chosen = [(min(arguments.steps), True), (arguments.few_steps, False)]
    pipe.transformer.float()
    exact = {case: call(pipe, *case, arguments.window).cpu() for case in chosen}
    pipe.transformer.to(dtype)
    results = {arguments.dtype: expected}
    if arguments.compile:
        pipe.transformer.compile_repeated_blocks(fullgraph=True)
        print_table(HEADER, [variant(pipe, case, "ours, compiled", rows, arguments)[1] for case in cases])
        print_graphs(pipe, arguments)
    if arguments.profile is not None:
        with torch.profiler.profile() as profile:
            run_ours(pipe, arguments.few_steps, False, arguments)
        profile.export_chrome_trace(str(arguments.profile))
    if arguments.fp8:
        use_float8(pipe.transformer)
        measured = {case: variant(pipe, case, "ours, fp8", rows, arguments) for case in chosen}
        results["fp8"] = {case: latents for case, (latents, _) in measured.items()}
        print_table(HEADER, [cells for _, cells in measured.values()])
    print_table(
        ("steps", "precision", "latent error"),
        [
            (label(*case), name, f"{relative_error(latents[case], exact[case]):.1e}")
            for case in chosen
            for name, latents in results.items()
        ],
    )


def build_pipeline(transformer, vae) -> LongFormMusicPipeline:
    """A pipeline without a text encoder, whose prompts are embeddings."""
    timing_conditioner = TimingConditioner(transformer.config.cross_attention_input_dim).to(transformer.device)
    parts = {"vae": vae, "transformer": transformer, "timing_conditioner": timing_conditioner}
    pipe = LongFormMusicPipeline(**parts, text_encoder=None, tokenizer=None, scheduler=make_scheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call(pipe, steps: int, is_guided: bool, window: int, share: float = 1.0) -> torch.Tensor:
    """Latents `(1, C, window)` of one generation, of which music is to fill a share."""
    pipe.use_scheduler("dpmsolver++" if is_guided else "ping-pong")
    generator = torch.Generator().manual_seed(0)
    return pipe(
        prompt_embeds=torch.randn(
            1, NUM_TEXT_TOKENS, pipe.transformer.config.cross_attention_input_dim, generator=generator
        ),
        latents=torch.randn(1, LATENT_CHANNELS, window, generator=generator),
        duration=share * window / pipe.vae.latent_rate,
        num_inference_steps=steps,
        guidance_scale=7.0 if is_guided else 1.0,
        generator=generator,
        output_type="latent",
    ).audios


def run_ours(pipe, steps: int, is_guided: bool, arguments: argparse.Namespace) -> tuple:
    """Latents on the CPU, seconds of sampling and of decoding, and the peak of the memory in bytes."""
    call(pipe, 1, is_guided, arguments.window)  # warms up
    reset_peak()
    start = time.perf_counter()
    latents = call(pipe, steps, is_guided, arguments.window)
    synchronize()
    sampled = time.perf_counter()
    pipe.decode_latents(latents[0], arguments.window / pipe.vae.latent_rate)
    synchronize()
    return latents.cpu(), sampled - start, time.perf_counter() - sampled, peak_bytes()


def run_diffusers(transformer, vae, steps: int, is_guided: bool, arguments: argparse.Namespace) -> tuple:
    """Seconds of sampling and of decoding, and the peak of the memory in bytes."""
    batch, device, dtype = 2 if is_guided else 1, transformer.device, transformer.dtype
    config, window = transformer.config, arguments.window
    latents = torch.randn(1, LATENT_CHANNELS, window, device=device)
    text = torch.randn(batch, NUM_TEXT_TOKENS + 2, config.cross_attention_input_dim).to(device, dtype)
    timing = torch.randn(batch, 1, config.global_states_input_dim).to(device, dtype)
    rotary = get_1d_rotary_pos_embed(
        config.attention_head_dim // 2, window + 1, use_real=True, repeat_interleave_real=False
    )
    t = torch.tensor([0.7], device=device, dtype=dtype)
    noisy_latents = latents.repeat(batch, 1, 1).to(dtype)
    reset_peak()
    timing_of_step = interleave({"step": lambda: transformer(noisy_latents, t, text, timing, rotary)}, 3)["step"]
    vae.enable_tiling()
    decoding = interleave({"decode": lambda: vae.decode(latents)}, 1)["decode"]
    return steps * timing_of_step.seconds, decoding.seconds, peak_bytes()


def label(steps: int, is_guided: bool) -> str:
    """The first cell of a row."""
    return f"{steps}, guided" if is_guided else f"{steps}, ping-pong"


def row(steps: int, is_guided: bool, model: str, result: tuple, baseline: tuple, share: float | None) -> tuple:
    """A row of the table: `result` and `baseline` are seconds of sampling and decoding, and bytes."""
    whole, theirs = sum(result[:2]), sum(baseline[:2])
    cells = (*result[:2], whole, theirs / whole, result[2] / 1e9)
    return (label(steps, is_guided), model, *map(float, cells), "" if share is None else float(share))


def variant(pipe, case: tuple, model: str, rows: list[tuple], arguments: argparse.Namespace) -> tuple:
    """Latents of a case and its row, beside the row of diffusers."""
    latents, *result = run_ours(pipe, *case, arguments)
    baseline = next(entry for entry in rows if entry[:2] == (label(*case), "diffusers"))
    return latents, row(*case, model, result, baseline[2:4] + baseline[6:7], None)


def use_float8(transformer) -> None:
    """Rounds the linear layers of the blocks to 8 bits; where the device multiplies those, their inputs as well."""
    torchao = require("torchao.quantization", "quantization")
    has_products = transformer.device.type == "cuda" and torch.cuda.get_device_capability(transformer.device) >= (8, 9)
    name = "Float8DynamicActivationFloat8WeightConfig" if has_products else "Float8WeightOnlyConfig"
    torchao.quantize_(transformer.transformer_blocks, getattr(torchao, name)())


@torch.inference_mode()
def print_decoding(vae, arguments: argparse.Namespace) -> None:
    """Seconds, peak memory and error of the ways to decode a window."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, LATENT_CHANNELS, arguments.window, generator=generator).to(vae.device)
    rows, expected = [], None
    for name in ("with the engine", "without the engine", "as a stream", "bfloat16"):
        vae = vae.bfloat16() if name == "bfloat16" else vae
        inputs = latents.to(vae.dtype)
        with patch.dict(os.environ, {SWITCH: "0" if name == "without the engine" else "1"}):
            vae.decode(inputs[..., :16])  # warms up
            reset_peak()
            start = time.perf_counter()
            if name == "as a stream":
                waveform = torch.cat([part.cpu() for part in vae.decode_stream(inputs)], dim=-1)
            else:
                waveform = vae.decode(inputs).sample.cpu()
            seconds, peak = time.perf_counter() - start, peak_bytes()
        expected = waveform if expected is None else expected
        rows.append((name, seconds, peak / 1e9, f"{relative_error(waveform, expected):.1e}"))
    vae.float()
    print_table(("decoding", "seconds", "peak memory, GB", "relative error"), rows)


def print_graphs(pipe, arguments: argparse.Namespace) -> None:
    """Prints how many graphs torch.compile makes of a block for other durations, and for windows of other lengths."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    counts, window = [], arguments.window
    for cases in ([(window, 1), (window, 0.5), (window, 0.1)], [(window * 3 // 4, 1), (window // 2, 1)]):
        for length, share in cases:
            call(pipe, 1, False, length, share)
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    more = counts[1] - counts[0]
    print(f"Graphs of a block for three durations in one window: {counts[0]}; for two more windows {more} more.\n")


def reset_peak() -> None:
    """Resets the memory measurement."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        peak_resident_bytes(reset=True)


def peak_bytes() -> int:
    """Peak memory since the reset, of the GPU or of the process."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_resident_bytes()


if __name__ == "__main__":
    run_main(main)
