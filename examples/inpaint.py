"""Replaces a part of a recording, and draws a picture of the recording before and after.

    python examples/inpaint.py --input a.flac --prompt "piano" --start 10 --stop 12.5

All other samples stay exactly the same.
"""

from pathlib import Path

import torch

from stable_longform import TINY_CHECKPOINT, LongFormMusicInpaintPipeline
from stable_longform.utils.audio import read_audio, write_audio
from stable_longform.utils.pictures import draw_music
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import SECONDS, SEEDS, STEPS, ScriptParser, run_main


def main() -> None:
    """Writes the result, and the pictures beside it."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--input", required=True, type=Path, help="audio file with any sampling rate")
    parser.add_argument("--prompt", required=True, help="what the new part should be like")
    parser.add_number("--start", Range(0, 3600), kind=float, required=True, help="start of the new part in seconds")
    parser.add_number("--stop", SECONDS, kind=float, required=True, help="end of the new part in seconds")
    parser.add_number("--window_in_s", SECONDS, kind=float, help="seconds that are sampled at once")
    parser.add_number("--seed", SEEDS, default=0, help="seed of the noise")
    parser.add_number("--num_inference_steps", STEPS, help="sampling steps; not given: the checkpoint's")
    parser.add_argument("--checkpoint", default=TINY_CHECKPOINT, help="folder or Hub id")
    parser.add_argument("--output", type=Path, default=Path("inpainted.wav"), help="file to write")
    arguments = parser.parse_args()

    pipe = LongFormMusicInpaintPipeline.from_pretrained(arguments.checkpoint)
    regions = [(arguments.start, arguments.stop)]
    result = pipe(
        arguments.prompt,
        arguments.input,
        regions=regions,
        window_in_s=arguments.window_in_s,
        num_inference_steps=arguments.num_inference_steps,
        generator=torch.Generator().manual_seed(arguments.seed),
    )
    write_audio(arguments.output, result.audios[0], result.sampling_rate)
    before, rate = read_audio(arguments.input)
    draw_music(before, rate, arguments.output.with_suffix(".before.png"), regions)
    draw_music(result.audios[0], result.sampling_rate, arguments.output.with_suffix(".after.png"), regions)
    print(arguments.output)


if __name__ == "__main__":
    run_main(main)
