"""The structure of whole folders of audio: numbers with intervals, Figure 4, and the accuracy of boundaries.

A file's structure is cached under the hash of its content, so an interrupted run continues where it stopped. Paper:
§4.4.
"""

import itertools
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from stable_longform.analysis.boundaries import boundary_f_scores, equal_sections
from stable_longform.analysis.features import FRAME_RATE, SAMPLING_RATE, extract_features
from stable_longform.analysis.structure import DEFINITIONS, MIN_DURATION_IN_S, Structure, analyze_structure
from stable_longform.evaluation.audio_files import (
    ReadingSettings,
    UnusableAudioError,
    audio_hash,
    count_other_files,
    header_notes,
    list_audio,
    read_header,
)
from stable_longform.evaluation.reports import markdown_table
from stable_longform.utils.audio import read_blocks
from stable_longform.utils.bootstrap import bootstrap_interval
from stable_longform.utils.caches import cached_arrays
from stable_longform.utils.environment import describe_environment
from stable_longform.utils.files import write_json, write_text
from stable_longform.utils.pictures import MatrixPanel, draw_matrices
from stable_longform.utils.ranges import check_number, shown
from stable_longform.utils.text_files import read_json_lines

logger = logging.getLogger(__name__)

ARRAYS = ("matrix", "boundaries", "rest")  # of a stored structure
STRUCTURE_VERSION = 3  # of the cached results; raised when the analysis changes
NUM_RESAMPLES = 1000
MAX_COLUMNS = 5  # of the figure, as in the paper
BOUNDARY_DEFINITIONS = {
    "boundary_f_0.5s": "boundaries found within 0.5 s of true ones, F-measure (mir_eval, ends trimmed)",
    "boundary_f_3s": "the same within 3 s",
    "boundary_precision_3s": "share of found boundaries that are within 3 s of a true one",
    "boundary_recall_3s": "share of true boundaries that were found within 3 s",
    "baseline_f_3s": "boundary_f_3s of as many sections of equal length as there truly are",
}


@dataclass
class FolderStructures:
    """The structures of a folder's files, and remarks about them, by name.

    Args:
        structures: of each usable file.
        skipped: reason for each file that is left out.
        notes: properties of usable files that a reader of the numbers should know.
        other_files: number of the folder's files that are not audio files, by extension.
    """

    structures: dict[str, Structure] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    other_files: dict[str, int] = field(default_factory=dict)


def folder_structures(folder: Path, settings: ReadingSettings, cache: Path) -> FolderStructures:
    """Analyzes a folder's audio files; cached results are used.

    Args:
        folder: searched with its subfolders.
        settings: how files are read; the level has no effect.
        cache: folder for the structure of each file.

    Raises:
        ValueError: see `list_audio`.
    """
    cache.mkdir(parents=True, exist_ok=True)
    result = FolderStructures(other_files=count_other_files(folder))
    for name, path in tqdm(list_audio(folder).items(), desc=str(folder), unit="file"):
        try:
            result.structures[name], notes = file_structure(path, settings, cache)
        except UnusableAudioError as error:
            logger.warning("%s is left out: %s", path, error)
            result.skipped[name] = str(error)
        else:
            result.notes |= {name: notes} if notes else {}
    return result


def file_structure(path: Path, settings: ReadingSettings, cache: Path) -> tuple[Structure, list[str]]:
    """The structure of one file, and notes about it.

    Raises:
        UnusableAudioError: see `read_header`; or samples are not finite, or there is silence or less than 10 s of
            music.
    """
    info = read_header(path, settings)
    if min(info.duration_in_s, settings.trim_in_s or math.inf) < MIN_DURATION_IN_S:
        raise UnusableAudioError(f"too short: {info.duration_in_s:.2f} s, less than {MIN_DURATION_IN_S:g} s")
    stored = cache / f"{audio_hash(path)}-{STRUCTURE_VERSION}-{settings.trim_in_s}.safetensors"

    def compute() -> dict[str, np.ndarray]:
        try:
            return _to_arrays(analyze_structure(extract_features(_first_blocks(path, settings.trim_in_s))))
        except ValueError as error:
            raise UnusableAudioError(str(error)) from error

    structure, notes = _from_arrays(cached_arrays(stored, compute, ARRAYS)), header_notes(info, settings)
    if structure.frame_rate < FRAME_RATE:
        notes.append(f"long: analyzed at {structure.frame_rate:.2f} frames a second")
    return structure, notes


def _first_blocks(path: Path, trim_in_s: float | None) -> Iterator[torch.Tensor]:
    """Blocks of a file at the rate of the analysis, up to the trim."""
    left = math.inf if trim_in_s is None else round(trim_in_s * SAMPLING_RATE)
    for block in read_blocks(path, SAMPLING_RATE):
        if left > 0:
            yield block[:, : int(min(left, block.shape[1]))]
        left -= block.shape[1]


