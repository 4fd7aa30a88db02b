"""How much fewer steps, and the fast options, differ from a thousand steps, with the embedded checkpoint.

    python benchmarks/steps.py --window 1024 --plot docs/images/steps.png

All start from the same noise. Latent error: norm of the difference over the norm. Spectral error: mean difference of
the log magnitudes in dB. Fréchet distance: of the mel44 embeddings (spectrum and stereo image) of all prompts
together. A window shorter than the checkpoint's longest one takes less time. Needs the extra `eval`.
"""

import argparse
import time
from pathlib import Path

import matplotlib
import matplotlib.figure
import torch
from diffusers import FirstBlockCacheConfig
from timing import machine, print_table, relative_error

from stable_longform import TINY_CHECKPOINT, LongFormMusicPipeline
from stable_longform.metrics.embedders.mel44 import Mel44Embedder
from stable_longform.metrics.frechet import GaussianStatistics, frechet_distance
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import ScriptParser, run_main

PROMPTS = (
    "Genre: Ambient|Instruments: Synth|Moods: Slow",
    "Genre: Rock|Instruments: Guitar, Drums",
    "Genre: Classical|Instruments: Strings, Piano",
    "Genre: Techno|BPM: 140",
)


def main() -> None:
    """Prints the table, and draws it if requested."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--checkpoint", default=TINY_CHECKPOINT, help="folder or Hub id")
    parser.add_number("--window", Range(1, 2**20), default=1024, help="window in latent frames")
    parser.add_number(
        "--steps", Range(1, 10**6), nargs="+", default=[10, 25, 50, 100], help="sampling steps, one row each"
    )
    parser.add_number("--reference_steps", Range(1, 10**4), default=1000, help="sampling steps of the reference")
    parser.add_number(
        "--num_prompts", Range(1, len(PROMPTS)), default=len(PROMPTS), help="number of prompts to average over"
    )
    parser.add_number(
        "--guidance_scale", Range(-100, 100), kind=float, default=4.0, help="scale of classifier-free guidance"
    )
    parser.add_argument("--plot", type=Path, help="picture to write")
    arguments = parser.parse_args()
    print(f"window of {arguments.window} latents; {machine('cpu')}\n")
    pipe = LongFormMusicPipeline.from_pretrained(arguments.checkpoint)
    pipe.set_progress_bar_config(disable=True)
    pipe.transformer.register_to_config(sample_size=arguments.window)
    reference = sample(pipe, arguments, arguments.reference_steps)
    presets = {f"{steps} steps": {"num_inference_steps": steps} for steps in arguments.steps}
    last = arguments.steps[-1]
    presets[f"{last} steps, guidance for t in [0.3, 0.98]"] = {"guidance_interval": (0.3, 0.98)}
    presets[f"{last} steps, first-block cache 0.05"] = {"cache": FirstBlockCacheConfig(threshold=0.05)}
    rows = []
    for name, options in presets.items():
        cache = options.pop("cache", None)
        if cache is not None:
            pipe.transformer.enable_cache(cache)
        latents, audios, seconds = sample(pipe, arguments, options.pop("num_inference_steps", last), **options)
        if cache is not None:
            pipe.transformer.disable_cache()
        frechet = frechet_distance(embed(audios), embed(reference[1]))
        rows.append(
            (name, relative_error(latents, reference[0]), spectral_error(audios, reference[1]), frechet, seconds)
        )
    title = f"from {arguments.reference_steps} steps"
    print_table((title, "latent error", "spectral error, dB", "Fréchet distance, mel44", "sampling, s"), rows)
    if arguments.plot is not None:
        plot(arguments.plot, arguments.steps, rows)


@torch.inference_mode()
def sample(pipe, arguments: argparse.Namespace, num_inference_steps: int, **options) -> tuple:
    """Latents of all prompts `(P, C, L)`, their audio, and seconds of sampling for one."""
    start, latents = time.perf_counter(), []
    for seed, prompt in enumerate(PROMPTS[: arguments.num_prompts]):
        generator = torch.Generator().manual_seed(seed)
        settings = {"guidance_scale": arguments.guidance_scale, "generator": generator, "output_type": "latent"}
        latents.append(pipe(prompt, num_inference_steps=num_inference_steps, **settings | options).audios)
    seconds = (time.perf_counter() - start) / len(latents)
    latents = torch.cat(latents)
    return latents, [pipe.decode_latents(item, pipe.max_duration_in_s) for item in latents], seconds


def spectral_error(audios: list[torch.Tensor], reference: list[torch.Tensor]) -> float:
    """Mean difference of log magnitudes in dB, with a floor 80 dB below the reference's maximum."""
    errors = []
    for audio, expected in zip(audios, reference, strict=True):
        window = torch.hann_window(2048)
        magnitudes = [torch.stft(x, 2048, 512, window=window, return_complex=True).abs() for x in (audio, expected)]
        floor = magnitudes[1].max() * 1e-4
        levels = [20 * magnitude.clamp(min=floor).log10() for magnitude in magnitudes]
        errors.append((levels[0] - levels[1]).abs().mean())
    return float(torch.stack(errors).mean())


def embed(audios: list[torch.Tensor]) -> GaussianStatistics:
    """Statistics of the windows of all audios."""
    embedder = Mel44Embedder()
    embeddings = torch.cat([torch.from_numpy(embedder(audio).embeddings) for audio in audios])
    return GaussianStatistics.from_embeddings(embeddings.numpy())


def plot(path: Path, steps: list[int], rows: list[tuple]) -> None:
    """Draws the latent error over the number of steps, with a line that falls by a factor of four per doubling."""
    matplotlib.use("svg" if path.suffix == ".svg" else "agg")
    figure = matplotlib.figure.Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    errors = [row[1] for row in rows[: len(steps)]]
    axes.loglog(steps, errors, "o-", label="measured")
    axes.loglog(steps, [errors[0] * (steps[0] / count) ** 2 for count in steps], ":", label="second order")
    axes.set(xlabel="steps", ylabel="relative error of the latents")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    run_main(main)
