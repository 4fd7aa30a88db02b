"""Statistics of a source of music: counts, lengths (Paper: Figure 1), rates, loudness, tags, and unusable files.

Contents: `examine_track` reads the header and excerpts of a track, `summarize` counts, `format_summary` formats the
result, `draw_durations` draws the paper's Figure 1.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stable_longform.data.audio_crops import SILENCE_PEAK
from stable_longform.data.bad_tracks import IGNORED_KINDS, KINDS, BadTrackError, one_line
from stable_longform.data.prompts import FIELD_TYPES, available_fields, values_of
from stable_longform.data.tracks import DURATION_TOLERANCE_IN_S, SPLITS, Track, check_audio, read_track
from stable_longform.utils.audio import AudioInfo
from stable_longform.utils.files import atomic_path
from stable_longform.utils.optional import require

EXCERPT_IN_S, NUM_EXCERPTS = 10.0, 3
# Windows of earlier models (Paper: Figure 1) and of the two stages of the paper's model.
MARKS_IN_S = (90.0, 190.22, 285.33)
EDGES_IN_S = (0, 30, 60, 90, 120, 180, 240, 285.33, 360, 480, 600, float("inf"))
NUM_TAGS = 12


@dataclass(frozen=True)
class Examined:
    """A track, its header, and, if measured, its loudness and its peak in dBFS.

    `loudness` is in LUFS (ITU-R BS.1770); without pyloudnorm it is the RMS in dBFS.
    """

    track: Track
    info: AudioInfo
    loudness: float | None = None
    peak_in_dbfs: float | None = None


def examine_track(track: Track, is_measured: bool) -> Examined | BadTrackError:
    """Reads a track's header and, if `is_measured`, up to `NUM_EXCERPTS` excerpts, the last one at its end."""
    try:
        info = check_audio(track.path, track.storage)
    except BadTrackError as error:
        return error
    if info.duration_in_s < track.duration_in_s - DURATION_TOLERANCE_IN_S:
        return BadTrackError(
            track.path, "mislabelled", f"{track.duration_in_s:.3f} s, its file has {info.duration_in_s:.3f} s"
        )
    if not is_measured:
        return Examined(track, info)
    try:
        samples = _read_excerpts(track, info.sampling_rate)
    except BadTrackError as error:
        return error
    peak = float(np.abs(samples).max())
    if peak < SILENCE_PEAK:
        return BadTrackError(track.path, "silent", f"its excerpts are below {20 * np.log10(SILENCE_PEAK):.0f} dBFS")
    return Examined(track, info, _loudness(samples, info.sampling_rate), 20 * float(np.log10(peak)))


def has_loudness_meter() -> bool:
    """Whether loudness is in LUFS, which needs pyloudnorm, instead of the RMS in dBFS."""
    with contextlib.suppress(ValueError):
        return require("pyloudnorm", "train") is not None
    return False


def share_shorter(durations_in_s: Sequence[float] | np.ndarray, seconds: float) -> float:
    """Share of the durations that are not longer than `seconds`: the cumulative histogram of Figure 1."""
    return float(np.mean(np.asarray(durations_in_s) <= seconds))


