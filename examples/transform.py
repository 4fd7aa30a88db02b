"""Makes another version of a recording: a variation, or an edit from one prompt to another.

    python examples/transform.py --input a.flac --prompt "violin" --source_prompt "piano" --strength 0.9

Without `--source_prompt` noise is added and removed with the prompt.
"""

from pathlib import Path

import torch

from stable_longform import TINY_CHECKPOINT, LongFormMusicAudioToAudioPipeline
from stable_longform.utils.audio import write_audio
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import SEEDS, STEPS, ScriptParser, run_main


def main() -> None:
    """Writes the result to a file."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--input", required=True, type=Path, help="audio file with any sampling rate")
    parser.add_argument("--prompt", required=True, help="description of the result")
    parser.add_argument("--source_prompt", help="description of the recording")
    parser.add_number(
        "--strength", Range(0, 1, above=True), kind=float, default=0.8, help="how much the music changes"
    )
    parser.add_number("--seed", SEEDS, default=0, help="seed of the noise")
    parser.add_number("--num_inference_steps", STEPS, help="steps from noise to music; not given: the checkpoint's")
    parser.add_argument("--checkpoint", default=TINY_CHECKPOINT, help="folder or Hub id")
    parser.add_argument("--output", type=Path, default=Path("transformed.wav"), help="file to write")
    arguments = parser.parse_args()

    pipe = LongFormMusicAudioToAudioPipeline.from_pretrained(arguments.checkpoint)
    result = pipe(
        arguments.prompt,
        arguments.input,
        strength=arguments.strength,
        method="noise" if arguments.source_prompt is None else "edit",
        source_prompt=arguments.source_prompt,
        num_inference_steps=arguments.num_inference_steps,
        generator=torch.Generator().manual_seed(arguments.seed),
    )
    write_audio(arguments.output, result.audios[0], result.sampling_rate)
    print(arguments.output)


if __name__ == "__main__":
    run_main(main)
