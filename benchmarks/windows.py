"""Duration of a sampling step for each window: how much time the smallest sufficient window saves.

    python benchmarks/windows.py --windows 31 47.5 95 285.3

Windows are measured in turn, so that a slowdown of the machine affects all of them. The table goes to stdout.
"""

import statistics
import sys
import time

import torch

from stable_longform import TINY_CHECKPOINT, LongFormMusicPipeline
from stable_longform.evaluation.reports import markdown_table
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import SECONDS, STEPS, ScriptParser, run_main


def main() -> None:
    """Times each window and prints the table."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--checkpoint", default=TINY_CHECKPOINT, help="folder or Hub id")
    parser.add_number(
        "--windows", SECONDS, kind=float, nargs="+", default=[31.0, 47.5, 95.0, 285.3], help="windows in seconds"
    )
    parser.add_number("--num_inference_steps", STEPS, default=2, help="sampling steps")
    parser.add_number("--repeats", Range(1, 1000), default=3, help="number of runs; the table shows medians")
    parser.add_device()
    arguments = parser.parse_args()
    try:
        pipe = LongFormMusicPipeline.from_pretrained(arguments.checkpoint).to(arguments.device)
        pipe.set_progress_bar_config(disable=True)
        times = {window: [] for window in arguments.windows}
        time_step(pipe, min(times), arguments.num_inference_steps)  # warms up
        for _ in range(arguments.repeats):
            for window, taken in times.items():
                taken.append(time_step(pipe, window, arguments.num_inference_steps))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    medians = {window: statistics.median(taken) for window, taken in times.items()}
    longest = medians[max(medians)]
    rows = [[window, f"{seconds:.2f}", f"{longest / seconds:.1f}"] for window, seconds in medians.items()]
    print(markdown_table(("window (s)", "median step (s)", "times as fast as the longest"), rows), end="")


def time_step(pipe: LongFormMusicPipeline, window_in_s: float, num_inference_steps: int) -> float:
    """Seconds of a step with guidance; on a CPU in processor time, which other programs affect less."""
    is_cpu = pipe.device.type == "cpu"
    clock = time.process_time if is_cpu else time.perf_counter
    start = clock()
    pipe(
        "Genre: Ambient|Instruments: Piano",
        window_in_s=window_in_s,
        num_inference_steps=num_inference_steps,
        guidance_interval=(0.0, 1.0),
        output_type="latent",
    )
    if not is_cpu:
        torch.accelerator.synchronize()
    return (clock() - start) / num_inference_steps


if __name__ == "__main__":
    run_main(main)
