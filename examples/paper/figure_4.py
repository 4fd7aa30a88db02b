"""Figure 4 of the paper: self-similarity matrices of real music, of a model and of a baseline, genre by genre.

    python examples/paper/figure_4.py --rows real=real ours=generated baseline=musicgen --output_dir figure_4

Each folder has a subfolder for each genre (the paper: rock, pop, jazz, hip-hop, classical); the first file of each is
drawn. Folders without subfolders are drawn file by file. An interrupted run can be continued with the same command.
"""

from pathlib import Path

from stable_longform.cli.analyze import name_folders
from stable_longform.evaluation.structure import analyze_folders
from stable_longform.utils.scripts import ScriptParser, run_main


def main() -> None:
    """Analyzes the folders, draws the figure and prints the table."""
    parser = ScriptParser(__doc__)
    parser.add_argument(
        "--rows", nargs="+", required=True, metavar="NAME=FOLDER", help="folders of the rows, from top to bottom"
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the results")
    arguments = parser.parse_args()
    analyze_folders(name_folders(arguments.rows), arguments.output_dir, has_pictures=False)
    print((arguments.output_dir / "table.md").read_text(encoding="utf-8"), end="")
    print(arguments.output_dir / "figure.png")


if __name__ == "__main__":
    run_main(main)
