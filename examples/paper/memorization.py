"""Section 4.5 of the paper: duplicates in the training set, and the generations that are most similar to it.

    python examples/paper/memorization.py --source corpus/manifest.jsonl --checkpoint DIR --embedder laion_clap \
        --output_dir memorization --card DIR

The source has the training set in its split "train" and other music in "valid" and "test". An interrupted run can be
continued with the same command. `closest.html` has the 50 most similar generations beside the training music, to
listen to them as the authors did.
"""

from pathlib import Path

from stable_longform.cli.analyze import memorization
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import SECONDS, STEPS, ScriptParser, run_main

PAPER = (
    "Paper: 5566 training recordings are repeated. The 50 nearest of the generations from their prompts and from 586 "
    "prompts of the Song Describer Dataset were listened to: no memorization.\n"
)


def main() -> None:
    """Runs the analysis and prints its tables below the paper's result."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--source", required=True, help="source of music: a manifest, folder or CSV file")
    parser.add_argument("--checkpoint", default="tiny", help="folder or Hub id")
    parser.add_argument("--embedder", default="laion_clap", help="laion_clap, clap=FOLDER, musicnn_msd or mel44")
    parser.add_number("--num_generations", Range(1, 10**6), default=586, help="generations for each kind of prompt")
    parser.add_number("--duration_in_s", SECONDS, kind=float, default=120.0, help="seconds of each generation")
    parser.add_number("--segment_in_s", SECONDS, kind=float, default=10.0, help="seconds of the compared passages")
    parser.add_number("--num_inference_steps", STEPS, default=100, help="sampling steps")
    parser.add_argument("--card", type=Path, help="checkpoint whose model card gets the verdict")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the results")
    arguments = parser.parse_args()
    print(PAPER)
    memorization(
        arguments.source,
        arguments.output_dir,
        arguments.embedder,
        checkpoint=arguments.checkpoint,
        num_generations=arguments.num_generations,
        duration=arguments.duration_in_s,
        steps=arguments.num_inference_steps,
        segment=arguments.segment_in_s,
        card=arguments.card,
    )
    print(arguments.output_dir / "closest.html")


if __name__ == "__main__":
    run_main(main)
