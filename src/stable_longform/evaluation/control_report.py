"""The report of `stable-longform evaluate control`: a table, a picture, and everything as JSON.

The table's columns: the share of files in which the estimate agrees with the request, the same by chance, the same for
the truth (the ceiling of the estimators), and the first relative to the last.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from stable_longform.data.tracks import Track
from stable_longform.evaluation.audio_files import ReadingSettings, list_audio
from stable_longform.evaluation.control import (
    TAGGER,
    Asked,
    Heard,
    Share,
    WordListeners,
    asked_by_prompt,
    asked_by_truth,
    listen,
    tempo_and_key_shares,
    vocabulary_of,
)
from stable_longform.evaluation.features import file_features
from stable_longform.evaluation.generation import PROTOCOL_FILE
from stable_longform.evaluation.prompt_lists import PromptRow
from stable_longform.evaluation.reports import markdown_table
from stable_longform.metrics.embedders.features import AudioFeatures
from stable_longform.metrics.endings import SILENCE_IN_DB
from stable_longform.metrics.key import key_relation
from stable_longform.utils.audio import read_info, read_tags
from stable_longform.utils.environment import describe_environment
from stable_longform.utils.files import write_json, write_text
from stable_longform.utils.pictures import new_figure, save_figure
from stable_longform.utils.text_files import read_json

NOTE_MEASURES = {"partial_share": "share in partials", "note_share": "share of four notes"}
RELATIONS = ("exact", "relative", "fifth", "other")


@dataclass
class Evidence:
    """The requests and the estimates for a set of files, by name; `skipped` has the reasons for skipped ones."""

    asked: dict[str, Asked] = field(default_factory=dict)
    heard: dict[str, Heard] = field(default_factory=dict)
    shares: dict[str, Share | None] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def evaluate_control(
    folder: Path,
    output: Path,
    rows: Sequence[PromptRow] | None = None,
    truth: Sequence[Track] = (),
    embedders: Sequence = (),
    text_embedder=None,
    excerpt_in_s: float | None = None,
    cache: Path | None = None,
    seed: int = 0,
    protocol: Mapping | None = None,
) -> dict:
    """Compares requests with estimates, and writes the report.

    Args:
        folder: the generations; with `rows`, only those named after their ids.
        output: folder of the report; created if necessary.
        rows: the prompts; None: from the titles in the files' tags, which `evaluate generate` writes.
        truth: composed pieces with metadata, for the ceiling and for the listeners of genre and instruments.
        embedders: for the probe's features, including MusiCNN's "musicnn_msd"; empty without truth.
        text_embedder: for the tags as texts.
        excerpt_in_s: number of first seconds of each file to evaluate; None: the median length of the generations.
        cache: folder for features and estimates; None: `features` in the output folder.
        seed: of the folds for the cross-validation of the probe.
        protocol: additional notes for the report.

    Returns:
        What `control.json` holds.

    Raises:
        ValueError: no usable file, no prompts, prompts that request nothing, or truth that can't be read.
    """
    files, rows, skipped = _find_files(folder, rows)
    pieces = _truth_files(truth)
    cache, ends = cache or output / "features", _ends(folder, rows)
    vocabulary = vocabulary_of(truth)
    generated = Evidence({row.id: asked_by_prompt(row.prompt, vocabulary) for row in rows}, skipped=skipped)
    if not any(asked != Asked() for asked in generated.asked.values()):
        raise ValueError("The prompts request no known tempo, key, genre or instrument.")
    output.mkdir(parents=True, exist_ok=True)
    excerpt_in_s = excerpt_in_s or _median_length(files, ends)
    generated.heard, unusable = listen(files, ends, excerpt_in_s, cache / "control", str(folder))
    generated.skipped |= unusable
    if not generated.heard:
        raise ValueError(f"{folder} has no usable file: {'; '.join(sorted(generated.skipped.values())[:3])}.")
    generated.shares = tempo_and_key_shares(generated.asked, generated.heard)
    known = Evidence()
    if truth:
        known = _hear_truth(pieces, truth, excerpt_in_s, cache)
        features = [
            _find_features(evidence, paths, embedders, excerpt_in_s, cache)
            for evidence, paths in ((known, pieces), (generated, files))
        ]
        tags = next(embedder.tags for embedder in embedders if embedder.name == TAGGER)
        listeners = WordListeners(features[0], known.asked, tags, text_embedder, seed)
        known.shares |= listeners.ceilings
        generated.shares |= listeners.shares(features[1], generated.asked)
    report = {
        "shares": _rows_of_shares(generated, known),
        "notes": _notes(generated, known),
        "endings": _endings(list(generated.heard.values())),
        "generated": _describe(generated),
        "truth": _describe(known),
        "protocol": {
            "folder": str(folder),
            "excerpt_in_s": excerpt_in_s,
            "seed": seed,
            "embedders": {embedder.name: embedder.protocol for embedder in embedders},
            "text_embedder": text_embedder and text_embedder.protocol,
            "generation": _read_protocol(folder),
            "environment": describe_environment(),
            **(protocol or {}),
        },
    }
    write_json(output / "control.json", report)
    write_text(output / "table.md", _table(report))
    _draw(output / "figure.png", generated, known, folder.name)
    return report


def _find_files(
    folder: Path, rows: Sequence[PromptRow] | None
) -> tuple[dict[str, Path], list[PromptRow], dict[str, str]]:
    """The files, their prompts, and the reasons for files without prompts and prompts without files."""
    files, skipped = list_audio(folder), {}
    if rows is None:
        rows = []
        for name, path in files.items():
            try:
                title = read_tags(path).get("title", "")
            except ValueError as error:
                skipped[name] = f"unreadable: {error}"
                continue
            if title:
                rows.append(PromptRow(name, title))
            else:
                skipped[name] = "no prompt in its tags"
        if not rows:
            raise ValueError(f"No file of {folder} has its prompt as title in its tags: give a list with --prompts.")
    skipped |= {row.id: "missing" for row in rows if row.id not in files}
    rows = [row for row in rows if row.id in files]
    skipped |= {name: "no prompt" for name in files.keys() - {row.id for row in rows} - skipped.keys()}
    if not rows:
        raise ValueError(f"{folder} has no file that is named after a prompt's id.")
    return {row.id: files[row.id] for row in rows}, rows, skipped


def _read_protocol(folder: Path) -> dict | None:
    """The protocol of `evaluate generate` in the folder; None if there is none."""
    path = folder / PROTOCOL_FILE
    return read_json(path) if path.is_file() else None


def _ends(folder: Path, rows: Sequence[PromptRow]) -> dict[str, float | None]:
    """The requested duration of each file in seconds, if it is known."""
    default = (_read_protocol(folder) or {}).get("duration_in_s")
    return {row.id: row.duration or default for row in rows}


def _median_length(files: Mapping[str, Path], ends_in_s: Mapping[str, float | None]) -> float | None:
    """Median of the requested lengths, or else of the files' lengths, in s; None if no file can be read."""
    lengths = []
    for name, path in files.items():
        with contextlib.suppress(ValueError):  # reported when the file is evaluated
            lengths.append(ends_in_s[name] or read_info(path).duration_in_s)
    return round(float(np.median(lengths)), 3) if lengths else None


