"""Figure 1 of the paper: the lengths of tracks, with the windows of 90 s, 190 s and 285 s marked.

    python examples/paper/figure_1.py --table corpus/manifest.jsonl --output figure_1.png
    python examples/paper/figure_1.py --table tracks.csv --column duration_ms --unit ms --output figure_1.png

Any table with a column of lengths, CSV or JSONL: a manifest, or the metadata of popular tracks that the paper used. No
audio is read. Rows without a length above zero are counted and left out.
"""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path

from stable_longform.data.statistics import MARKS_IN_S, draw_durations, share_shorter
from stable_longform.utils.scripts import ScriptParser, run_main

UNITS_IN_S = {"s": 1.0, "ms": 0.001, "min": 60.0}


def main() -> None:
    """Reads the lengths, draws the figure and prints the share of tracks not longer than each window."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--table", type=Path, required=True, help="table of tracks, .jsonl or .csv")
    parser.add_argument("--column", default="duration_in_s", help="column with the lengths")
    parser.add_argument("--unit", choices=UNITS_IN_S, default="s", help="unit of the lengths")
    parser.add_argument("--output", type=Path, required=True, help="picture to write: .png, .svg or .pdf")
    arguments = parser.parse_args()
    lengths, num_left_out = [], 0
    for row in read_rows(arguments.table):
        try:
            length = float(row[arguments.column]) * UNITS_IN_S[arguments.unit]
        except (KeyError, TypeError, ValueError):
            length = 0.0
        if 0 < length < math.inf:
            lengths.append(length)
        else:
            num_left_out += 1
    if not lengths:
        raise ValueError(f"{arguments.table} has no row with a length in the column {arguments.column!r}.")
    draw_durations(arguments.output, lengths, f"{len(lengths)} tracks of {arguments.table.name}")
    for mark in MARKS_IN_S:
        print(f"{share_shorter(lengths, mark):.3f} are not longer than {mark:g} s")
    print(f"{len(lengths)} tracks, {num_left_out} rows left out: {arguments.output}")


def read_rows(path: Path) -> Iterator[dict]:
    """Rows of a CSV or JSONL file; a line that is not a JSON object is an empty row.

    Raises:
        ValueError: the extension is unknown, or the text is not UTF-8.
    """
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise ValueError(f"{path}: the extension must be .csv or .jsonl.")
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix.lower() == ".csv":
            yield from csv.DictReader(file)
            return
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                row = {}
            yield row if isinstance(row, dict) else {}


if __name__ == "__main__":
    run_main(main)
