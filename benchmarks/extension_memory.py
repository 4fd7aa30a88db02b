"""Peak memory of extending a short recording to several lengths, each in a new process.

    python benchmarks/extension_memory.py --seconds 300 600 --num_inference_steps 2

Ten seconds of noise are extended with a prompt, guidance and `output_type="stream"`, and written to a file while they
are decoded, like in `stable-longform extend`. The memory is the peak of the process, minus its memory with the loaded
model. It depends neither on the steps nor on the weights, so few steps are sufficient.
"""

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path

import torch
from timing import machine, peak_resident_bytes, print_table, run_child

from stable_longform import TINY_CHECKPOINT, LongFormMusicInpaintPipeline
from stable_longform.utils.audio import write_audio
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import SECONDS, STEPS, ScriptParser, run_main

INPUT_IN_S = 10.0
LENGTHS = Range(INPUT_IN_S, 3600, above=True)


def main() -> None:
    """Prints the table; each length is measured in a new process."""
    parser = ScriptParser(__doc__)
    parser.add_number("--seconds", LENGTHS, kind=float, nargs="+", default=[300.0, 600.0], help="lengths to extend to")
    parser.add_argument("--prompt", default="Genre: Ambient|Instruments: Piano, Strings", help="of the extension")
    parser.add_number("--window_in_s", SECONDS, kind=float, help="seconds sampled at once; default: the window")
    parser.add_number("--num_inference_steps", STEPS, default=2, help="sampling steps")
    parser.add_argument("--checkpoint", default=TINY_CHECKPOINT, help="folder or Hub id")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments.seconds[0], arguments)))
        return
    window = None if arguments.window_in_s is None else f"{arguments.window_in_s:g} s"
    print(f"windows of {window or 'the model'}; {machine('cpu')}\n")
    names = ("checkpoint", "prompt", "window_in_s", "num_inference_steps")
    options = {f"--{name}": vars(arguments)[name] for name in names if vars(arguments)[name] is not None}
    rows = []
    for seconds in arguments.seconds:
        result = run_child(__file__, "--seconds", seconds, *itertools.chain(*options.items()))
        rows.append((f"{seconds:g} s", result["memory"] / 1e6, result["time"]))
    print_table(("extended to", "memory above the model, MB", "processor time, s"), rows)


def measure(seconds: float, arguments: argparse.Namespace) -> dict:
    """Bytes above the model, and seconds of processor time."""
    pipe = LongFormMusicInpaintPipeline.from_pretrained(arguments.checkpoint)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, round(INPUT_IN_S * pipe.sampling_rate), generator=generator) * 0.1
    before, start = peak_resident_bytes(reset=True), time.process_time()
    chunks = pipe(
        arguments.prompt,
        noise,
        extend_to=seconds,
        window_in_s=arguments.window_in_s,
        num_inference_steps=arguments.num_inference_steps,
        generator=generator,
        output_type="stream",
    ).audios[0]
    with tempfile.TemporaryDirectory() as folder:
        write_audio(Path(folder) / "music.wav", chunks, pipe.sampling_rate)
    return {"memory": peak_resident_bytes() - before, "time": time.process_time() - start}


if __name__ == "__main__":
    run_main(main)
