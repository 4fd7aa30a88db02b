"""Do sections follow their prompts? `evaluate control` for each section of pieces with two of them.

    python benchmarks/section_control.py --manifest corpus/manifest.jsonl --output sections

Each piece has the prompts of two held-out pieces, the second from the middle on. Its two halves are written to
`OUTPUT/section-1` and `OUTPUT/section-2`, and each folder is compared with its own prompts, as `evaluate control`
does. `--output` also gets the two reports and the table of both.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from timing import machine

from stable_longform import TINY_CHECKPOINT, LongFormMusicPipeline
from stable_longform.data.manifest import read_manifest
from stable_longform.data.prompts import full_prompt
from stable_longform.data.sources import open_source
from stable_longform.data.tracks import Track
from stable_longform.evaluation.control import TAGGER
from stable_longform.evaluation.control_report import evaluate_control, show_share
from stable_longform.evaluation.embedders import load_embedder
from stable_longform.evaluation.prompt_lists import PromptRow
from stable_longform.evaluation.reports import markdown_table
from stable_longform.metrics.embedders.minilm import MinilmEmbedder
from stable_longform.utils.audio import write_audio
from stable_longform.utils.files import write_text
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import SECONDS, SEEDS, STEPS, ScriptParser, run_main

NUM_SECTIONS = 2


def main() -> None:
    """Makes the pieces, then the reports and the table."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--manifest", type=Path, required=True, help="of composed pieces, see compose_music.py")
    parser.add_argument("--output", type=Path, required=True, help="folder for sections, reports and table")
    parser.add_argument("--split", default="test", help="whose prompts are used")
    parser.add_number(
        "--num_files", Range(3, 1000), default=20, help="pieces to make, at most as many as the split has"
    )
    parser.add_number("--section_in_s", Range(5, 1000), kind=float, default=12.0, help="seconds of a section")
    parser.add_number("--window_in_s", SECONDS, kind=float, default=24.0, help="seconds that are sampled at once")
    parser.add_number("--num_inference_steps", STEPS, help="sampling steps; not given: the checkpoint's")
    parser.add_number("--num_truth", Range(100, 10000), default=120, help="pieces of the training split")
    parser.add_number("--seed", SEEDS, default=0, help="of the noise")
    parser.add_argument("--checkpoint", default=TINY_CHECKPOINT, help="folder or Hub id")
    arguments = parser.parse_args()
    pieces = read_manifest(arguments.manifest, arguments.split)[: arguments.num_files]
    truth = open_source(str(arguments.manifest), "train").share(max_tracks=arguments.num_truth)
    make_sections(arguments, pieces)
    embedders, text_embedder = [load_embedder(name) for name in (TAGGER, "mel44")], MinilmEmbedder.from_cache()
    reports = []
    for section in range(NUM_SECTIONS):
        folder = _folder(arguments.output, section)
        rows = [PromptRow(str(number), prompts_of(pieces, number)[section]) for number in range(len(pieces))]
        reports.append(
            evaluate_control(
                folder, folder.with_name(f"{folder.name}-report"), rows, truth, embedders, text_embedder,
                arguments.section_in_s, arguments.output / "features",
            )
        )  # fmt: skip
    rows = []
    for found in zip(*(report["shares"] for report in reports), strict=True):
        cells = [show_share(row["generated"]) for row in found]
        chance, ceiling = found[0]["generated"], found[0]["truth"]
        rows.append([found[0]["what"], *cells, chance and f"{chance['by_chance']:.0%}", show_share(ceiling)])
    header = ("measured as requested", "first section", "second section", "by chance", "truth (ceiling)")
    table = markdown_table(header, rows) + f"\n{len(pieces)} pieces; {machine('cpu')}\n"
    write_text(arguments.output / "table.md", table)
    print(table, end="")


def prompts_of(pieces: Sequence[Track], number: int) -> list[str]:
    """The prompts of the sections of one piece."""
    return [full_prompt(pieces[(number + section) % len(pieces)].metadata) for section in range(NUM_SECTIONS)]


def make_sections(arguments: argparse.Namespace, pieces: Sequence[Track]) -> None:
    """Writes the sections of every piece."""
    pipe = LongFormMusicPipeline.from_pretrained(arguments.checkpoint)
    length = round(arguments.section_in_s * pipe.sampling_rate)
    for number in range(len(pieces)):
        prompts = prompts_of(pieces, number)
        audio = pipe(
            [(section * arguments.section_in_s, prompt) for section, prompt in enumerate(prompts)],
            NUM_SECTIONS * arguments.section_in_s,
            window_in_s=arguments.window_in_s,
            num_inference_steps=arguments.num_inference_steps,
            generator=torch.Generator().manual_seed(arguments.seed + number),
        ).audios[0]
        for section in range(NUM_SECTIONS):
            folder = _folder(arguments.output, section)
            folder.mkdir(parents=True, exist_ok=True)
            part = audio[:, section * length : (section + 1) * length]
            write_audio(folder / f"{number}.wav", part, pipe.sampling_rate, "float")


def _folder(output: Path, section: int) -> Path:
    """Where one section of every piece is."""
    return output / f"section-{section + 1}"


if __name__ == "__main__":
    run_main(main)
