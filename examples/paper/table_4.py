"""Table 4 of the paper: listeners' ratings of audio quality, text alignment, structure, musicality and stereo.

    stable-longform listening-test build ours=generated real=real --prompts prompts.jsonl -o test
    stable-longform listening-test serve test
    python examples/paper/table_4.py --test test --results test/results --output_dir table_4

The results are files, or folders of files, from the page, webMUSHRA or pymushra.
"""

from pathlib import Path

from stable_longform.evaluation.listening_test import score_test
from stable_longform.evaluation.reports import markdown_table
from stable_longform.utils.scripts import ScriptParser, run_main

HEADER = ("system", "audio quality", "text alignment", "structure", "musicality", "stereo correctness")
PAPER = (
    ("ours, 2m (paper)", "4.0 ± 0.6", "4.3 ± 0.7", "3.5 ± 1.3", "4.0 ± 0.8", "96 %"),
    ("MusicGen, 2m (paper)", "2.8 ± 0.8", "3.1 ± 0.8", "2.4 ± 0.7", "2.7 ± 0.9", "61 %"),
    ("real music, 2m (paper)", "4.6 ± 0.4", "4.6 ± 0.5", "4.3 ± 0.8", "4.6 ± 0.5", "96 %"),
    ("ours, 4m45s (paper)", "4.5 ± 0.4", "4.6 ± 0.4", "4.0 ± 1.0", "4.3 ± 0.7", "100 %"),
    ("MusicGen, 4m45s (paper)", "2.8 ± 0.8", "2.9 ± 1.0", "2.1 ± 0.7", "2.6 ± 0.7", "57 %"),
)


def main() -> None:
    """Scores the results and prints the paper's table and the one of the results."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--test", type=Path, required=True, help="folder of the test")
    parser.add_argument("--results", type=Path, nargs="+", required=True, help="result files and folders")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the results")
    arguments = parser.parse_args()
    score_test(arguments.test / "key.json", arguments.results, arguments.output_dir)
    print(markdown_table(HEADER, PAPER))
    print((arguments.output_dir / "table.md").read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    run_main(main)
