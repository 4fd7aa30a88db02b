"""Continues a recording with a prompt for each new section, and leads back to its beginning.

    python examples/continue_in_sections.py --input a.flac --prompts "piano" "piano, strings" "full band" --seconds 20

The first prompt describes the recording; each of the others is for a new section of `--seconds`.
"""

from pathlib import Path

import torch

from stable_longform import TINY_CHECKPOINT, LongFormMusicInpaintPipeline
from stable_longform.utils.audio import read_info, write_audio
from stable_longform.utils.scripts import SECONDS, SEEDS, STEPS, ScriptParser, run_main


def main() -> None:
    """Writes the result while it is decoded."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--input", required=True, type=Path, help="audio file with any sampling rate")
    parser.add_argument(
        "--prompts", required=True, nargs="+", help="prompt for the recording, then for each new section"
    )
    parser.add_number("--seconds", SECONDS, kind=float, default=20.0, help="seconds of each new section")
    parser.add_number("--seed", SEEDS, default=0, help="seed of the noise")
    parser.add_number("--num_inference_steps", STEPS, help="sampling steps; not given: the checkpoint's")
    parser.add_argument("--checkpoint", default=TINY_CHECKPOINT, help="folder or Hub id")
    parser.add_argument("--output", type=Path, default=Path("continued.wav"), help="file to write")
    arguments = parser.parse_args()
    if len(arguments.prompts) < 2:
        raise ValueError(f"--prompts must be at least two, got {len(arguments.prompts)}.")

    duration = read_info(arguments.input).duration_in_s
    starts = [0.0, *(duration + number * arguments.seconds for number in range(len(arguments.prompts) - 1))]
    pipe = LongFormMusicInpaintPipeline.from_pretrained(arguments.checkpoint)
    result = pipe(
        list(zip(starts, arguments.prompts, strict=True)),
        arguments.input,
        extend_to=starts[-1] + arguments.seconds,
        loop=True,
        num_inference_steps=arguments.num_inference_steps,
        generator=torch.Generator().manual_seed(arguments.seed),
        output_type="stream",
    )
    write_audio(arguments.output, result.audios[0], result.sampling_rate)
    print(arguments.output)


if __name__ == "__main__":
    run_main(main)
