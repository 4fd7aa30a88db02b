"""The effect of an adapter: the same prompt and the same seed, without it and with it.

    python examples/lora_before_after.py --lora runs/lora/lora --prompt "Genre: Ambient|Instruments: Piano"

Writes `before.wav` and `after.wav`, and prints by how much the latents differ.
"""

import argparse
from pathlib import Path

import torch

from stable_longform import TINY_CHECKPOINT, LongFormMusicPipeline
from stable_longform.utils.audio import write_audio
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import SECONDS, SEEDS, STEPS, ScriptParser, run_main


def main() -> None:
    """Generates twice and compares."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--lora", required=True, help="folder with pytorch_lora_weights.safetensors")
    parser.add_argument("--checkpoint", default=str(TINY_CHECKPOINT), help="folder or Hub id of the adapter's model")
    parser.add_argument(
        "--prompt", default="Genre: Ambient|Instruments: Piano, Strings", help="description of the music"
    )
    parser.add_number("--duration", SECONDS, kind=float, default=20.0, help="seconds of music")
    parser.add_number("--scale", Range(-10, 10), kind=float, default=1.0, help="strength of the adapter")
    parser.add_number("--seed", SEEDS, default=0, help="random seed")
    parser.add_number("--num_inference_steps", STEPS, help="sampling steps; not given: the checkpoint's")
    parser.add_argument("--output_dir", type=Path, default=Path("."), help="folder for the results")
    arguments = parser.parse_args()

    pipe = LongFormMusicPipeline.from_pretrained(arguments.checkpoint)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    before = generate(pipe, "before", arguments)
    pipe.load_lora_weights(arguments.lora, adapter_name="mine")
    pipe.set_adapters("mine", arguments.scale)
    after = generate(pipe, "after", arguments)
    print(f"difference of the latents: {(after - before).norm() / before.norm():.3f} of their norm")


def generate(pipe: LongFormMusicPipeline, name: str, arguments: argparse.Namespace) -> torch.Tensor:
    """Writes the music and returns its latents."""
    latents = pipe(
        arguments.prompt,
        duration=arguments.duration,
        num_inference_steps=arguments.num_inference_steps,
        generator=torch.Generator().manual_seed(arguments.seed),
        output_type="latent",
    ).audios
    path = arguments.output_dir / f"{name}.wav"
    write_audio(path, pipe.decode_latents(latents[0], arguments.duration), pipe.sampling_rate)
    print(path)
    return latents


if __name__ == "__main__":
    run_main(main)