def _to_arrays(structure: Structure) -> dict[str, np.ndarray]:
    """Converts a structure to arrays; the matrix has eight cells in a byte."""
    rest = {"frame_rate": structure.frame_rate, "duration_in_s": structure.duration_in_s, "values": structure.values}
    return {
        "matrix": np.packbits(structure.matrix, axis=1),
        "boundaries": np.array(structure.boundaries, dtype=np.float64),
        "rest": np.frombuffer(json.dumps(rest).encode(), dtype=np.uint8).copy(),
    }


def _from_arrays(arrays: dict[str, np.ndarray]) -> Structure:
    """The inverse of `_to_arrays`."""
    rest = json.loads(arrays["rest"].tobytes())
    packed = arrays["matrix"]
    matrix = np.unpackbits(packed, axis=1, count=len(packed)).astype(bool)
    return Structure(
        matrix, rest["frame_rate"], rest["duration_in_s"], tuple(arrays["boundaries"].tolist()), rest["values"]
    )


def read_sections(manifest: Path) -> dict[Path, list[float]]:
    """Starts of the sections, by resolved path of the audio, from the `sections` of a manifest of composed pieces.

    Raises:
        ValueError: the file is not JSONL, none of its lines has sections, or a line's are not a list with rising
            `start_in_s`; or two lines have those of the same file.
    """
    truth = {}
    for place, row in read_json_lines(manifest):
        sections, path = row.get("sections") or [], row.get("path")
        if not isinstance(sections, list) or not all(isinstance(section, dict) for section in sections):
            raise ValueError(f"{place}: sections must be a list of sections, got {shown(sections)}.")
        if not isinstance(path, str) or "\0" in path:
            raise ValueError(f"{place}: path must be the name of a file, got {shown(path)}.")
        starts = [check_number(f"{place}: start_in_s", section.get("start_in_s"), 0) for section in sections]
        if any(later <= earlier for earlier, later in itertools.pairwise(starts)):
            raise ValueError(f"{place}: the sections must start one after the other, got {shown(starts)}.")
        file = (manifest.parent / path).resolve()
        if file in truth:
            raise ValueError(f"{place}: another line has the sections of {path} too.")
        if len(starts) > 1:
            truth[file] = starts
    if not truth:
        raise ValueError(f"{manifest} has no track with sections.")
    return truth