def _truth_files(truth: Sequence[Track]) -> dict[str, Path]:
    """The files of composed pieces."""
    if any(track.storage is not None for track in truth):
        raise ValueError("The truth must be files, not members of tars or rows of a dataset.")
    return {str(track.path): track.path for track in truth}


def _hear_truth(
    pieces: Mapping[str, Path], truth: Sequence[Track], excerpt_in_s: float | None, cache: Path
) -> Evidence:
    """The known properties of composed pieces, and the estimates for them."""
    known = Evidence({str(track.path): asked_by_truth(track.metadata) for track in truth})
    known.heard, known.skipped = listen(pieces, {}, excerpt_in_s, cache / "control", "truth")
    if not known.heard:
        raise ValueError(f"No piece of the truth can be used: {'; '.join(sorted(known.skipped.values())[:3])}.")
    known.shares = tempo_and_key_shares(known.asked, known.heard)
    return known


def _find_features(
    evidence: Evidence, files: Mapping[str, Path], embedders: Sequence, excerpt_in_s: float | None, cache: Path
) -> dict[str, dict[str, AudioFeatures]]:
    """Features of the usable files; the others are noted as skipped."""
    usable = {name: files[name] for name in evidence.heard}
    found = file_features(usable, embedders, ReadingSettings(trim_in_s=excerpt_in_s), cache, "features")
    evidence.skipped |= found.skipped
    return found.features


