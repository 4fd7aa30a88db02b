"""Composes music by rule, renders it and writes the manifest that the trainers read.

Usage: `python training/compose_music.py --output_dir DIR [--num_pieces 400] [--first_seed 0]`

Genre, instruments, moods, tempo, key and sections of every piece are known exactly, because the pieces were made from
them; the same seed gives the same piece. Needs a General MIDI soundfont, such as that of Debian's package
fluid-soundfont-gm (MIT licence) or the small one of timgm6mb-soundfont (GPL-2). Writes, each only when complete:

- `DIR/audio/SEED.flac`, 44.1 kHz stereo;
- `DIR/manifest.jsonl`, the format of `stable_longform.data.manifest`, anew after every few pieces.

Run the same command again after an interruption, or with more pieces: what is there is kept. Exit status: 0; 2 when an
argument is wrong or there is no soundfont.
"""

import argparse
import json
import logging
import multiprocessing
import os
import sys
from pathlib import Path

import torch

from stable_longform.data.composition.compose import MAX_DURATION_IN_S, MIN_DURATION_IN_S
from stable_longform.data.composition.corpus import draw_duration, render_piece
from stable_longform.data.composition.rendering import SAMPLING_RATE, find_soundfont
from stable_longform.utils.audio import atomic_path, write_audio

logger = logging.getLogger("compose_music")

AUDIO_FORMATS = {"flac": "pcm16", "ogg": "vorbis"}
PIECES_PER_WRITE = 10


def write_piece(task: tuple[int, float, Path, Path, str]) -> dict:
    """Composes, renders and writes the piece of a seed; gives its row of the manifest."""
    seed, duration_in_s, soundfont, output_dir, audio_format = task
    waveform, metadata = render_piece(seed, duration_in_s, soundfont)
    path = output_dir / "audio" / f"{seed}.{audio_format}"
    write_audio(path, waveform, SAMPLING_RATE, AUDIO_FORMATS[audio_format])
    return {"path": path.relative_to(output_dir).as_posix()} | metadata


def read_rows(manifest: Path) -> dict[int, dict]:
    """The rows that a manifest has already, by seed; those whose file is gone are left out."""
    if not manifest.is_file():
        return {}
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    return {row["seed"]: row for row in rows if (manifest.parent / row["path"]).is_file()}


def write_rows(manifest: Path, rows: dict[int, dict]) -> None:
    """Writes the manifest in one step, in the order of the seeds."""
    with atomic_path(manifest) as temporary:
        lines = [json.dumps(rows[seed], ensure_ascii=False) + "\n" for seed in sorted(rows)]
        temporary.write_text("".join(lines), encoding="utf-8")


def compose(options: argparse.Namespace, soundfont: Path) -> dict[int, dict]:
    """Makes the pieces that are missing, in several processes; gives all rows of the manifest."""
    manifest = options.output_dir / "manifest.jsonl"
    (options.output_dir / "audio").mkdir(parents=True, exist_ok=True)
    rows = read_rows(manifest)
    tasks = [
        (
            seed,
            draw_duration(seed, options.min_duration_in_s, options.max_duration_in_s),
            soundfont,
            options.output_dir,
            options.format,
        )
        for seed in range(options.first_seed, options.first_seed + options.num_pieces)
        if seed not in rows
    ]
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(options.num_processes, max(len(tasks), 1)), torch.set_num_threads, (1,)) as pool:
        for count, row in enumerate(pool.imap_unordered(write_piece, tasks), 1):
            rows[row["seed"]] = row
            if count % PIECES_PER_WRITE == 0 or count == len(tasks):
                write_rows(manifest, rows)
                logger.info("%d of %d pieces", count, len(tasks))
    return rows


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the audio and the manifest")
    parser.add_argument("--num_pieces", type=int, default=400, help="pieces, one for each seed (default: 400)")
    parser.add_argument("--first_seed", type=int, default=0, help="seed of the first piece (default: 0)")
    parser.add_argument("--min_duration_in_s", type=float, default=60.0, help="shortest piece (default: 60)")
    parser.add_argument("--max_duration_in_s", type=float, default=MAX_DURATION_IN_S, help="longest (default: 285)")
    parser.add_argument("--format", choices=AUDIO_FORMATS, default="flac", help="of the audio files (default: flac)")
    parser.add_argument("--soundfont", type=Path, default=None, help="a General MIDI .sf2 file (default: Debian's)")
    parser.add_argument("--num_processes", type=int, default=os.cpu_count(), help="default: one for each core")
    return parser.parse_args(arguments)


def check_options(options: argparse.Namespace) -> None:
    """Checks the values of the command line.

    Raises:
        ValueError: one is out of range.
    """
    if options.num_pieces < 1 or options.num_processes < 1 or options.first_seed < 0:
        raise ValueError("num_pieces and num_processes must be at least 1, first_seed at least 0.")
    if not MIN_DURATION_IN_S <= options.min_duration_in_s <= options.max_duration_in_s <= MAX_DURATION_IN_S:
        raise ValueError(
            f"Durations must be in [{MIN_DURATION_IN_S:g}, {MAX_DURATION_IN_S:g}] s, the shortest first, "
            f"got {options.min_duration_in_s:g} and {options.max_duration_in_s:g}."
        )


def main(arguments: list[str] | None = None) -> int:
    """Runs the script; gives the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    options = parse_arguments(arguments)
    try:
        check_options(options)
        rows = compose(options, find_soundfont(options.soundfont))
    except (ValueError, OSError) as error:
        print(f"compose_music.py: error: {error}", file=sys.stderr)
        return 2
    hours = sum(row["duration_in_s"] for row in rows.values()) / 3600
    print(f"{len(rows)} pieces, {hours:.2f} h: {options.output_dir / 'manifest.jsonl'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
