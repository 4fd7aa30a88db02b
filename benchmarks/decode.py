"""Decoding latents: ours against diffusers' class, whole and with its tiling, with the same weights.

    python benchmarks/decode.py --size paper --seconds 8
    python benchmarks/decode.py --size embedded --seconds 30 285 --part 30

Runs are interleaved. `--stable_audio_tools PATH`, a checkout whose requirements are installed, adds its decoder, which
decodes everything at once. `--part` also measures decoding only this number of seconds of the longest input;
diffusers' pipeline always decodes all of it.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderOobleck as DiffusersAutoencoder
from model_pairs import DECODERS, LATENT_CHANNELS, autoencoders, stable_audio_tools_decoder
from timing import interleave, machine, print_table

from stable_longform import AutoencoderOobleck
from stable_longform.utils.accepted_values import DTYPES
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import SECONDS, ScriptParser, run_main

SAMPLING_RATE, HOP_LENGTH = 44100, 2048


def main() -> None:
    """Prints the table."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--size", choices=DECODERS, default="paper", help="size of the model")
    parser.add_number(
        "--seconds", SECONDS, kind=float, nargs="+", default=[8.0], help="seconds of music, one row each"
    )
    parser.add_number(
        "--part", SECONDS, kind=float, help="also decode only this number of seconds of the longest input"
    )
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=("whole", "tiled"),
        default=["whole", "tiled"],
        help="modes of diffusers to compare with",
    )
    parser.add_argument("--stable_audio_tools", type=Path, help="a checkout to compare with too")
    parser.add_number("--repeats", Range(1, 1000), default=3, help="number of runs; the table shows medians")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="precision of the computation")
    parser.add_device()
    arguments = parser.parse_args()
    dtype = DTYPES[arguments.dtype]
    print(f"{arguments.size} decoder, {arguments.dtype}; {machine(arguments.device)}\n")
    ours, theirs = autoencoders(arguments.size, dtype, arguments.device)
    peers = {f"diffusers, {name}": diffusers_decoder(theirs, name == "tiled") for name in arguments.peers}
    if arguments.stable_audio_tools:
        peers["stable-audio-tools"] = stable_audio_tools_decoder(arguments.size, ours, arguments.stable_audio_tools)
    rows = []
    for seconds in arguments.seconds:
        latents = torch.randn(1, LATENT_CHANNELS, round(seconds * SAMPLING_RATE / HOP_LENGTH)).to(
            arguments.device, dtype
        )
        rows += measure(ours, peers, latents, f"{seconds:g} s", None, arguments)
    if arguments.part is not None:
        num_frames = round(arguments.part * SAMPLING_RATE / HOP_LENGTH)
        rows += measure(ours, peers, latents, f"{arguments.part:g} s of {seconds:g} s", num_frames, arguments)
    print_table(("audio", "peer", "peer, s", "ours, s", "ratio", "ratio of processor time", "largest error"), rows)


def diffusers_decoder(vae: DiffusersAutoencoder, is_tiled: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function that decodes with diffusers."""

    def decode(latents: torch.Tensor) -> torch.Tensor:
        vae.use_tiling = is_tiled
        return vae.decode(latents).sample

    return decode


@torch.inference_mode()
def measure(
    ours: AutoencoderOobleck,
    peers: dict[str, Callable],
    latents: torch.Tensor,
    name: str,
    num_frames: int | None,
    arguments: argparse.Namespace,
) -> list[tuple]:
    """One row for each peer."""
    functions = {peer: lambda decode=decode: decode(latents) for peer, decode in peers.items()}
    functions["ours"] = lambda: ours.decode(latents, num_frames).sample
    timings = interleave(functions, arguments.repeats, warmup=latents.shape[-1] < 500)
    mine, rows = timings["ours"], []
    for peer in peers:
        theirs = timings[peer]
        error = float((theirs.output[..., : mine.output.shape[-1]] - mine.output).abs().max())
        ratios = theirs.seconds / mine.seconds, theirs.cpu_seconds / mine.cpu_seconds
        rows.append((name, peer, theirs.seconds, mine.seconds, *ratios, f"{error:.1e}"))
    return rows


if __name__ == "__main__":
    run_main(main)