def analyze_folders(
    folders: Mapping[str, Path],
    output: Path,
    settings: ReadingSettings | None = None,
    truth: Mapping[Path, Sequence[float]] | None = None,
    has_pictures: bool = True,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict:
    """Analyzes folders and writes `structure.json`, `table.md`, `figure.png` and a picture of each file.

    Args:
        folders: the folder of each system, such as real music, a model and a baseline.
        output: folder of the report; created if necessary.
        settings: how files are read; None: the defaults.
        truth: starts of the sections, by resolved path of the audio.
        has_pictures: whether to draw a picture of each file.
        num_resamples: draws of files for the 95 % intervals.
        seed: of those draws.

    Returns:
        The content of `structure.json`.

    Raises:
        ValueError: a folder has no usable audio, or the truth applies to none of the files.
    """
    settings = settings or ReadingSettings()
    paths = [path.resolve() for folder in folders.values() for path in list_audio(folder).values()]
    if truth and not any(path in truth for path in paths):
        raise ValueError("None of the files is among those whose sections are known.")
    output.mkdir(parents=True, exist_ok=True)
    found = {name: folder_structures(folder, settings, output / "cache") for name, folder in folders.items()}
    for name, structures in found.items():
        if not structures.structures:
            reasons = "; ".join(f"{file}: {reason}" for file, reason in sorted(structures.skipped.items())[:5])
            raise ValueError(f"{folders[name]} has no usable file: {reasons}.")
    values = {name: _all_values(folders[name], found[name], truth or {}, settings.trim_in_s) for name in folders}
    if truth and not any("boundary_f_3s" in row for rows in values.values() for row in rows.values()):
        raise ValueError("None of the files is among those whose sections are known.")
    report = {
        "systems": {
            name: {
                "folder": str(folders[name]),
                "num_files": len(rows),
                "means": summarize(rows, num_resamples, seed),
                "per_file": rows,
                "num_skipped": len(found[name].skipped),
                "skipped": found[name].skipped,
                "notes": found[name].notes,
                "other_files": found[name].other_files,
            }
            for name, rows in values.items()
        },
        "definitions": DEFINITIONS | (BOUNDARY_DEFINITIONS if truth else {}),
        "protocol": {
            "trim_in_s": settings.trim_in_s,
            "max_duration_in_s": settings.max_duration_in_s,
            "structure_version": STRUCTURE_VERSION,
            "num_resamples": num_resamples,
            "seed": seed,
            "environment": describe_environment(),
        },
    }
    write_json(output / "structure.json", report)
    write_text(output / "table.md", make_table(report))
    draw_figure({name: structures.structures for name, structures in found.items()}, output / "figure.png")
    if has_pictures:
        _draw_files(found, output / "matrices")
    return report


def _all_values(
    folder: Path, found: FolderStructures, truth: Mapping[Path, Sequence[float]], trim_in_s: float | None
) -> dict[str, dict]:
    """The numbers of each usable file, including the accuracy of its boundaries if the truth is known.

    A truth that goes on after the end of an untrimmed file is of other music; the file gets a note about it.
    """
    rows, files = {}, list_audio(folder)
    for name, structure in found.structures.items():
        rows[name] = dict(structure.values)
        starts = truth.get(files[name].resolve(), ())
        duration = structure.duration_in_s
        if trim_in_s is None and any(start >= duration for start in starts):
            note = f"boundaries not compared: the known sections go on after its end at {duration:.2f} s"
            found.notes.setdefault(name, []).append(note)
        elif any(0 < start < duration for start in starts):
            baseline = boundary_f_scores(starts, equal_sections(starts, duration), duration)
            rows[name] |= boundary_f_scores(starts, structure.boundaries, duration)
            rows[name]["baseline_f_3s"] = baseline["boundary_f_3s"]
    return rows


def summarize(rows: Mapping[str, Mapping[str, float]], num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> dict:
    """For each number the mean over files, its 95 % interval (None for one file), and the number of files."""
    summary = {}
    for metric in dict.fromkeys(metric for row in rows.values() for metric in row):
        numbers = np.array([row[metric] for row in rows.values() if metric in row])
        mean = float(numbers.mean())
        interval = bootstrap_interval(
            lambda drawn, numbers=numbers: numbers[drawn].mean(), mean, [len(numbers)], num_resamples, seed
        )
        summary[metric] = {"mean": mean, "interval": interval, "num_files": len(numbers)}
    return summary


def make_table(report: Mapping) -> str:
    """The table of a report: a row for each number, a column for each system; and below it, files left out."""
    systems, definitions = report["systems"], report["definitions"]
    rows = []
    for metric in definitions:
        cells = [_cell(system["means"].get(metric)) for system in systems.values()]
        rows.append([metric, *cells, definitions[metric]])
    header = [f"{name}, {system['num_files']} files" for name, system in systems.items()]
    text = markdown_table(("number", *header, "what it is"), rows)
    for name, system in systems.items():
        text += f"\n{system['num_skipped']} files of {name} left out.\n"
        text += "".join(f"- {file}: {reason}\n" for file, reason in sorted(system["skipped"].items()))
        text += "".join(f"- {file}: {', '.join(notes)} (used)\n" for file, notes in sorted(system["notes"].items()))
        if system["other_files"]:
            counts = (f"{count} × {kind or 'without extension'}" for kind, count in system["other_files"].items())
            text += f"\nNot treated as audio: {', '.join(counts)}.\n"
    return text


def _cell(summary: Mapping | None) -> str | None:
    """Mean and interval."""
    if summary is None:
        return None
    interval = "" if summary["interval"] is None else " ({:.2f} … {:.2f})".format(*summary["interval"])
    return f"{summary['mean']:.2f}{interval}"


def draw_figure(systems: Mapping[str, Mapping[str, Structure]], path: Path) -> None:
    """Figure 4: a row for each system, a column for each genre. Genres are the folders that all systems share.

    Without common folders, the columns are the first files of each system.
    """
    columns = figure_columns(systems)
    panels = {
        system: [None if name is None else _panel(name, structures[name]) for name in columns[system]]
        for system, structures in systems.items()
    }
    draw_matrices(panels, path)


def figure_columns(systems: Mapping[str, Mapping[str, Structure]]) -> dict[str, list[str | None]]:
    """Names of each system's files in the figure, at most five; None for empty places."""
    genres = [{name.split("/")[0] for name in structures if "/" in name} for structures in systems.values()]
    if shared := sorted(set.intersection(*genres))[:MAX_COLUMNS]:
        return {
            system: [min(name for name in structures if name.startswith(f"{genre}/")) for genre in shared]
            for system, structures in systems.items()
        }
    count = min(max(map(len, systems.values())), MAX_COLUMNS)
    return {
        system: [*sorted(structures)[:count], *[None] * (count - len(structures))]
        for system, structures in systems.items()
    }


def _panel(name: str, structure: Structure) -> MatrixPanel:
    """A file's matrix as a panel of a picture."""
    return MatrixPanel(structure.matrix, structure.duration_in_s, name, structure.boundaries)


def _draw_files(found: Mapping[str, FolderStructures], folder: Path) -> None:
    """Draws a picture of each file that has none yet, with the estimated boundaries."""
    for system, structures in found.items():
        for name, structure in structures.structures.items():
            path = folder / system / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw_matrices({"": [_panel(name, structure)]}, path, has_boundaries=True)
