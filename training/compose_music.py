"""Composes music by rules, renders it and writes the manifest for the training scripts.

Usage: `python training/compose_music.py --output_dir DIR [--num_pieces 400] [--first_seed 0]`

Genre, moods, instruments, tempo, key and sections of every piece are known exactly, because the piece was composed
from them. The same seed and soundfont give the same piece. Needs a General MIDI soundfont, such as that of Debian's
package fluid-soundfont-gm (148 MB, MIT licence) or the small one of timgm6mb-soundfont (6 MB, GPL-2). It writes, each
only when complete:

- `DIR/audio/piece-SEED.flac`, 44.1 kHz stereo, and likewise stems (one instrument alone) and one-shots (one sound);
- `DIR/parts/piece-SEED/ROLE.flac`, with `--parts`: each part of a piece; their sum is the piece;
- `DIR/manifest.jsonl`, the format of `stable_longform.data.manifest`, rewritten after every few pieces.

Of 20 consecutive seeds, two are held out: one is "valid", one "test". Run the same command again after an
interruption, or with more pieces: existing files are kept. Exit status: 0; 2 if an argument is wrong or there is no
soundfont.
"""

import argparse
import json
import logging
import math
import multiprocessing
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from stable_longform.data.composition.compose import PIECE_DURATION_IN_S
from stable_longform.data.composition.corpus import compose, metadata_of
from stable_longform.data.composition.rendering import SAMPLING_RATE, find_soundfont, render, render_stems
from stable_longform.utils.audio import write_audio
from stable_longform.utils.files import write_text
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import ScriptParser
from stable_longform.utils.text_files import read_json_lines

logger = logging.getLogger("compose_music")

SAMPLE_FORMATS = {"flac": "pcm16", "ogg": "vorbis"}
PIECES_PER_WRITE = 10


@dataclass(frozen=True)
class Job:
    """One piece to make: its kind, its seed, and how it is written."""

    kind: str
    seed: int
    piece_duration_in_s: tuple[float, float]
    soundfont: Path
    output_dir: Path
    audio_format: str
    has_parts: bool

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.seed}"

    def write(self, name: str, waveform: torch.Tensor) -> str:
        """Writes a waveform; returns its path relative to the output folder."""
        path = self.output_dir / f"{name}.{self.audio_format}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_audio(path, waveform, SAMPLING_RATE, SAMPLE_FORMATS[self.audio_format])
        return path.relative_to(self.output_dir).as_posix()


def run_job(job: Job) -> dict:
    """Composes, renders and writes a piece; returns its row of the manifest."""
    piece, duration_in_s = compose(job.kind, job.seed, job.piece_duration_in_s)
    extra = {}
    if job.has_parts and job.kind == "piece":
        waveform, parts = render_stems(piece, job.soundfont, duration_in_s)
        extra = {"parts": {role: job.write(f"parts/{job.name}/{role}", part) for role, part in parts.items()}}
    else:
        waveform = render(piece, job.soundfont, duration_in_s)
    row = {"path": job.write(f"audio/{job.name}", waveform)} | metadata_of(piece, waveform.shape[1]) | extra
    return row | {"soundfont": job.soundfont.name}


def read_rows(manifest: Path) -> dict[str, dict]:
    """The existing rows of a manifest, by path; rows with missing files are left out."""
    if not manifest.is_file():
        return {}
    rows = (row for _, row in read_json_lines(manifest))
    return {row["path"]: row for row in rows if (manifest.parent / row["path"]).is_file()}


def write_rows(manifest: Path, rows: dict[str, dict]) -> None:
    """Writes the manifest atomically, kind by kind in the order of the seeds."""
    ordered = sorted(rows.values(), key=lambda row: (row["kind"], row["seed"]))
    write_text(manifest, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ordered))


def make_corpus(options: argparse.Namespace, soundfont: Path) -> dict[str, dict]:
    """Makes the missing pieces in several processes; returns all rows of the manifest."""
    manifest = options.output_dir / "manifest.jsonl"
    options.output_dir.mkdir(parents=True, exist_ok=True)
    rows = read_rows(manifest)
    durations = (options.min_duration_in_s, options.max_duration_in_s)
    counts = {"piece": options.num_pieces, "stem": options.num_stems, "one-shot": options.num_one_shots}
    jobs = [
        Job(kind, seed, durations, soundfont, options.output_dir, options.format, options.parts)
        for kind, count in counts.items()
        for seed in range(options.first_seed, options.first_seed + count)
    ]
    jobs = [job for job in jobs if f"audio/{job.name}.{job.audio_format}" not in rows]
    deadline = math.inf if options.max_minutes is None else time.monotonic() + 60 * options.max_minutes
    context = multiprocessing.get_context("spawn")
    with context.Pool(max(1, min(options.num_processes, len(jobs))), torch.set_num_threads, (1,)) as pool:
        for count, row in enumerate(pool.imap_unordered(run_job, jobs), 1):
            rows[row["path"]] = row
            if count % PIECES_PER_WRITE == 0 or count == len(jobs):
                write_rows(manifest, rows)
                logger.info("%d of %d", count, len(jobs))
            if time.monotonic() >= deadline and len(rows) >= options.min_recordings:
                write_rows(manifest, rows)
                break
    return rows


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the audio and the manifest")
    counts, lengths = Range(0, 10**7), Range(*PIECE_DURATION_IN_S)
    parser.add_number("--num_pieces", counts, default=400, help="number of whole pieces, one per seed")
    parser.add_number("--num_stems", counts, default=0, help="number of single instruments, 10 to 60 s")
    parser.add_number("--num_one_shots", counts, default=0, help="number of single sounds")
    parser.add_number("--first_seed", Range(0, 2**31 - 1), default=0, help="first seed")
    parser.add_number("--min_duration_in_s", lengths, kind=float, default=60.0, help="shortest piece in seconds")
    parser.add_number(
        "--max_duration_in_s", lengths, kind=float, default=lengths.high, help="longest piece in seconds"
    )
    parser.add_number("--max_minutes", Range(0, 1e6, above=True), kind=float, help="time limit in minutes")
    parser.add_number("--min_recordings", counts, default=0, help="recordings to make regardless of the time limit")
    parser.add_argument("--parts", action="store_true", help="also write each part of a piece")
    parser.add_argument("--format", choices=SAMPLE_FORMATS, default="flac", help="format of the audio files")
    parser.add_argument("--soundfont", type=Path, default=None, help="a General MIDI .sf2 file (default: Debian's)")
    parser.add_number(
        "--num_processes", Range(1, 1024), default=os.cpu_count(), help="pieces rendered at the same time"
    )
    options = parser.parse_args(arguments)
    if options.min_duration_in_s > options.max_duration_in_s:
        parser.error(
            "argument --min_duration_in_s: must be at most max_duration_in_s, "
            f"got {options.min_duration_in_s:g} and {options.max_duration_in_s:g}"
        )
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the script; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        options = parse_arguments(arguments)
        rows = make_corpus(options, find_soundfont(options.soundfont))
    except (ValueError, OSError) as error:
        print(f"compose_music.py: error: {error}", file=sys.stderr)
        return 2
    hours = sum(row["duration_in_s"] for row in rows.values()) / 3600
    print(f"{len(rows)} recordings, {hours:.2f} h: {options.output_dir / 'manifest.jsonl'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