def summarize(examined: Sequence[Examined], errors: Sequence[BadTrackError]) -> dict:
    """The statistics of tracks, as values for JSON. Durations are in seconds."""
    tracks = [item.track for item in examined]
    durations = np.array([track.duration_in_s for track in tracks])
    edges = list(zip(EDGES_IN_S, EDGES_IN_S[1:], strict=False))
    summary = {
        "num_tracks": len(tracks),
        "hours": float(durations.sum() / 3600),
        "splits": {
            split: {
                "num_tracks": sum(track.split == split for track in tracks),
                "hours": sum(track.duration_in_s for track in tracks if track.split == split) / 3600,
            }
            for split in SPLITS
        },
        "durations": _quantiles(durations) | {"mean": float(durations.mean()) if len(durations) else None},
        "histogram": [
            [low, high if math.isfinite(high) else None, int(((durations > low) & (durations <= high)).sum())]
            for low, high in edges
        ],
        "shares_not_longer": {f"{mark:g}": share_shorter(durations, mark) for mark in MARKS_IN_S if len(tracks)},
        "sampling_rates": _count(str(item.info.sampling_rate) for item in examined),
        "channels": _count(str(item.info.channels) for item in examined),
        "encodings": _count(item.info.encoding for item in examined),
        "loudness_unit": "LUFS" if has_loudness_meter() else "dBFS (RMS)",
        "loudness": _quantiles([item.loudness for item in examined if item.loudness is not None]),
        "peak_in_dbfs": _quantiles([item.peak_in_dbfs for item in examined if item.peak_in_dbfs is not None]),
        "num_measured": sum(item.loudness is not None for item in examined),
        "fields": {name: sum(name in available_fields(track.metadata) for track in tracks) for name in FIELD_TYPES},
        "tags": {
            name: dict(Counter(value for track in tracks for value in values_of(track.metadata, name)).most_common())
            for name in ("genre", "moods", "instruments")
        },
        "num_without_prompt": sum(not available_fields(track.metadata) for track in tracks),
        "bad": _count_kinds(errors, KINDS),
        "bad_tracks": [one_line(error) for error in errors if error.kind in KINDS],
        "ignored": _count_kinds(errors, IGNORED_KINDS),
        "ignored_files": [one_line(error) for error in errors if error.kind in IGNORED_KINDS],
        "values_left_out": _count(value for track in tracks for value in track.left_out),
    }
    return summary


def format_summary(summary: dict) -> str:
    """The summary as text for a terminal."""
    lines = [f"{summary['num_tracks']} tracks, {summary['hours']:.2f} h"]
    for split, counts in summary["splits"].items():
        if counts["num_tracks"]:
            lines.append(f"  {split:6} {counts['num_tracks']:7} tracks {counts['hours']:9.2f} h")
    if summary["num_tracks"]:
        lines += ["durations: " + _format_quantiles(summary["durations"], "s"), *_format_histogram(summary)]
        shares = summary["shares_not_longer"].items()
        lines.append("not longer than: " + ", ".join(f"{mark} s: {share:.1%}" for mark, share in shares))
        for title, key in (("sampling rates", "sampling_rates"), ("channels", "channels"), ("encodings", "encodings")):
            lines.append(f"{title}: " + ", ".join(f"{name} ({count})" for name, count in summary[key].items()))
    if summary["num_measured"]:
        heading = f"loudness of {summary['num_measured']} tracks: "
        lines.append(heading + _format_quantiles(summary["loudness"], summary["loudness_unit"]))
        lines.append("peak: " + _format_quantiles(summary["peak_in_dbfs"], "dBFS"))
    fields = ", ".join(f"{name} ({count})" for name, count in summary["fields"].items() if count)
    lines.append(f"prompt fields: {fields or 'none'}; without any: {summary['num_without_prompt']}")
    for name, tags in summary["tags"].items():
        if tags:
            most = ", ".join(f"{tag} ({count})" for tag, count in list(tags.items())[:NUM_TAGS])
            lines.append(f"  {name}, {len(tags)} values: {most}" + (", ..." if len(tags) > NUM_TAGS else ""))
    values = summary["values_left_out"]
    if values:
        most = ", ".join(f"{value} ({count})" for value, count in list(values.items())[:NUM_TAGS])
        lines.append(f"values of the metadata left out: {sum(values.values())}: {most}")
    for title, kinds, names in (
        ("cannot be used", "bad", "bad_tracks"),
        ("no recordings", "ignored", "ignored_files"),
    ):
        counts = ", ".join(f"{count} {kind}" for kind, count in summary[kinds].items() if count)
        if counts or kinds == "bad":
            lines.append(f"{title}: {len(summary[names])}" + (f" ({counts})" if counts else ""))
        lines += [f"  {error}" for error in summary[names]]
    return "\n".join(lines)


