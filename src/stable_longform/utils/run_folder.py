"""The metrics of a training run, in its folder."""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from stable_longform.utils.files import write_text

METRICS_FILE = "metrics.jsonl"


def read_metrics(output_dir: str | os.PathLike) -> list[dict]:
    """The lines of `metrics.jsonl`; one that a stop has cut off is left out.

    Raises:
        ValueError: the folder has no such file.
    """
    file = Path(output_dir) / METRICS_FILE
    if not file.is_file():
        raise ValueError(f"{output_dir} is not the folder of a training run: it has no {METRICS_FILE}.")
    rows = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def rewind_metrics(output_dir: Path, step: int) -> None:
    """Takes the lines after a step out of `metrics.jsonl`: a run that is resumed from it writes them again."""
    if (output_dir / METRICS_FILE).exists():
        rows = [row for row in read_metrics(output_dir) if row["step"] <= step]
        write_text(output_dir / METRICS_FILE, "".join(json.dumps(row) + "\n" for row in rows))


def last_values(rows: Sequence[Mapping[str, float]]) -> dict[str, tuple[int, float]]:
    """The last value of every metric and its step, in the order in which the metrics first appear."""
    values = {}
    for row in rows:
        values |= {name: (row["step"], value) for name, value in row.items() if name != "step"}
    return values
