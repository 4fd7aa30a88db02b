"""Reports: JSON with everything, a Markdown table, a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from stable_longform.utils.files import atomic_path


def markdown_table(header: Sequence[str], rows: Sequence[Sequence]) -> str:
    """A Markdown table; numbers are rounded to three decimals, None is a dash."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value) -> str:
    """One cell."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return str(value).replace("|", "\\|")


def plot_values(path: Path, values: Mapping[str, float | Sequence[float]], title: str) -> None:
    """Draws a bar for a single number, or a violin for the values of several files.

    Args:
        path: `.png` or `.svg`.
        values: a number, or the values of files, by name. Each has its own panel and axis.
        title: above the panels.
    """
    import matplotlib  # from the extra `eval`, and slow to import

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(values), figsize=(1 + 2.2 * len(values), 3.6), squeeze=False)
    for axis, (name, value) in zip(axes[0], values.items(), strict=True):
        if np.size(value) > 1 and np.ptp(value) > 0:
            axis.violinplot(value, showmeans=True)
        else:
            number = float(np.mean(value))
            axis.bar([1], [number])
            axis.text(1, number, f"{number:.3g}", ha="center", va="bottom" if number >= 0 else "top")
        axis.set_title(name, fontsize=8)
        axis.set_xticks([])
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)