def draw_durations(path: Path, durations_in_s: Sequence[float], title: str) -> None:
    """Draws the share of tracks up to each length, with the model's windows. Paper: Figure 1.

    Args:
        path: `.png`, `.svg` or `.pdf`.
        durations_in_s: at least one.
        title: above the picture.

    Raises:
        ValueError: there are no durations, or matplotlib is not installed.
    """
    if len(durations_in_s) == 0:
        raise ValueError("There are no durations to draw.")
    figure = require("matplotlib.figure", "train").Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    lengths = np.sort(np.asarray(durations_in_s, dtype=float))
    limit = max(float(np.quantile(lengths, 0.98)), 1.5 * MARKS_IN_S[-1])
    shares = np.arange(len(lengths) + 1) / len(lengths)
    ends = [max(limit, lengths[-1])]
    axis.step(np.concatenate([[0], lengths, ends]), np.concatenate([shares, [1.0]]), where="post")
    for mark in MARKS_IN_S:
        share = share_shorter(lengths, mark)
        axis.plot([mark, mark, 0], [0, share, share], color="black", linewidth=0.8, linestyle="--")
        axis.annotate(f"{share:.2f}", (mark, share), xytext=(4, -10), textcoords="offset points", fontsize=8)
    axis.set(
        xlabel="length (s)", ylabel="share of the tracks not longer", title=title, xlim=(0, limit), ylim=(0, 1.02)
    )
    axis.set_xticks(MARKS_IN_S, [f"{mark:.0f}" for mark in MARKS_IN_S])
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _read_excerpts(track: Track, sampling_rate: int) -> np.ndarray:
    """Reads excerpts `(num_samples, 2)` spread over a track, the last one at its end; a short track as a whole."""
    if track.duration_in_s <= NUM_EXCERPTS * EXCERPT_IN_S:
        return read_track(track, 0.0, None, sampling_rate).T.numpy()
    starts = np.linspace(0, track.duration_in_s - EXCERPT_IN_S, NUM_EXCERPTS)
    parts = [read_track(track, float(start), EXCERPT_IN_S, sampling_rate).T.numpy() for start in starts]
    return np.concatenate(parts)


def _loudness(samples: np.ndarray, sampling_rate: int) -> float:
    """Integrated loudness of `(num_samples, 2)` in LUFS, or the RMS in dBFS."""
    if has_loudness_meter():
        return float(require("pyloudnorm", "train").Meter(sampling_rate).integrated_loudness(samples))
    return 10 * float(np.log10(np.mean(np.square(samples, dtype=np.float64))))


def _quantiles(values: Sequence[float] | np.ndarray) -> dict[str, float | None]:
    """Smallest, 5 %, median, 95 % and largest of the finite values."""
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    names = {"min": 0.0, "p5": 0.05, "median": 0.5, "p95": 0.95, "max": 1.0}
    return {name: float(np.quantile(finite, share)) if len(finite) else None for name, share in names.items()}


def _format_quantiles(quantiles: dict, unit: str) -> str:
    """Quantiles in one line."""
    return ", ".join(f"{name} {value:.1f}" for name, value in quantiles.items() if value is not None) + f" {unit}"


def _format_histogram(summary: dict) -> list[str]:
    """A line with a bar for each range of durations that occurs."""
    largest = max(count for *_, count in summary["histogram"])
    lines = []
    for low, high, count in summary["histogram"]:
        name = f"{low:g} to {high:g} s" if high is not None else f"longer than {low:g} s"
        bar = "#" * round(30 * count / largest)
        if count:
            lines.append(f"  {name:>20} {count:6} {bar}".rstrip())
    return lines


def _count_kinds(errors: Sequence[BadTrackError], kinds: Sequence[str]) -> dict[str, int]:
    """The number of errors of each kind."""
    return {kind: sum(error.kind == kind for error in errors) for kind in kinds}


def _count(values) -> dict[str, int]:
    """Counts how often each value occurs, the most frequent first."""
    return dict(Counter(values).most_common())
