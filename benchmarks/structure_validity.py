"""Validates the analysis of structure on composed pieces with known sections, and on manipulated versions of them.

    python training/compose_music.py --output_dir composed --num_pieces 400
    python benchmarks/structure_validity.py --manifest composed/manifest.jsonl --skip 100 --num_pieces 24

Each piece is analyzed unchanged, with shuffled blocks of 1, 2 and 4 s, and as a loop of one of its passages of 2 and 8
s. AUC is the share of pairs of an unchanged and a manipulated piece that a number puts in the right order. Boundaries
are compared with those in the manifest. Time and memory are for a piece of 285 s and of one hour, made by repeating
the last piece. Needs the extra `eval`.
"""

import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.stats import mannwhitneyu

from stable_longform.analysis.boundaries import boundary_f_scores
from stable_longform.analysis.features import SAMPLING_RATE, extract_features
from stable_longform.analysis.structure import Structure, analyze_structure
from stable_longform.evaluation.reports import markdown_table
from stable_longform.evaluation.structure import read_sections, summarize
from stable_longform.utils.audio import READ_BLOCK, read_audio
from stable_longform.utils.files import write_json
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import SEEDS, ScriptParser, run_main

SHUFFLED_IN_S, LOOPED_IN_S = (1.0, 2.0, 4.0), (2.0, 8.0)
MIN_SECTIONS = 4
# Expected direction of each number for manipulated pieces: lower or higher than for unchanged ones.
LESS, MORE = ("late_return", "longest_repetition_in_s"), ("longest_loop_in_s", "loop_share")


def main() -> None:
    """Prints the tables."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--manifest", type=Path, required=True, help="manifest of composed pieces")
    parser.add_number(
        "--skip", Range(0, 10**6), default=0, help="number of pieces to skip, such as those used for tuning"
    )
    parser.add_number("--num_pieces", Range(1, 10**6), default=24, help="number of pieces to measure")
    parser.add_argument("--output", type=Path, help="JSON file for all numbers")
    parser.add_number("--seed", SEEDS, default=0, help="random seed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(arguments.seed)
    truth = {path: starts for path, starts in read_sections(arguments.manifest).items() if len(starts) >= MIN_SECTIONS}
    paths = list(truth)[arguments.skip :][: arguments.num_pieces]
    if not paths:
        raise ValueError(f"{arguments.manifest} has no {arguments.skip + 1} pieces of {MIN_SECTIONS} sections.")
    rows: dict[str, dict[str, dict]] = {}
    for path in paths:
        waveform, _ = read_audio(path, sampling_rate=SAMPLING_RATE)
        for name, version in versions(waveform, rng):
            structure = analyze(version)
            rows.setdefault(name, {})[path.stem] = dict(structure.values)
            if name == "whole":
                scores = boundary_f_scores(truth[path], structure.boundaries, structure.duration_in_s)
                rows[name][path.stem] |= scores
    if arguments.output:
        write_json(arguments.output, rows)
    print(means_table(rows), auc_table(rows), cost_table(waveform), sep="\n")


def versions(waveform: torch.Tensor, rng: np.random.Generator) -> Iterator[tuple[str, torch.Tensor]]:
    """A piece `(channels, num_samples)` and its manipulated versions."""
    yield "whole", waveform
    for seconds in SHUFFLED_IN_S:
        blocks = waveform.split(round(seconds * SAMPLING_RATE), dim=1)
        order = rng.permutation(len(blocks))
        yield f"blocks of {seconds:g} s shuffled", torch.cat([blocks[index] for index in order], dim=1)
    for seconds in LOOPED_IN_S:
        size = round((seconds + 0.037) * SAMPLING_RATE)  # not a whole number of frames
        start = int(rng.integers(waveform.shape[1] - size))
        passage = waveform[:, start : start + size]
        yield f"one loop of {seconds:g} s", passage.tile(1, -(-waveform.shape[1] // size))[:, : waveform.shape[1]]


def analyze(waveform: torch.Tensor) -> Structure:
    """The structure of `(channels, num_samples)`."""
    return analyze_structure(extract_features(waveform.split(READ_BLOCK, dim=1)))


def means_table(rows: dict[str, dict[str, dict]]) -> str:
    """Means over pieces with their 95 % intervals."""
    summaries = {name: summarize(values) for name, values in rows.items()}
    metrics = list(summaries["whole"])
    cells = []
    for name, summary in summaries.items():
        found = [summary.get(metric) for metric in metrics]
        cells.append([name, *(f and "{:.2f} ({:.2f} … {:.2f})".format(f["mean"], *f["interval"]) for f in found)])
    header = (f"music, {len(rows['whole'])} pieces", *metrics)
    return markdown_table(header, cells)


def auc_table(rows: dict[str, dict[str, dict]]) -> str:
    """How well each number separates unchanged from manipulated pieces."""
    cells = []
    for name in (name for name in rows if name != "whole"):
        aucs = []
        for metric in (*LESS, *MORE):
            whole, spoilt = ([row[metric] for row in rows[kind].values()] for kind in ("whole", name))
            pair = (whole, spoilt) if metric in LESS else (spoilt, whole)
            aucs.append(float(mannwhitneyu(*pair).statistic) / len(whole) / len(spoilt))
        cells.append([f"whole against {name}", *aucs])
    return markdown_table(("AUC", *(f"{m}, less" for m in LESS), *(f"{m}, more" for m in MORE)), cells)


def cost_table(waveform: torch.Tensor) -> str:
    """Processor time and peak memory of the process, for 285 s and for one hour."""
    cells = []
    for seconds in (285, 3600):
        waveform = waveform.tile(1, -(-seconds * SAMPLING_RATE // waveform.shape[1]))[:, : seconds * SAMPLING_RATE]
        start = time.process_time()
        analyze(waveform)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        cells.append([f"{seconds} s", f"{time.process_time() - start:.1f} s", f"{memory:.2f} GiB"])
    return markdown_table(("music", "processor time", "peak memory, with the waveform"), cells)


if __name__ == "__main__":
    run_main(main)
