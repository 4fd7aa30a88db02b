"""The tutorial of docs/tutorial.md as one script, with the embedded checkpoint; needs the extras train and eval.

    python examples/tutorial.py --output_dir tutorial --music my_music

Without `--music`, the adapter is trained on ten pieces that the checkpoint generates. `--quick` runs every step with
tiny settings, as a test of the steps; the results are noise.
"""

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
from stable_longform.utils.audio import write_audio
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
    steps, duration, num_pieces, training_steps = (1, 4.0, 2, 2) if quick else (50, 10.0, 10, 50)
    folder.mkdir(parents=True, exist_ok=True)

    pipe = make_first_piece(folder, steps, duration)
    compare_settings(pipe, folder, steps, duration)
    vary(pipe, folder, steps)
    inpaint(pipe, folder, steps)
    if music is None:
        music = make_music(pipe, folder, steps, duration, num_pieces)
    train_adapter(folder, music, training_steps)
    use_adapter(pipe, folder, steps, duration, num_pieces)
    evaluate(folder, music)
    for path in sorted([*folder.glob("*.flac"), folder / "report" / "table.md"]):
        print(path)


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
    return pipe


def compare_settings(pipe: LongFormMusicPipeline, folder: Path, steps: int, duration: float) -> None:
    """Other seeds, more and less guidance, and a negative prompt."""
    seeds = (1, 2, 3)
    result = pipe(
        ["Genre: Ambient|Instruments: Piano, Strings"] * len(seeds),
        duration=duration,
        num_inference_steps=steps,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
    )
    for seed, audio in zip(seeds, result.audios, strict=True):
        write_audio(folder / f"seed_{seed}.flac", audio, result.sampling_rate)

    for guidance_scale in (1.0, 4.0, 10.0):
        result = pipe(
            "Genre: Ambient|Instruments: Piano, Strings",
            duration=duration,
            guidance_scale=guidance_scale,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(1),
        )
        write_audio(folder / f"guidance_{guidance_scale:.0f}.flac", result.audios[0], result.sampling_rate)

    result = pipe(
        "Genre: Ambient|Instruments: Piano, Strings",
        duration=duration,
        negative_prompt="drums",
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(1),
    )
    write_audio(folder / "without_drums.flac", result.audios[0], result.sampling_rate)


def vary(pipe: LongFormMusicPipeline, folder: Path, steps: int) -> None:
    """Another version of the first piece."""
    vary = LongFormMusicAudioToAudioPipeline.from_pipe(pipe)
    result = vary(
        "Genre: Techno|Instruments: Drums, Synth",
        folder / "first.flac",
        strength=0.8,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(1),
    )
    write_audio(folder / "techno.flac", result.audios[0], result.sampling_rate)


def inpaint(pipe: LongFormMusicPipeline, folder: Path, steps: int) -> None:
    """One second of the first piece, regenerated."""
    inpaint = LongFormMusicInpaintPipeline.from_pipe(pipe)
    result = inpaint(
        "Genre: Ambient|Instruments: Strings",
        folder / "first.flac",
        regions=[(0.5, 1.5)],
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(1),
    )
    write_audio(folder / "inpainted.flac", result.audios[0], result.sampling_rate)


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
           "--output_dir", run, "--max_steps", training_steps, "--batch_size", 1, "--num_workers", 0,
           "--num_validation_windows", 0)  # fmt: skip


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


def python(*arguments: object) -> None:
    """Runs Python with a script of the repository or a module; an error ends the tutorial."""
    subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, check=True, stdout=sys.stderr)


if __name__ == "__main__":
    run_main(main)
