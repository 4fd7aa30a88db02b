"""A whole generation with the embedded checkpoint: time of each part, peak memory, and diffusers for comparison.

    python benchmarks/generate.py --num_inference_steps 25
    python benchmarks/generate.py --num_inference_steps 25 --tile_latent_lengths 16 100 512
    python benchmarks/generate.py --num_inference_steps 25 --peer

With `--tile_latent_lengths` the same latents are decoded again in chunks of these lengths, and compared.

diffusers has no patches, so its transformer of the same width and depth has a token for every latent. Its weights are
random, which does not affect the time. It runs `--peer_steps` steps, from which the time of all is extrapolated. Its
decoder has the same weights as ours and decodes the whole window, as in diffusers' pipeline. This comparison takes
minutes and only runs with `--peer`.
"""

import argparse
import time

import torch
from diffusers import StableAudioDiTModel
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from model_pairs import autoencoders
from timing import machine, peak_resident_bytes, print_table, synchronize

from stable_longform import TINY_CHECKPOINT, LongFormMusicPipeline
from stable_longform.utils.accepted_values import DTYPES
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import SECONDS, STEPS, ScriptParser, run_main

PROMPT = "Genre: Ambient|Instruments: Synth|Moods: Slow"


def main() -> None:
    """Prints the tables."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--checkpoint", default=TINY_CHECKPOINT, help="folder or Hub id")
    parser.add_number("--num_inference_steps", STEPS, nargs="+", default=[25], help="sampling steps")
    parser.add_number("--duration", SECONDS, kind=float, default=285.0, help="seconds of music")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="precision of the transformer and the text encoder"
    )
    parser.add_device()
    parser.add_number(
        "--tile_latent_lengths", Range(1, 10**6), nargs="+", default=[], help="chunk lengths to compare, in frames"
    )
    parser.add_argument("--peer", action="store_true", help="measure diffusers' pipeline too")
    parser.add_number("--peer_steps", STEPS, default=1, help="sampling steps of the peer")
    arguments = parser.parse_args()
    print(f"{machine(arguments.device)}\n")
    pipe = LongFormMusicPipeline.from_pretrained(arguments.checkpoint)
    pipe.set_progress_bar_config(disable=True)
    for model in (pipe.transformer, pipe.text_encoder):
        model.to(DTYPES[arguments.dtype])
    pipe.to(arguments.device)
    rows = []
    for steps in arguments.num_inference_steps:
        row, latents = run(pipe, steps, arguments)
        rows.append(row)
    header = ("steps", "audio", "dtype", "whole, s", "transformer, s", "decoding, s", "text and timing, s", "rest, %")
    print_table((*header, "memory above the weights, MB"), rows)
    if arguments.tile_latent_lengths:
        header = ("frames in a chunk", "largest difference", "differing 16-bit samples, %")
        print_table(header, compare_chunks(pipe, latents, arguments))
    if arguments.peer:
        sampling, decoding = run_peer(pipe, arguments)
        theirs, ours = steps * sampling + decoding, rows[-1][3]
        header = ("steps", "diffusers: a step, s", "decoding, s", "together, s", "ours, s", "ratio")
        print_table(header, [(steps, sampling, decoding, theirs, ours, theirs / ours)])


@torch.inference_mode()
def run(pipe, num_inference_steps: int, arguments: argparse.Namespace) -> tuple[tuple, torch.Tensor]:
    """One generation like that of the command: latents, then audio chunk by chunk, after a short warm-up.

    Returns the row of the table and the latents.
    """
    pipe(PROMPT, 1.0, num_inference_steps=1)
    spent = {}
    handles = [stopwatch(pipe.transformer, spent, "transformer"), stopwatch(pipe.text_encoder, spent, "text")]
    handles.append(stopwatch(pipe.timing_conditioner, spent, "text"))
    before = peak_resident_bytes(reset=True)
    start = time.perf_counter()
    latents = pipe(
        PROMPT,
        arguments.duration,
        num_inference_steps=num_inference_steps,
        guidance_interval=(0.0, 1.0),  # as the peer
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
    ).audios[0]
    synchronize()
    sampled = time.perf_counter()
    num_samples = sum(chunk.shape[-1] for chunk in pipe.stream_latents(latents, arguments.duration))
    synchronize()
    end = time.perf_counter()
    for handle in (handle for pair in handles for handle in pair):
        handle.remove()
    memory = (peak_resident_bytes() - before) / 1e6
    rest = 1 - (spent["transformer"] + spent["text"] + end - sampled) / (end - start)
    audio = f"{num_samples / pipe.sampling_rate:.1f} s"
    times = (end - start, spent["transformer"], end - sampled, spent["text"], 100 * rest)
    return (num_inference_steps, audio, arguments.dtype, *times, memory), latents


def compare_chunks(pipe, latents: torch.Tensor, arguments: argparse.Namespace) -> list[tuple]:
    """A row for each chunk length: the difference between its audio and that of the default length."""
    expected, rows = pipe.decode_latents(latents, arguments.duration), []
    for length in arguments.tile_latent_lengths:
        pipe.vae.enable_tiling(length)
        audio = pipe.decode_latents(latents, arguments.duration)
        differing = ((audio * 32767).round() != (expected * 32767).round()).float().mean().item()
        rows.append((length, f"{(audio - expected).abs().max().item():.1e}", 100 * differing))
    pipe.vae.enable_tiling()
    return rows


def stopwatch(module: torch.nn.Module, spent: dict[str, float], name: str) -> tuple:
    """Adds up the seconds that calls of a module take."""
    started = []

    def stop(*_) -> None:
        synchronize()
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - started.pop()

    def start(*_) -> None:
        synchronize()
        started.append(time.perf_counter())

    return module.register_forward_pre_hook(start), module.register_forward_hook(stop)


@torch.inference_mode()
def run_peer(pipe, arguments: argparse.Namespace) -> tuple[float, float]:
    """Seconds of diffusers' transformer for a step with guidance, and of its tiled decoder for the window."""
    config, device = pipe.transformer.config, arguments.device
    names = ("num_layers", "num_attention_heads", "attention_head_dim", "cross_attention_dim", "in_channels")
    names += ("num_key_value_attention_heads", "out_channels", "sample_size", "time_proj_dim")
    names += ("global_states_input_dim", "cross_attention_input_dim")
    dtype = DTYPES[arguments.dtype]
    transformer = StableAudioDiTModel(**{name: config[name] for name in names}).to(device, dtype).eval()
    length, dim = config.sample_size, config.attention_head_dim // 2
    rotary = get_1d_rotary_pos_embed(dim, length + 1, use_real=True, repeat_interleave_real=False)
    latents = torch.randn(1, config.in_channels, length, device=device)
    text = torch.randn(2, pipe.text_encoder.config.max_length + 2, config.cross_attention_input_dim).to(device, dtype)
    global_states = torch.randn(2, 1, config.global_states_input_dim).to(device, dtype)
    batch, t = latents.repeat(2, 1, 1).to(dtype), torch.tensor([0.7], device=device, dtype=dtype)
    start = time.perf_counter()
    for _ in range(arguments.peer_steps):
        transformer(batch, t, text, global_states, rotary)
    synchronize()
    sampled = time.perf_counter()
    decoder = autoencoders("embedded", torch.float32, device)[1]
    decoder.decoder.load_state_dict(pipe.vae.decoder.state_dict())
    decoder.enable_tiling()
    decoder.decode(latents)
    synchronize()
    return (sampled - start) / arguments.peer_steps, time.perf_counter() - sampled


if __name__ == "__main__":
    run_main(main)
