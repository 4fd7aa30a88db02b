"""Pictures: curves of a run, spectrograms, self-similarity matrices. They need matplotlib from the extra `train`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stable_longform.utils.files import atomic_path

NUM_COLUMNS = 3
MAX_POINTS = 2000  # of a curve; longer ones are thinned out
FFT_SIZE = 2048
RANGE_IN_DB = 90.0
MUSIC_COLUMNS, MUSIC_ROWS, LOWEST_IN_HZ = 1200, 240, 40.0  # in the picture of a piece
MARK = "#f97316"
MAX_CELLS = 320  # on each side of a matrix in a picture; larger ones are reduced without losing lines


def new_figure(width_in_inch: float, height_in_inch: float):
    """An empty figure that is not shown in a window."""
    try:
        from matplotlib.figure import Figure  # optional, and slow to import
    except ImportError as error:
        raise ValueError("Pictures need matplotlib: pip install 'stable_longform[train]'.") from error
    return Figure(figsize=(width_in_inch, height_in_inch), layout="constrained")


def save_figure(figure, path: Path) -> None:
    """Writes a figure atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def draw_curves(rows: Sequence[Mapping[str, float]], path: Path, title: str = "") -> None:
    """Draws every metric over the step; a validation metric shares the panel of the training metric of the same name.

    Args:
        rows: from `read_metrics`.
        path: `.png`, `.webp`, `.svg` or `.pdf`.
        title: above the panels.

    Raises:
        ValueError: there are no metrics, or matplotlib is not installed.
    """
    names = list(dict.fromkeys(name for row in rows for name in row if name != "step"))
    if not names:
        raise ValueError("There are no metrics to draw yet.")
    panels: dict[str, list[str]] = {}
    for name in names:
        panels.setdefault(name.removeprefix("valid/"), []).append(name)
    num_rows = math.ceil(len(panels) / NUM_COLUMNS)
    figure = new_figure(4.2 * NUM_COLUMNS, 2.6 * num_rows)
    axes = figure.subplots(num_rows, NUM_COLUMNS, squeeze=False).flatten()
    for axis, (panel, members) in zip(axes, panels.items(), strict=False):
        for name in members:
            points = [(row["step"], row[name]) for row in rows if name in row]
            steps, values = zip(*points[:: math.ceil(len(points) / MAX_POINTS)], strict=True)
            style = {"marker": "o", "markersize": 3} if name.startswith("valid/") or len(steps) < 2 else {"alpha": 0.7}
            axis.plot(steps, values, label="valid" if name.startswith("valid/") else "train", **style)
        axis.set_title(panel, fontsize=9, parse_math=False)
        axis.tick_params(labelsize=7)
        if len(members) > 1:
            axis.legend(fontsize=7)
    for axis in axes[len(panels) :]:
        axis.axis("off")
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path)


def draw_spectrograms(waveforms: Mapping[str, torch.Tensor], sampling_rate: int, path: Path) -> None:
    """Draws log-magnitude spectrograms one above the other, with the same scale.

    Args:
        waveforms: `(channels, num_samples)` by name; channels are averaged.
        sampling_rate: Hz.
        path: `.png`, `.webp`, `.svg` or `.pdf`.
    """
    levels = {}
    for name, waveform in waveforms.items():
        window = torch.hann_window(FFT_SIZE)
        spectrum = torch.stft(
            waveform.float().mean(dim=0), FFT_SIZE, FFT_SIZE // 4, window=window, return_complex=True
        )
        levels[name] = 20 * spectrum.abs().clamp(min=1e-6).log10()
    top = max(float(level.max()) for level in levels.values())
    figure = new_figure(8, 2.4 * len(levels))
    axes = figure.subplots(len(levels), 1, squeeze=False, sharex=True)[:, 0]
    for axis, (name, level) in zip(axes, levels.items(), strict=True):
        extent = (0, waveforms[name].shape[-1] / sampling_rate, 0, sampling_rate / 2000)
        axis.imshow(level.numpy(), origin="lower", aspect="auto", extent=extent, vmin=top - RANGE_IN_DB, vmax=top)
        axis.set_ylabel("kHz", fontsize=8)
        axis.set_title(name, fontsize=9)
    axes[-1].set_xlabel("s", fontsize=8)
    save_figure(figure, path)


