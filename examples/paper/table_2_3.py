"""Tables 2 and 3 of the paper: Fréchet distance, KL and CLAP score of generated music, and inference time.

    stable-longform evaluate prepare      # once: downloads the default evaluator's weights
    python examples/paper/table_2_3.py --manifest corpus/manifest.jsonl --output_dir table_2_3

The prompts are made from the metadata of a few held-out tracks, which are the reference. To use the paper's
evaluators, if you have their weights: --embedders openl3=FILE.h5 passt=FILE.pt laion_clap. An interrupted run can be
continued with the same command.
"""

import argparse
import random
import time
from pathlib import Path

import torch

from stable_longform import TINY_CHECKPOINT, LongFormMusicPipeline
from stable_longform.data.manifest import read_manifest
from stable_longform.data.prompts import available_fields, build_prompt
from stable_longform.data.tracks import Track
from stable_longform.evaluation.audio_files import ReadingSettings
from stable_longform.evaluation.embedders import load_embedder
from stable_longform.evaluation.folders import score_folder
from stable_longform.evaluation.generation import generate_folder
from stable_longform.evaluation.prompt_lists import PromptRow
from stable_longform.evaluation.reports import markdown_table
from stable_longform.utils.files import make_link, write_json
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import SECONDS, SEEDS, STEPS, ScriptParser, run_main

HEADER = ("model", "output", "FD", "KL", "CLAP score", "inference time")
PAPER = (  # FD on OpenL3, KL on PaSST, LAION-CLAP; on one A100
    ("MusicGen-large-stereo (paper)", "2m", 204.03, 0.49, 0.28, "6m38s"),
    ("MusicGen-large-stereo (paper)", "3m10s", 213.76, 0.50, 0.28, "9m32s"),
    ("MusicGen-large-stereo (paper)", "4m45s", 218.02, 0.50, 0.27, "12m53s"),
    ("pre-trained (paper)", "2m", 78.70, 0.36, 0.39, "8s"),
    ("pre-trained (paper)", "3m10s", 89.33, 0.34, 0.39, "8s"),
    ("fully-trained (paper)", "2m", 79.09, 0.35, 0.40, "13s"),
    ("fully-trained (paper)", "4m45s", 81.96, 0.34, 0.39, "13s"),
)


def main() -> None:
    """Generates, scores and prints the table."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--manifest", required=True, help="source of music; its test split is the held-out music")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the results")
    parser.add_argument("--checkpoint", default=TINY_CHECKPOINT, help="folder or Hub id")
    parser.add_number(
        "--durations", SECONDS, kind=float, nargs="+", default=[120.0, 190.0, 285.0], help="durations in seconds"
    )
    parser.add_number("--num_tracks", Range(1, 10**4), default=2, help="number of recordings")
    parser.add_number("--num_inference_steps", STEPS, default=12, help="sampling steps; the paper uses 100")
    parser.add_number(
        "--guidance_scale", Range(-100, 100), kind=float, default=7.0, help="scale of classifier-free guidance"
    )
    parser.add_argument("--embedders", nargs="+", default=["musicnn_msd", "mel44"], help="embedders for the scores")
    parser.add_number("--seed", SEEDS, default=0, help="random seed")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipe = LongFormMusicPipeline.from_pretrained(arguments.checkpoint).to(device)
    embedders = [load_embedder(spec, device) for spec in arguments.embedders]
    tracks = choose_tracks(arguments.manifest, min(max(arguments.durations), 285.0), arguments.num_tracks)
    rows = []
    for number, track in enumerate(tracks):
        prompt = build_prompt(track.metadata, random.Random(arguments.seed + number))
        rows.append(PromptRow(str(number), prompt, str(number)))
    reference = link_tracks(tracks, arguments.output_dir / "reference")
    results = []
    for duration in arguments.durations:
        folder = arguments.output_dir / f"{duration:.0f}s"
        generated_in_s = generate(pipe, rows, folder, duration, arguments)
        report = score_folder(
            folder, reference, folder / "report", embedders, rows, ReadingSettings(trim_in_s=duration),
            cache=arguments.output_dir / "features",
        )  # fmt: skip
        results.append((duration, {score["metric"]: score["value"] for score in report["scores"]}, generated_in_s))
    print_tables(results, arguments)


def choose_tracks(manifest: str, min_duration_in_s: float, num_tracks: int) -> list[Track]:
    """The first held-out tracks of each game in turn that are long enough and have metadata for a prompt."""
    tracks = [track for track in read_manifest(manifest, "test") if available_fields(track.metadata)]
    tracks = [track for track in tracks if track.duration_in_s >= min_duration_in_s]
    seen: dict[str, int] = {}
    ranked = []
    for position, track in enumerate(tracks):
        game = track.metadata.get("game", "")
        seen[game] = seen.get(game, 0) + 1
        ranked.append((seen[game], position))
    if not 0 < num_tracks <= len(tracks):
        raise ValueError(
            f"--num_tracks must be in 1 ... {len(tracks)}, the number of test tracks of {min_duration_in_s:.0f} s "
            f"with metadata, got {num_tracks}."
        )
    return [tracks[position] for _, position in sorted(ranked)[:num_tracks]]


def link_tracks(tracks: list[Track], folder: Path) -> Path:
    """A folder of links `<number>.<extension>` to the tracks."""
    for number, track in enumerate(tracks):
        make_link(folder / f"{number}{track.path.suffix}", track.path)
    return folder


def generate(
    pipe, rows: list[PromptRow], folder: Path, duration: float, arguments: argparse.Namespace
) -> float | None:
    """Generates the missing files; returns the shortest time of one generation in s, None if all files existed."""
    seconds = []

    def synthesize(prompt: str, duration: float, seed: int) -> tuple[torch.Tensor, int]:
        start = time.perf_counter()
        output = pipe(
            prompt,
            duration=duration,
            num_inference_steps=arguments.num_inference_steps,
            guidance_scale=arguments.guidance_scale,
            generator=torch.Generator().manual_seed(seed),
        )
        audio = output.audios[0].cpu()
        seconds.append(time.perf_counter() - start)
        return audio, output.sampling_rate

    settings = {
        "checkpoint": str(arguments.checkpoint),
        "num_inference_steps": arguments.num_inference_steps,
        "guidance_scale": arguments.guidance_scale,
    }
    generate_folder(synthesize, rows, folder, duration, settings, arguments.seed)
    return min(seconds, default=None)


def print_tables(results: list[tuple[float, dict[str, float], float | None]], arguments: argparse.Namespace) -> None:
    """Prints the paper's table with our rows for its evaluators, then all our numbers."""
    ours = []
    for duration, values, seconds in results:
        cells = [values.get(name) for name in ("fd_openl3", "kl_passt", "clap_score_laion_clap")]
        spent = None if seconds is None else f"{seconds:.0f}s"
        ours.append(("this checkpoint", f"{duration // 60:.0f}m{duration % 60:02.0f}s", *cells, spent))
    print(markdown_table(HEADER, [*PAPER, *ours]))
    names = sorted({name for _, values, _ in results for name in values})
    rows = [(f"{duration:.0f} s", *(values[name] for name in names)) for duration, values, _ in results]
    print(markdown_table(("this checkpoint", *names), rows), end="")
    settings = {key: str(value) for key, value in vars(arguments).items()}
    write_json(arguments.output_dir / "table.json", {"results": results, "arguments": settings})


if __name__ == "__main__":
    run_main(main)