def _rows_of_shares(generated: Evidence, known: Evidence) -> list[dict]:
    """A row for each property that can be requested."""
    rows = []
    for name, share in generated.shares.items():
        ceiling = known.shares.get(name)
        ratio = share.value / ceiling.value if share and ceiling and ceiling.value > 0 else None
        rows.append({"what": name, "generated": _finite(share), "truth": _finite(ceiling), "of_ceiling": ratio})
    return rows


def _finite(share: Share | None) -> dict | None:
    """A share for JSON, with null instead of NaN."""
    if share is None:
        return None
    return {key: None if value != value else value for key, value in asdict(share).items()}


def _notes(generated: Evidence, known: Evidence) -> dict:
    """Median, and the value that nine of ten files reach, of the two measures of notes in both sets."""
    found: dict[str, dict] = {}
    for measure in NOTE_MEASURES:
        for title, evidence in (("generated", generated), ("truth", known)):
            values = [getattr(item, measure) for item in evidence.heard.values()]
            values = [value for value in values if value is not None]
            summary = (
                {"median": float(np.median(values)), "nine_of_ten": float(np.quantile(values, 0.1))}
                if values
                else None
            )
            found.setdefault(measure, {})[title] = summary
    return found


def _endings(heard: Sequence[Heard]) -> dict | None:
    """How many files are silent after the requested end; None if no file is long enough."""
    levels = [item.level_behind_in_db for item in heard if item.level_behind_in_db is not None]
    if not levels:
        return None
    is_silent = np.array(levels) <= SILENCE_IN_DB
    return {"num_files": len(levels), "silent": float(is_silent.mean()), "median_in_db": float(np.median(levels))}


def _describe(evidence: Evidence) -> dict:
    """A set's part of the report."""
    items = {
        name: {
            "asked": {key: sorted(v) if isinstance(v, frozenset) else v for key, v in asdict(asked).items()},
            "heard": asdict(evidence.heard[name]) if name in evidence.heard else None,
        }
        for name, asked in evidence.asked.items()
    }
    return {"num_files": len(evidence.heard), "skipped": evidence.skipped, "items": items}


def _table(report: Mapping) -> str:
    """The table, and below it the endings and the files left out."""
    rows = []
    for row in report["shares"]:
        generated, truth = row["generated"], row["truth"]
        ratio = None if row["of_ceiling"] is None else f"{row['of_ceiling']:.2f}"
        chance = None if generated is None or generated["by_chance"] is None else f"{generated['by_chance']:.0%}"
        rows.append([row["what"], show_share(generated), chance, show_share(truth), ratio])
    text = markdown_table(
        ("measured as requested", "generated", "by chance", "truth (ceiling)", "of the ceiling"), rows
    )
    rows = []
    for measure, name in NOTE_MEASURES.items():
        pairs = [report["notes"][measure][title] or {} for title in ("generated", "truth")]
        rows.append([name, *(found.get(key) for found in pairs for key in ("median", "nine_of_ten"))])
    header = ("notes", "generated, median", "nine of ten have", "truth, median", "nine of ten have")
    text += "\n" + markdown_table(header, rows)
    if endings := report["endings"]:
        text += (
            f"\nSilent (≤ {SILENCE_IN_DB:g} dBFS) from 2 s after the requested end: {endings['silent']:.0%} of "
            f"{endings['num_files']} files, median {endings['median_in_db']:.0f} dBFS.\n"
        )
    for title in ("generated", "truth"):
        skipped = report[title]["skipped"]
        text += f"\n{report[title]['num_files']} files of {title}, {len(skipped)} left out.\n"
        text += "".join(f"- {name}: {reason}\n" for name, reason in sorted(skipped.items()))
    return text


