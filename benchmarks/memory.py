"""Peak memory of decoding and encoding above the weights: ours against diffusers' class, each in a new process.

    python benchmarks/memory.py --size paper --cases ours:30 tiled:30 whole:8
    python benchmarks/memory.py --size embedded --cases ours:30 ours:285 tiled:285 stream:285 encode:3600

"ours" decodes to one waveform, whose size is included; "stream" decodes chunk by chunk, and "encode" encodes a
recording block by block, both in constant memory. "tiled" and "whole" are diffusers'. Needs Linux or a GPU.
"""

import argparse
import json
import time

import torch
from model_pairs import DECODERS, LATENT_CHANNELS, autoencoders
from timing import machine, peak_resident_bytes, print_table, run_child, synchronize

from stable_longform import TINY_CHECKPOINT, AutoencoderOobleck
from stable_longform.utils.accepted_values import DTYPES
from stable_longform.utils.scripts import ScriptParser, run_main

SAMPLING_RATE, HOP_LENGTH = 44100, 2048
MODES = ("ours", "stream", "encode", "tiled", "whole")


def main() -> None:
    """Prints the table; each case is measured in a new process."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--size", choices=DECODERS, default="paper", help="size of the model")
    parser.add_argument(
        "--cases", nargs="+", default=["ours:30", "tiled:30"], help="mode:seconds; " + ", ".join(MODES)
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="precision of the computation")
    parser.add_device()
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for case in arguments.cases:
        if case.partition(":")[0] not in MODES:
            parser.error(f"a case is mode:seconds with a mode among {', '.join(MODES)}, got {case}")
    if arguments.child:
        print(json.dumps(measure(arguments.cases[0], arguments)))
        return
    print(f"{arguments.size}, {arguments.dtype}; {machine(arguments.device)}\n")
    rows = []
    for case in arguments.cases:
        result = run_child(
            __file__, "--size", arguments.size, "--cases", case,
            "--dtype", arguments.dtype, "--device", arguments.device,
        )  # fmt: skip
        mode, _, seconds = case.partition(":")
        rows.append((mode, f"{seconds} s", result["memory"] / 1e6, result["seconds"]))
    print_table(("mode", "audio", "memory above the weights, MB", "time, s"), rows)


@torch.inference_mode()
def measure(case: str, arguments: argparse.Namespace) -> dict:
    """Bytes above the weights, and seconds, after a warm-up with a quarter of a second of audio."""
    mode, _, seconds = case.partition(":")
    dtype, device = DTYPES[arguments.dtype], arguments.device
    if mode == "encode" and arguments.size == "embedded":
        model = AutoencoderOobleck.from_pretrained(TINY_CHECKPOINT, subfolder="vae").to(device, dtype)
    elif mode == "encode":
        multiples = list(DECODERS[arguments.size][1])
        model = AutoencoderOobleck(encoder_hidden_size=DECODERS[arguments.size][0], channel_multiples=multiples)
        model = model.to(device, dtype).eval()
    else:
        ours, theirs = autoencoders(arguments.size, dtype, device)
        model = theirs if mode in ("tiled", "whole") else ours
        model.use_tiling = mode != "whole"
        del ours, theirs
    run(model, mode, 0.25, dtype, device)
    is_gpu = device.startswith("cuda")
    if is_gpu:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if is_gpu else peak_resident_bytes(reset=True)
    start = time.perf_counter()
    run(model, mode, float(seconds), dtype, device)
    synchronize()
    peak = torch.cuda.max_memory_allocated() if is_gpu else peak_resident_bytes()
    return {"memory": peak - before, "seconds": time.perf_counter() - start}


def run(model, mode: str, seconds: float, dtype: torch.dtype, device: str) -> int:
    """Decodes or encodes these seconds; returns the number of values in the result."""
    if mode == "encode":
        blocks = (torch.randn(1, 2, SAMPLING_RATE, dtype=dtype) * 0.1 for _ in range(max(int(seconds), 1)))
        return sum(posterior.mean.numel() for posterior in model.encode_stream(blocks))
    latents = torch.randn(1, LATENT_CHANNELS, max(round(seconds * SAMPLING_RATE / HOP_LENGTH), 1)).to(device, dtype)
    if mode == "stream":
        return sum(chunk.numel() for chunk in model.decode_stream(latents))
    return model.decode(latents).sample.numel()


if __name__ == "__main__":
    run_main(main)
