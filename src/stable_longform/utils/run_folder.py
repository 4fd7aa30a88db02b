"""The metrics of a training run, in its folder."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from stable_longform.utils.files import write_text

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"


def read_metrics(output_dir: str | os.PathLike) -> list[dict]:
    """The lines of `metrics.jsonl`, each an object with a whole number `step` and numbers.

    An incomplete last line, left by an interruption, is ignored. Other invalid lines are ignored with a warning.

    Raises:
        ValueError: the folder has no such file.
    """
    file = Path(output_dir) / METRICS_FILE
    if not file.is_file():
        raise ValueError(f"{output_dir} is not the folder of a training run: it has no {METRICS_FILE}.")
    *lines, last = file.read_text(encoding="utf-8", errors="replace").split("\n")
    rows = [_parse_row(line) for line in lines]
    bad = [number for number, row in enumerate(rows, 1) if row is None]
    if bad:
        logger.warning(
            "%s: %d lines without a `step` and numbers are left out, line %d first.",
            file,
            len(bad),
            bad[0],
        )
    return [row for row in (*rows, _parse_row(last)) if row is not None]


def _parse_row(line: str) -> dict | None:
    """The object in a line of metrics; None if the line is invalid."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return None
    is_number = [type(value) is float or type(value) is int and abs(value) < 2**63 for value in row.values()]
    return row if all(is_number) else None


def rewind_metrics(output_dir: Path, step: int) -> None:
    """Removes the lines after a step from `metrics.jsonl`: a resumed run writes them again."""
    if (output_dir / METRICS_FILE).exists():
        rows = [row for row in read_metrics(output_dir) if row["step"] <= step]
        write_text(output_dir / METRICS_FILE, "".join(json.dumps(row) + "\n" for row in rows))


def last_values(rows: Sequence[Mapping[str, float]]) -> dict[str, tuple[int, float]]:
    """The last value of every metric and its step, in the order of the metrics' first appearance."""
    values: dict[str, tuple[int, float]] = {}
    for row in rows:
        values |= {name: (int(row["step"]), value) for name, value in row.items() if name != "step"}
    return values
