"""Table 1 of the paper: the number of parameters.

python examples/paper/table_1.py --checkpoint DIR
"""

from stable_longform import TINY_CHECKPOINT, LongFormMusicPipeline
from stable_longform.evaluation.measurements import count_parameters, paper_components
from stable_longform.evaluation.reports import markdown_table
from stable_longform.utils.scripts import ScriptParser, run_main

PAPER = ("paper", "1.1B", "157M", "125M", "1.3B")


def main() -> None:
    """Prints the table."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--checkpoint", default=TINY_CHECKPOINT, help="folder or Hub id")
    arguments = parser.parse_args()
    rows = [PAPER]
    components = LongFormMusicPipeline.from_pretrained(arguments.checkpoint).components
    for name, parts in (("this package's defaults", paper_components()), ("the checkpoint", components)):
        counts = count_parameters(parts)
        rows.append([name, *(f"{counts[key]:,}" for key in ("transformer", "vae", "text_encoder", "total"))])
    print(markdown_table(("", "DiT", "AE", "CLAP", "Total"), rows), end="")


if __name__ == "__main__":
    run_main(main)
