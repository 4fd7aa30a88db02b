"""Decoding latents: ours against diffusers' class, whole and with its tiling, with the same weights.

    python benchmarks/decode.py --size paper --seconds 8
    python benchmarks/decode.py --size embedded --seconds 30 285 --part 30

Runs are interleaved. `--part` also measures that many seconds out of the longest input, of which diffusers' pipeline
decodes all.
"""

import argparse

import torch
from model_pairs import DECODERS, LATENT_CHANNELS, autoencoders
from timing import interleave, machine, print_table

SAMPLING_RATE, HOP_LENGTH = 44100, 2048


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=DECODERS, default="paper")
    parser.add_argument("--seconds", type=float, nargs="+", default=[8.0])
    parser.add_argument("--part", type=float, help="seconds asked for out of the longest input")
    parser.add_argument("--peers", nargs="*", choices=("whole", "tiled"), default=["whole", "tiled"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    dtype = getattr(torch, arguments.dtype)
    print(f"{arguments.size} decoder, {arguments.dtype}; {machine(arguments.device)}\n")
    ours, theirs = autoencoders(arguments.size, dtype, arguments.device)
    rows = []
    for seconds in arguments.seconds:
        latents = torch.randn(1, LATENT_CHANNELS, round(seconds * SAMPLING_RATE / HOP_LENGTH)).to(
            arguments.device, dtype
        )
        rows += measure(ours, theirs, latents, f"{seconds:g} s", None, arguments)
    if arguments.part is not None:
        num_frames = round(arguments.part * SAMPLING_RATE / HOP_LENGTH)
        rows += measure(ours, theirs, latents, f"{arguments.part:g} s of {seconds:g} s", num_frames, arguments)
    print_table(
        ("audio", "diffusers", "theirs, s", "ours, s", "ratio", "ratio of processor time", "largest error"), rows
    )


@torch.inference_mode()
def measure(ours, theirs, latents: torch.Tensor, name: str, num_frames: int | None, arguments) -> list[tuple]:
    """One row for each way of diffusers to decode."""

    def decode_theirs(is_tiled: bool) -> torch.Tensor:
        theirs.use_tiling = is_tiled
        return theirs.decode(latents).sample

    functions = {peer: lambda is_tiled=peer == "tiled": decode_theirs(is_tiled) for peer in arguments.peers}
    functions["ours"] = lambda: ours.decode(latents, num_frames).sample
    timings = interleave(functions, arguments.repeats, warmup=latents.shape[-1] < 500)
    output = timings["ours"].output
    rows = []
    for peer in arguments.peers:
        theirs_seconds, ours_seconds = timings[peer].seconds, timings["ours"].seconds
        cpu = timings[peer].cpu_seconds / timings["ours"].cpu_seconds
        error = float((timings[peer].output[..., : output.shape[-1]] - output).abs().max())
        rows.append((name, peer, theirs_seconds, ours_seconds, theirs_seconds / ours_seconds, cpu, f"{error:.1e}"))
    return rows


if __name__ == "__main__":
    main()
