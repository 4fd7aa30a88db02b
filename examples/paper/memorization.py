"""Section 4.5 of the paper: duplicates in the training set, and the generations that are nearest to it.

    python examples/paper/memorization.py --source corpus/manifest.jsonl --checkpoint DIR --embedder laion_clap \
        --output_dir memorization

The source has the training set in its split "train" and other music in "valid" and "test". Running it again continues
it. `closest.html` has the 50 nearest generations beside the training music, to be listened to, as the authors did.
"""

import argparse
from pathlib import Path

from stable_longform.cli.analyze import memorization
from stable_longform.utils.scripts import run_main

PAPER = (
    "Paper: 5566 training recordings are repeated. The 50 nearest of the generations from their prompts and from 586 "
    "prompts of the Song Describer Dataset were listened to: no memorization.\n"
)


def main() -> None:
    """Runs the analysis and prints its tables below the paper's result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True, help="manifest, folder or CSV file")
    parser.add_argument("--checkpoint", default="tiny", help="folder or Hub id")
    parser.add_argument("--embedder", default="laion_clap", help="laion_clap, clap=FOLDER, musicnn_msd or mel44")
    parser.add_argument("--num_generations", type=int, default=586, help="of each kind of prompt")
    parser.add_argument("--duration_in_s", type=float, default=120.0)
    parser.add_argument("--output_dir", type=Path, required=True)
    arguments = parser.parse_args()
    print(PAPER)
    memorization(
        arguments.source,
        arguments.output_dir,
        arguments.embedder,
        checkpoint=arguments.checkpoint,
        num_generations=arguments.num_generations,
        duration=arguments.duration_in_s,
        steps=100,
    )
    print(arguments.output_dir / "closest.html")


if __name__ == "__main__":
    run_main(main)
