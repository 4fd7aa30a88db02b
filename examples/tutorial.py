"""The tutorial of docs/tutorial.md as one script, with the embedded checkpoint; needs the extras train and eval.

    python examples/tutorial.py --output_dir tutorial --music my_music

Without `--music`, the adapter is trained on ten pieces that the checkpoint generates. `--quick` runs every step with
tiny settings, as a test of the steps; the results are noise. docs/update_tutorial.py puts what is printed here into
docs/tutorial.md.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch

from stable_longform import (
    TINY_CHECKPOINT,
    LongFormMusicAudioToAudioPipeline,
    LongFormMusicInpaintPipeline,
    LongFormMusicPipeline,
)
from stable_longform.utils.audio import read_audio, write_audio
from stable_longform.utils.scripts import ScriptParser, run_main

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Runs the steps one after the other and prints what each has written."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--output_dir", type=Path, default=Path("tutorial"), help="folder for all results")
    parser.add_argument("--music", type=Path, help="folder of music for the adapter, with a .txt beside each file")
    parser.add_argument("--quick", action="store_true", help="use tiny settings, to check that every step runs")
    arguments = parser.parse_args()
    folder, music, quick = arguments.output_dir.resolve(), arguments.music, arguments.quick
    steps, duration, num_pieces, training_steps = (1, 8.0, 2, 2) if quick else (25, 10.0, 10, 50)
    folder.mkdir(parents=True, exist_ok=True)

    announce("A prompt")
    pipe = make_first_piece(folder, steps, duration)
    announce("Seeds")
    compare_seeds(pipe, folder, steps, duration)
    announce("Guidance")
    compare_guidance(pipe, folder, steps, duration)
    announce("A negative prompt")
    avoid(pipe, folder, steps, duration)
    announce("Audio to audio")
    vary(pipe, folder, steps)
    announce("Inpainting")
    inpaint(pipe, folder, steps)
    if music is None:
        music = make_music(pipe, folder, steps, duration, num_pieces)
    announce("Your own sound")
    train_adapter(folder, music, training_steps)
    use_adapter(pipe, folder, steps, duration, num_pieces)
    announce("Evaluate")
    evaluate(folder, music)
    announce("Time")
    print(f"{processor_minutes():.1f} minutes of processor time")


def announce(step: str) -> None:
    """Prints the name of the step whose output follows."""
    print(f"== {step}", flush=True)


def make_first_piece(folder: Path, steps: int, duration: float) -> LongFormMusicPipeline:
    """A prompt and a file to listen to; returns the pipeline."""
    pipe = LongFormMusicPipeline.from_pretrained(TINY_CHECKPOINT)
    result = pipe(
        "Genre: Ambient|Instruments: Piano, Strings",
        duration=duration,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(1),
    )
    write_audio(folder / "first.flac", result.audios[0], result.sampling_rate)
    print(tuple(result.audios[0].shape), result.sampling_rate)
    return pipe


def compare_seeds(pipe: LongFormMusicPipeline, folder: Path, steps: int, duration: float) -> None:
    """Three pieces for one prompt in one call."""
    first, _ = read_audio(folder / "first.flac")
    seeds = (1, 2, 3)
    result = pipe(
        ["Genre: Ambient|Instruments: Piano, Strings"] * len(seeds),
        duration=duration,
        num_inference_steps=steps,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
    )
    for seed, audio in zip(seeds, result.audios, strict=True):
        write_audio(folder / f"seed_{seed}.flac", audio, result.sampling_rate)
        print(f"seed {seed}: largest difference from first.flac {(audio - first).abs().max():.1g}")


def compare_guidance(pipe: LongFormMusicPipeline, folder: Path, steps: int, duration: float) -> None:
    """The same noise without guidance, with the usual, and with much of it."""
    for guidance_scale in (1.0, 4.0, 10.0):
        result = pipe(
            "Genre: Ambient|Instruments: Piano, Strings",
            duration=duration,
            guidance_scale=guidance_scale,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(1),
        )
        write_audio(folder / f"guidance_{guidance_scale:.0f}.flac", result.audios[0], result.sampling_rate)
        print(f"guidance {guidance_scale:.0f}: RMS {result.audios[0].square().mean().sqrt():.3f}")


def avoid(pipe: LongFormMusicPipeline, folder: Path, steps: int, duration: float) -> None:
    """The first piece with a negative prompt."""
    first, _ = read_audio(folder / "first.flac")
    result = pipe(
        "Genre: Ambient|Instruments: Piano, Strings",
        duration=duration,
        negative_prompt="drums",
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(1),
    )
    write_audio(folder / "without_drums.flac", result.audios[0], result.sampling_rate)
    print(f"difference from first.flac: {(result.audios[0] - first).norm() / first.norm():.2f} of its norm")


def vary(pipe: LongFormMusicPipeline, folder: Path, steps: int) -> None:
    """Another version of the first piece."""
    first, _ = read_audio(folder / "first.flac")
    vary = LongFormMusicAudioToAudioPipeline.from_pipe(pipe)
    result = vary(
        "Genre: Techno|Instruments: Drums, Synth",
        folder / "first.flac",
        strength=0.8,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(1),
    )
    write_audio(folder / "techno.flac", result.audios[0], result.sampling_rate)
    print(f"difference from first.flac: {(result.audios[0] - first).norm() / first.norm():.2f} of its norm")


def inpaint(pipe: LongFormMusicPipeline, folder: Path, steps: int) -> None:
    """Two seconds of the first piece, regenerated."""
    first, _ = read_audio(folder / "first.flac")
    inpaint = LongFormMusicInpaintPipeline.from_pipe(pipe)
    result = inpaint(
        "Genre: Ambient|Instruments: Strings",
        folder / "first.flac",
        regions=[(4.0, 6.0)],
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(1),
    )
    write_audio(folder / "inpainted.flac", result.audios[0], result.sampling_rate)
    changed = (result.audios[0] != first).any(dim=0).nonzero() / result.sampling_rate
    print(f"changed from {changed.min():.2f} s to {changed.max():.2f} s")


def make_music(pipe: LongFormMusicPipeline, folder: Path, steps: int, duration: float, num_pieces: int) -> Path:
    """A folder of files with descriptions, for users without their own music."""
    music = folder / "music"
    music.mkdir(exist_ok=True)
    for seed in range(num_pieces):
        generator = torch.Generator().manual_seed(seed)
        result = pipe("Genre: Rock", duration=duration, num_inference_steps=steps, generator=generator)
        write_audio(music / f"{seed}.flac", result.audios[0], result.sampling_rate)
        (music / f"{seed}.txt").write_text("my music", encoding="utf-8")
    return music


def train_adapter(folder: Path, music: Path, training_steps: int) -> None:
    """Latents of the music, then an adapter, by the scripts in training/."""
    latents, run = folder / "latents", folder / "lora_run"
    python("training/encode_latents.py", "--manifest", music, "--autoencoder", Path(TINY_CHECKPOINT) / "vae",
           "--output_dir", latents)  # fmt: skip
    python("training/train_dit_lora.py", "--checkpoint", TINY_CHECKPOINT, "--latents", latents,
           "--output_dir", run, "--max_steps", training_steps, "--window_in_s", 11.88, "--num_workers", 0,
           "--num_validation_windows", 0)  # fmt: skip
    python("-m", "stable_longform", "runs", "show", run, is_shown=True)


def use_adapter(pipe: LongFormMusicPipeline, folder: Path, steps: int, duration: float, num_pieces: int) -> None:
    """Pieces with the adapter."""
    pipe.load_lora_weights(folder / "lora_run" / "lora", adapter_name="mine")
    pipe.set_adapters("mine", 0.8)
    (folder / "generated").mkdir(exist_ok=True)
    for seed in range(num_pieces):
        result = pipe(
            "my music",
            duration=duration,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(100 + seed),
        )
        write_audio(folder / "generated" / f"{seed}.flac", result.audios[0], result.sampling_rate)


def evaluate(folder: Path, music: Path) -> None:
    """Writes a report of how much the generated music differs from the music of the adapter."""
    python("-m", "stable_longform", "evaluate", "score", folder / "generated", music,
           "--embedder", "mel44", "--output", folder / "report")  # fmt: skip
    print((folder / "report" / "table.md").read_text(encoding="utf-8"))


def python(*arguments: object, is_shown: bool = False) -> None:
    """Runs Python with a script of the repository or a module; an error ends the tutorial."""
    output = None if is_shown else sys.stderr
    subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, check=True, stdout=output)


def processor_minutes() -> float:
    """Processor time of this process and of those that it has started."""
    return sum(os.times()[:4]) / 60


if __name__ == "__main__":
    run_main(main)