def show_share(share: Mapping | None) -> str | None:
    """A share for a table: percent, its standard error, and the number of files."""
    if share is None:
        return None
    error = "" if share["error"] is None else f" ± {100 * share['error']:.0f}"
    return f"{100 * share['value']:.0f}{error} % of {share['num_files']}"


def _draw(path: Path, generated: Evidence, known: Evidence, title: str) -> None:
    """Draws requested and estimated tempos, relations of keys, notes, and all shares with ceilings and chance."""
    figure = new_figure(17, 4.4)
    tempo_axis, key_axis, note_axis, share_axis = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.5))
    for evidence, color, label in ((known, "0.75", "truth"), (generated, "C0", "generated")):
        names = [name for name in evidence.heard if evidence.asked[name].tempo and evidence.heard[name].tempo]
        points = [(evidence.asked[name].tempo, evidence.heard[name].tempo) for name in names]
        tempo_axis.plot(*(np.array(points).reshape(-1, 2).T), "o", color=color, markersize=4, label=label)
    for factor, style in ((1, "-"), (2, ":"), (0.5, ":")):
        tempo_axis.plot([40, 240], [40 * factor, 240 * factor], style, color="0.3", linewidth=0.8)
    tempo_axis.set(xlabel="requested (BPM)", ylabel="measured (BPM)", title="tempo", xlim=(50, 200), ylim=(40, 250))
    tempo_axis.legend(fontsize=8)
    _draw_notes(note_axis, generated, known)
    _draw_keys(key_axis, generated, known)
    _draw_shares(share_axis, generated.shares, known.shares)
    figure.suptitle(f"{title}: requested and measured", fontsize=10)
    save_figure(figure, path)


def _draw_notes(axis, generated: Evidence, known: Evidence) -> None:
    """A point for each file: its shares of the power in partials and in four notes."""
    for evidence, color in ((known, "0.75"), (generated, "C0")):
        items = [item for item in evidence.heard.values() if item.partial_share is not None]
        axis.plot([i.partial_share for i in items], [i.note_share for i in items], "o", color=color, markersize=4)
    axis.set(title="notes", xlabel="share in partials", ylabel="share of four notes", xlim=(0, 1), ylim=(0.3, 1))


def _draw_keys(axis, generated: Evidence, known: Evidence) -> None:
    """Bars of the relations between estimated and requested keys."""
    for offset, evidence, color, label in ((0.2, known, "0.75", "truth"), (-0.2, generated, "C0", "generated")):
        pairs = [(heard.key, evidence.asked[name].key) for name, heard in evidence.heard.items()]
        relations = [key_relation(heard, asked) for heard, asked in pairs if asked is not None]
        shares = [relations.count(relation) / max(len(relations), 1) for relation in RELATIONS]
        axis.bar(np.arange(len(RELATIONS)) + offset, shares, 0.4, color=color, label=label)
    axis.set_xticks(range(len(RELATIONS)), RELATIONS, fontsize=8)
    axis.set(title="measured key, relative to the requested one", ylim=(0, 1))
    axis.legend(fontsize=8)


def _draw_shares(axis, generated: Mapping[str, Share | None], known: Mapping[str, Share | None]) -> None:
    """Horizontal bars with standard errors; a line for the ceiling and one for chance."""
    shares = [(name, share) for name, share in generated.items() if share is not None]
    names = [name for name, _ in shares]
    for position, (name, share) in enumerate(reversed(shares)):
        ceiling = known.get(name)
        axis.barh(position, share.value, 0.6, color="C0", xerr=np.nan_to_num(share.error), ecolor="0.2")
        lines = [(share.by_chance, "C3", ":")] + ([(ceiling.value, "0.3", "-")] if ceiling else [])
        for value, color, style in lines:
            axis.plot([value, value], [position - 0.4, position + 0.4], style, color=color, linewidth=2)
    axis.set_yticks(range(len(names)), list(reversed(names)), fontsize=8)
    axis.set(xlim=(0, 1), title="share measured as requested; truth: dark line, chance: dots")
