"""Compares a folder of generated music with a folder of real music and writes a report.

The report is a folder: `scores.json` with all numbers, the values for each file and the protocol that they depend on,
`table.md` and `figure.png`. Unusable files are named and counted in both, and are in no mean.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from stable_longform.evaluation.audio_files import PEAK_RULE, ReadingSettings, list_audio
from stable_longform.evaluation.features import FolderFeatures, folder_features
from stable_longform.evaluation.generation import PROTOCOL_FILE
from stable_longform.evaluation.prompt_lists import PromptRow, match_references
from stable_longform.evaluation.reports import markdown_table, plot_values
from stable_longform.evaluation.scores import NUM_RESAMPLES, all_scores
from stable_longform.utils.environment import describe_environment
from stable_longform.utils.files import write_json, write_text
from stable_longform.utils.text_files import read_json


def score_folder(
    generated_folder: Path,
    reference_folder: Path,
    output: Path,
    embedders: Sequence,
    rows: Sequence[PromptRow] | None = None,
    settings: ReadingSettings | None = None,
    num_windows: int | None = None,
    seed: int = 0,
    cache: Path | None = None,
    protocol: dict | None = None,
    text_embedder=None,
    num_resamples: int = NUM_RESAMPLES,
) -> dict:
    """Scores a folder and writes the report.

    Args:
        generated_folder: the generated files; with prompts, only those named after the prompts' ids.
        reference_folder: real music; if the prompts name references, only these are used.
        output: folder of the report; created if necessary.
        embedders: for the comparison.
        rows: prompts, for CLAP and tag-text scores and for references of single files. Without them, the reference of
            a file is the one with the same name, if there is one.
        settings: how files are read; None: the defaults.
        num_windows: number of windows drawn from each set for Fréchet distances; None: all.
        seed: of that draw.
        cache: folder for features; None: `features` in the output folder.
        protocol: additional notes for the report.
        text_embedder: embedder of text for tag-text scores; None: no such scores.
        num_resamples: draws of files for the intervals; 0: no intervals.

    Returns:
        The content of `scores.json`.

    Raises:
        ValueError: a folder has no usable audio, there are fewer windows than requested, or a text embedder is given
            without prompts or without an audio embedder that has tags.
    """
    if text_embedder is not None and (not rows or not any("tag_text" in e.metrics for e in embedders)):
        raise ValueError("The tag-text score needs prompts and one of the embedders musicnn_msd, musicnn_mtt.")
    settings = settings or ReadingSettings()
    cache = cache or output / "features"
    for folder in (generated_folder, reference_folder):
        list_audio(folder)  # before any work
    names = None if rows is None else [row.id for row in rows]
    generated = folder_features(generated_folder, embedders, settings, cache, names)
    reference = folder_features(reference_folder, embedders, settings, cache)
    pairs, unmatched = _match_pairs(rows, generated, reference)
    for folder, found in ((generated_folder, generated), (reference_folder, reference)):
        if not found.features:
            raise ValueError(f"{folder} has no usable file: {_count_reasons(found)}.")
    pairs = {name: other for name, other in pairs.items() if name in generated.features}
    prompts = {row.id: row.prompt for row in rows or () if row.id in generated.features}
    scores = all_scores(
        generated.features,
        reference.features,
        embedders,
        pairs,
        prompts,
        num_windows,
        seed,
        text_embedder,
        num_resamples,
    )
    made_by = generated_folder / PROTOCOL_FILE
    report = {
        "scores": [dataclasses.asdict(score) for score in scores],
        "generated": _describe(generated_folder, generated),
        "reference": _describe(reference_folder, reference) | {"unmatched_prompts": unmatched},
        "protocol": {
            "reading": dataclasses.asdict(settings) | {"peak": PEAK_RULE},
            "embedders": {embedder.name: embedder.protocol for embedder in embedders},
            "text_embedder": text_embedder and text_embedder.protocol,
            "num_windows": num_windows,
            "num_resamples": num_resamples,
            "seed": seed,
            "generation": read_json(made_by) if made_by.is_file() else None,
            "environment": describe_environment(),
            **(protocol or {}),
        },
    }
    write_json(output / "scores.json", report)
    write_text(output / "table.md", _table(scores, generated, reference))
    values = {score.metric: list(score.per_file.values()) if score.per_file else score.value for score in scores}
    plot_values(output / "figure.png", values, f"{generated_folder.name} against {reference_folder.name}")
    return report


def _match_pairs(
    rows: Sequence[PromptRow] | None, generated: FolderFeatures, reference: FolderFeatures
) -> tuple[dict[str, str], list[str]]:
    """The reference of each generated file, and the prompts whose reference is missing.

    If prompts name references, only these stay in the reference set.
    """
    if rows is None or not any(row.reference for row in rows):
        return {name: name for name in generated.features if name in reference.features}, []
    pairs = match_references(rows, reference.features)
    wanted = set(match_references(rows, [*reference.features, *reference.skipped]).values())
    for found in (reference.features, reference.skipped, reference.notes):
        for name in [name for name in found if name not in wanted]:
            del found[name]
    return pairs, sorted(row.id for row in rows if row.id not in pairs)


def _describe(folder: Path, found: FolderFeatures) -> dict:
    """A folder's part of the report."""
    return {
        "folder": str(folder),
        "num_files": len(found.features),
        "num_skipped": len(found.skipped),
        "skipped": found.skipped,
        "notes": found.notes,
        "other_files": found.other_files,
        "not_asked_for": found.not_asked_for,
    }


def _count_reasons(found: FolderFeatures) -> str:
    """The reasons for skipping, in one line."""
    return "; ".join(f"{name}: {reason}" for name, reason in sorted(found.skipped.items())[:5]) or "none is wanted"


def _table(scores: Sequence, generated: FolderFeatures, reference: FolderFeatures) -> str:
    """The table, and below it the files that are not included."""
    rows = []
    for score in scores:
        windows = None if score.num_windows is None else "{} / {}".format(*score.num_windows)
        interval = None if score.interval is None else "{:.3g} … {:.3g}".format(*score.interval)
        rows.append([score.metric, score.value, interval, score.num_files, windows])
    header = ("metric", "value", "95 % interval", "generated files", "windows, generated / reference")
    text = markdown_table(header, rows)
    for title, found in (("generated", generated), ("reference", reference)):
        text += f"\n{len(found.skipped)} {title} files left out.\n"
        text += "".join(f"- {name}: {reason}\n" for name, reason in sorted(found.skipped.items()))
        if found.not_asked_for:
            text += f"\nWithout a prompt: {', '.join(found.not_asked_for)}.\n"
        if found.other_files:
            counts = ", ".join(f"{count} × {name or 'without extension'}" for name, count in found.other_files.items())
            text += f"\nNot treated as audio: {counts}.\n"
        if found.notes:
            text += f"\nNotes on {title} files:\n"
            text += "".join(f"- {name}: {', '.join(notes)}\n" for name, notes in sorted(found.notes.items()))
    return text