def draw_music(
    waveform: torch.Tensor, sampling_rate: int, path: Path, regions: Sequence[tuple[float, float]] = ()
) -> None:
    """Draws a waveform of any length above its log-frequency spectrogram, with marked regions and no background.

    Args:
        waveform: `(channels, num_samples)`; channels are averaged.
        sampling_rate: Hz.
        path: `.png`, `.webp`, `.svg` or `.pdf`.
        regions: `(start, stop)` in seconds.
    """
    mono = waveform.float().mean(dim=0)
    figure = new_figure(9, 3.6)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2.2))
    extent = (0, len(mono) / sampling_rate)
    peaks = envelope(mono, MUSIC_COLUMNS).numpy()
    top_level = 1.05 * max(peaks.max(), 1e-6)
    times = np.linspace(*extent, len(peaks))
    top.fill_between(times, -peaks, peaks, color=MARK, linewidth=0)
    top.set(ylim=(-top_level, top_level), yticks=[], xlim=extent)
    level, frequencies = _log_spectrogram(mono, sampling_rate)
    bottom.imshow(
        level, origin="lower", aspect="auto", cmap="magma", extent=(*extent, 0, len(level)),
        vmin=level.max() - RANGE_IN_DB, vmax=level.max(),
    )  # fmt: skip
    ticks = [hz for hz in (50, 100, 200, 500, 1000, 2000, 5000, 10000) if hz < sampling_rate / 2]
    labels = [f"{hz // 1000} kHz" if hz >= 1000 else f"{hz} Hz" for hz in ticks]
    bottom.set_yticks(np.interp(np.log(ticks), np.log(frequencies), np.arange(len(frequencies))), labels)
    bottom.set_xlabel("s", fontsize=8)
    for axis in (top, bottom):
        axis.tick_params(labelsize=8, colors="gray", bottom=axis is bottom)
        axis.xaxis.label.set_color("gray")
        axis.patch.set_alpha(0)
        for spine in axis.spines.values():
            spine.set_visible(False)
        for start, stop in regions:
            axis.axvspan(start, stop, facecolor=MARK, alpha=0.25, linewidth=0)
            axis.axvspan(start, stop, fill=False, edgecolor=MARK)
    figure.patch.set_alpha(0)
    save_figure(figure, path)


def envelope(mono: torch.Tensor, num_columns: int) -> torch.Tensor:
    """The largest magnitude in each of at most `num_columns` equal parts of `(num_samples,)`."""
    width = math.ceil(len(mono) / num_columns)
    padded = torch.nn.functional.pad(mono.abs(), (0, -len(mono) % width))
    return padded.view(-1, width).amax(dim=1)


def _log_spectrogram(mono: torch.Tensor, sampling_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Levels in dB `(rows, columns)`, each column a spectrum around its centre, and the frequencies of the rows."""
    hop = max(FFT_SIZE // 4, math.ceil(len(mono) / MUSIC_COLUMNS))
    padded = torch.nn.functional.pad(mono, (FFT_SIZE // 2, FFT_SIZE // 2 + hop))
    frames = padded.unfold(0, FFT_SIZE, hop) * torch.hann_window(FFT_SIZE)
    spectrum = torch.fft.rfft(frames).abs().T
    frequencies = np.geomspace(LOWEST_IN_HZ, sampling_rate / 2, MUSIC_ROWS)
    rows = np.rint(frequencies * FFT_SIZE / sampling_rate).astype(int).clip(max=FFT_SIZE // 2)
    return 20 * spectrum[rows].clamp(min=1e-6).log10().numpy(), frequencies


@dataclass(frozen=True)
class MatrixPanel:
    """A binary self-similarity matrix to draw.

    Args:
        matrix: `(N, N)`, True is black.
        duration_in_s: of the N frames.
        title: above it.
        boundaries: starts of the sections, in seconds.
    """

    matrix: np.ndarray
    duration_in_s: float
    title: str = ""
    boundaries: Sequence[float] = ()


def draw_matrices(rows: Mapping[str, Sequence[MatrixPanel | None]], path: Path, has_boundaries: bool = False) -> None:
    """Draws rows of binary matrices; time in seconds runs downwards and to the right.

    Args:
        rows: panels of each row, by the row's name; None leaves a panel empty.
        path: `.png`, `.webp`, `.svg` or `.pdf`.
        has_boundaries: whether boundaries are drawn too.
    """
    num_columns = max(len(panels) for panels in rows.values())
    figure = new_figure(2.7 * num_columns + 0.3, 2.8 * len(rows))
    axes = figure.subplots(len(rows), num_columns, squeeze=False)
    for line, (name, panels) in zip(axes, rows.items(), strict=True):
        for axis, panel in zip(line, [*panels, *[None] * (num_columns - len(panels))], strict=True):
            if panel is None:
                axis.axis("off")
                continue
            extent = (0, panel.duration_in_s, panel.duration_in_s, 0)
            axis.imshow(_shrink(panel.matrix), cmap="gray_r", extent=extent, interpolation="nearest", vmin=0, vmax=1)
            axis.set_title(panel.title, fontsize=7)
            axis.tick_params(labelsize=6)
            for boundary in panel.boundaries if has_boundaries else ():
                axis.axvline(boundary, color="tab:red", linewidth=0.6)
        line[0].set_ylabel(f"{name}\ns" if name else "s", fontsize=8)
    axes[-1][0].set_xlabel("s", fontsize=8)
    save_figure(figure, path)


def _shrink(matrix: np.ndarray) -> np.ndarray:
    """Reduces a binary matrix to at most `MAX_CELLS` on each side; a cell is black if any of its original cells is."""
    size = math.ceil(len(matrix) / MAX_CELLS)
    padded = np.pad(matrix, (0, -len(matrix) % size))
    side = len(padded) // size
    return np.any(padded.reshape(side, size, side, size), axis=(1, 3))
