"""The report on memorization: a verdict as JSON and as text, tables, pictures, and a page to listen to."""

import base64
import html
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from stable_longform.analysis.memorization import area_under_curve, detection_rate
from stable_longform.evaluation.audio_files import list_audio
from stable_longform.evaluation.memorization import MemorizationAnalysis
from stable_longform.evaluation.reports import markdown_table
from stable_longform.utils.audio import read_audio, read_tags, to_stereo, write_audio
from stable_longform.utils.environment import describe_environment
from stable_longform.utils.files import write_json, write_text
from stable_longform.utils.pictures import draw_spectrograms, new_figure, save_figure

NUM_SHOWN = 50  # of the closest generations; the paper's
NUM_GROUPS_SHOWN = 20
PAGE_RATE = 44100  # Hz
CARD_TITLE = "Memorization"
STYLE = """body { font: 16px/1.5 sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
article { border-top: 1px solid #bbb; padding: 1rem 0; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
.pair img, .pair audio { width: 100%; }
h2 { font-size: 1.1rem; margin: 0; } .copy h2 { color: #a00; }
figure { margin: 0; } figcaption { font-size: .85rem; overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class Closest:
    """A generation and its nearest passage in the training set.

    Args:
        group: name of the set of generations.
        name: of the generation.
        path: of its file.
        prompt: of the generation, if known.
        start_in_s: of the passage in the generation.
        cosine: between the passage and that of the training set.
        source: name of the training recording.
        source_path: of its file.
        source_start_in_s: of the passage in it.
    """

    group: str
    name: str
    path: Path
    prompt: str
    start_in_s: float
    cosine: float
    source: str
    source_path: Path
    source_start_in_s: float


def report_generations(
    analysis: MemorizationAnalysis,
    calibration: Mapping,
    duplicates: Mapping,
    folders: Mapping[str, Path],
    output: Path,
) -> dict:
    """Compares folders of generations with the training set and writes the report; returns the verdict.

    The report is `verdict.json`, `memorization.json` with every number, `table.md`, `histogram.png`, `splices.png` and
    the page `closest.html`.

    Raises:
        ValueError: a folder has no usable generation.
    """
    groups, closest, skipped = {}, [], {}
    hosts: dict[str, Path] = {}
    training, threshold = analysis.training, calibration["passage_threshold"]
    for group, folder in folders.items():
        files = list_audio(folder)
        queries = analysis.embed_generations(group, files)
        found = analysis.nearest_passages(queries)
        skipped[group] = queries.skipped
        groups[group] = {name: neighbor.cosine for name, neighbor in found.items()}
        hosts |= {f"{group}/{name}": files[name] for name, neighbor in found.items() if neighbor.cosine < threshold}
        for name, neighbor in found.items():
            source = training.names[training.owners[neighbor.item]]
            closest.append(
                Closest(
                    group,
                    name,
                    files[name],
                    read_tags(files[name]).get("title", ""),
                    neighbor.place * analysis.query_embedder.hop_in_s,
                    neighbor.cosine,
                    source,
                    analysis.training_files[source],
                    int(training.places[neighbor.item]) * analysis.embedder.hop_in_s,
                )
            )
    closest.sort(key=lambda item: -item.cosine)
    splices = analysis.splice_curve(threshold, hosts or analysis.usable_held_out)
    verdict = make_verdict(calibration, duplicates, splices, {name: list(v.values()) for name, v in groups.items()})
    skipped = {"the training set": training.skipped, "held-out music": analysis.open("held_out").skipped} | skipped
    report = {
        "verdict": verdict,
        "closest": [asdict(item) | {"path": str(item.path), "source_path": str(item.source_path)} for item in closest],
        "calibration": calibration,
        "duplicates": duplicates,
        "splices": splices,
        "skipped": skipped,
        "protocol": {
            "embedder": analysis.query_embedder.protocol,
            "autoencoder": analysis.codec and analysis.codec.protocol,
            "settings": asdict(analysis.settings),
            "environment": describe_environment(),
        },
    }
    write_json(output / "memorization.json", report)
    write_json(output / "verdict.json", verdict)
    write_text(output / "table.md", make_tables(verdict, calibration, duplicates, skipped))
    draw_histogram(calibration, duplicates, output / "histogram.png")
    draw_splices(splices, output / "splices.png")
    write_page(closest, threshold, analysis.settings.segment_in_s, verdict["answer"], output / "closest.html")
    return verdict


def make_verdict(
    calibration: Mapping, duplicates: Mapping, splices: Mapping, groups: Mapping[str, Sequence[float]]
) -> dict:
    """The result in few numbers, for the model card.

    Args:
        calibration: from `MemorizationAnalysis.calibrate`.
        duplicates: from `find_duplicates`.
        splices: from `splice_curve`.
        groups: nearest cosines of the generations, by the name of their set. The first set is compared with the
            second, for example generations from training prompts with those from held-out prompts.
    """
    threshold = calibration["passage_threshold"]
    found = {
        name: {
            "num_generations": len(cosines),
            "num_flagged": int(np.sum(np.asarray(cosines) >= threshold)),
            "rate": detection_rate(cosines, threshold),
            "median": float(np.median(cosines)),
            "highest": float(max(cosines)),
        }
        for name, cosines in groups.items()
    }
    verdict = {
        "threshold": threshold,
        "false_positives": calibration["passage_false_positives"],
        "held_out_music": {
            "median": float(np.median(calibration["excerpts"])), "highest": float(max(calibration["excerpts"]))
        },
        "generations": found,
        "splices_found": {share: rate["rate"] for share, rate in splices["rates"].items()},
        "duplicates": {
            name: duplicates[name] for name in ("threshold", "num_recordings", "num_pairs", "num_in_groups")
        },
    }  # fmt: skip
    if len(groups) > 1:
        first, second = list(groups.values())[:2]
        verdict["nearer_from_training_prompts"] = area_under_curve(first, second)
    return verdict | {"answer": _answer(verdict)}


def _answer(verdict: Mapping) -> str:
    """The verdict in two or three sentences."""
    found, whole = verdict["generations"].values(), verdict["splices_found"]["1"]
    num_flagged, total = sum(f["num_flagged"] for f in found), sum(f["num_generations"] for f in found)
    allowed = verdict["false_positives"]["rate"]
    if total == 0:
        text = "No generation was compared."
    elif num_flagged == 0:
        text = f"None of the {total} generations is closer to the training set than held-out music."
    elif any(f["rate"]["low"] > max(allowed, 0.01) for f in found):
        text = (
            f"{num_flagged} of the {total} generations are closer to the training set than held-out music. Listen to "
            "them."
        )
    else:
        text = (
            f"{num_flagged} of the {total} generations are above the threshold, no more than expected of music that "
            "contains no copies. Listen to them."
        )
    half = verdict["splices_found"]["0.5"]
    text += (
        f" In trials, the test detects {whole:.0%} of generations that were replaced by training music completely, "
    )
    text += f"and {half:.0%} of those replaced by half."
    return text + (" The test is too weak to rule out copies." if whole < 0.9 else "")


def make_tables(verdict: Mapping, calibration: Mapping, duplicates: Mapping, skipped: Mapping[str, Mapping]) -> str:
    """The verdict, its numbers, and the files left out, as Markdown."""
    text = f"{verdict['answer']}\n\n"
    rows = [
        [name, f["num_generations"], f["num_flagged"], _rate(f["rate"]), f["median"], f["highest"]]
        for name, f in verdict["generations"].items()
    ]
    music, rate = verdict["held_out_music"], verdict["false_positives"]
    num_found = round(rate["rate"] * rate["num"])
    rows.append(["held-out music", rate["num"], num_found, _rate(rate), music["median"], music["highest"]])
    header = (
        "nearest training passage to",
        "files",
        "above the threshold",
        "share (95 %)",
        "median cosine",
        "highest",
    )
    text += markdown_table(header, rows)
    text += f"\nThreshold {verdict['threshold']:.3f}, for passages.\n"
    if "nearer_from_training_prompts" in verdict:
        first, second = list(verdict["generations"])[:2]
        value = verdict["nearer_from_training_prompts"]
        text += f"In {value:.0%} of pairs, the generation from {first} is closer than the one from {second} "
        text += "(50 % by chance).\n"
    shares = verdict["splices_found"]
    text += "\n" + markdown_table(
        ("share of training music in a generation", *(f"{float(share):.0%}" for share in shares)),
        [["found", *(f"{rate:.0%}" for rate in shares.values())]],
    )
    rows = [
        [kind, len(c["cosines"]), _rate(c["found"]), c["num_nearest"], float(np.median(c["cosines"]))]
        for kind, c in calibration["copies"].items()
        if c["cosines"]
    ]
    rate = calibration["duplicate_false_positives"]
    rows.append(["held-out music", rate["num"], _rate(rate), None, float(np.median(calibration["held_out"]))])
    columns = ("planted copy", "recordings", "found (95 %)", "closest to its original", "median cosine")
    text += "\n" + markdown_table(columns, rows)
    text += f"\nThreshold {duplicates['threshold']:.3f}, for whole recordings. {duplicates['num_in_groups']} of "
    text += f"{duplicates['num_recordings']} training recordings are in {len(duplicates['groups'])} groups of "
    text += "duplicates.\n"
    for group in duplicates["groups"][:NUM_GROUPS_SHOWN]:
        text += f"- {group['lowest']:.3f} … {group['highest']:.3f}: {', '.join(group['names'])}\n"
    for name, reasons in skipped.items():
        text += f"\n{len(reasons)} files of {name} were left out:\n" if reasons else ""
        text += "".join(f"- {file}: {reason}\n" for file, reason in sorted(reasons.items()))
    return text


def _rate(rate: Mapping) -> str:
    """A share and its interval."""
    return f"{rate['rate']:.0%} ({rate['low']:.0%} … {rate['high']:.0%})"


def card_section(verdict: Mapping, source: str) -> str:
    """The section of a model card."""
    rows = [
        [name, f["num_generations"], f["num_flagged"], f["median"], f["highest"]]
        for name, f in verdict["generations"].items()
    ]
    music, rate = verdict["held_out_music"], verdict["false_positives"]
    rows.append(["held-out music", rate["num"], round(rate["rate"] * rate["num"]), music["median"], music["highest"]])
    header = ("music", "files", "above the threshold", "median cosine to the nearest training passage", "highest")
    duplicates = verdict["duplicates"]
    return (
        f"{verdict['answer']} {duplicates['num_in_groups']} of {duplicates['num_recordings']} training recordings "
        f"have a duplicate. Measured by `stable-longform analyze memorization` with {source}; threshold "
        f"{verdict['threshold']:.3f}.\n\n{markdown_table(header, rows)}"
    )


def draw_histogram(calibration: Mapping, duplicates: Mapping, path: Path) -> None:
    """Cosines to the nearest training recording: of training recordings, held-out music and planted copies."""
    figure = new_figure(8, 3.6)
    axis = figure.subplots()
    series = {
        "training recordings, to the nearest other": duplicates["nearest"],
        "held-out music": calibration["held_out"],
    }
    series |= {f"copy, {kind}": copy["cosines"] for kind, copy in calibration["copies"].items()}
    edges = np.linspace(min(min(values, default=1.0) for values in series.values()) - 0.01, 1.01, 61)
    for name, values in series.items():
        if values:
            style = {"histtype": "step", "linewidth": 1.6} if "copy" in name else {"alpha": 0.5}
            axis.hist(values, edges, weights=np.full(len(values), 1 / len(values)), label=name, **style)
    axis.axvline(duplicates["threshold"], color="black", linestyle="--", label="threshold")
    axis.set_xlabel("cosine to the nearest training recording")
    axis.set_ylabel("share")
    axis.legend(fontsize=7)
    save_figure(figure, path)


def draw_splices(splices: Mapping, path: Path) -> None:
    """The detection curve."""
    figure = new_figure(5, 3.6)
    axis = figure.subplots()
    shares = [100 * float(share) for share in splices["rates"]]
    rates = [rate["rate"] for rate in splices["rates"].values()]
    bounds = [[rate[side] for rate in splices["rates"].values()] for side in ("low", "high")]
    axis.fill_between(shares, *bounds, alpha=0.25)
    axis.plot(shares, rates, marker="o")
    axis.set_xlabel("share of training music in a generation (%)")
    axis.set_ylabel("detected")
    axis.set_ylim(-0.02, 1.02)
    save_figure(figure, path)


def write_page(closest: Sequence[Closest], threshold: float, segment_in_s: float, answer: str, path: Path) -> None:
    """Writes a self-contained page with the closest generations and their nearest passages, as players and pictures.

    Args:
        closest: generations, the nearest first; the first 50 are shown.
        threshold: cosine above which a passage counts as a copy.
        segment_in_s: length of the passages.
        answer: the verdict as text.
        path: of the page.
    """
    articles = []
    for rank, item in enumerate(closest[:NUM_SHOWN], 1):
        sides = (
            (f"{item.group}, {item.name}", item.path, item.start_in_s),
            (f"Training set: {item.source}", item.source_path, item.source_start_in_s),
        )
        figures = "".join(_figure(*side, segment_in_s) for side in sides)
        kind = ' class="copy"' if item.cosine >= threshold else ""
        articles.append(
            f"<article{kind}><h2>{rank}. Cosine {item.cosine:.3f}</h2>"
            f"<p>{html.escape(item.prompt or '(no prompt)')}</p>"
            f'<div class="pair">{figures}</div></article>'
        )
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width, initial-scale=1"><title>Closest generations</title>\n<style>\n{STYLE}</style>'
        f"</head>\n<body><h1>Closest generations</h1><p>{html.escape(answer)}</p><p>The {len(articles)} generations "
        f"closest to the training set, each beside its nearest training passage. Titles are red if the cosine is "
        f"{threshold:.3f} or more.</p>\n{''.join(articles)}</body></html>\n"
    )
    write_text(path, text)


def _figure(title: str, path: Path, start_in_s: float, duration_in_s: float) -> str:
    """A passage as a picture and a player."""
    waveform, rate = read_audio(path, start_in_s, duration_in_s, PAGE_RATE)
    waveform = to_stereo(waveform)
    waveform = waveform / max(float(waveform.abs().max()), 1.0)
    with tempfile.TemporaryDirectory() as folder:
        audio, picture = Path(folder) / "passage.ogg", Path(folder) / "passage.png"
        write_audio(audio, waveform, rate)
        draw_spectrograms({"": _at_least_a_frame(waveform)}, rate, picture)
        sound, image = (base64.b64encode(file.read_bytes()).decode() for file in (audio, picture))
    caption = html.escape(f"{title}, {start_in_s:.1f} s to {start_in_s + waveform.shape[1] / rate:.1f} s")
    return (
        f'<figure><img alt="Spectrogram" src="data:image/png;base64,{image}">'
        f'<audio controls preload="none" src="data:audio/ogg;base64,{sound}"></audio>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _at_least_a_frame(waveform: torch.Tensor) -> torch.Tensor:
    """Pads with silence to the length that a spectrogram needs."""
    return torch.nn.functional.pad(waveform, (0, max(4096 - waveform.shape[1], 0)))
