"""The commands `stable-longform data ...`: statistics of a source, its prompts, and mixtures of manifests."""

import contextlib
import itertools
import json
import logging
import random
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from stable_longform.cli.options import MAX_COUNT
from stable_longform.data.bad_tracks import BadTrackError
from stable_longform.data.manifest import mix_manifests, write_manifest
from stable_longform.data.prompts import preview as preview_prompts
from stable_longform.data.sources import open_source
from stable_longform.data.statistics import Examined, draw_durations, examine_track, format_summary, summarize
from stable_longform.data.tracks import SPLITS, Track
from stable_longform.utils.accepted_values import MAX_SEED
from stable_longform.utils.files import check_output_file
from stable_longform.utils.text_files import printable

NUM_THREADS = 4
PICTURES = (".png", ".svg", ".pdf")

app = typer.Typer(help="Sources of music.", no_args_is_help=True, rich_markup_mode=None, add_completion=False)

Source = Annotated[
    str,
    typer.Argument(
        help="Folder, .csv, .jsonl manifest, .tar pattern, folder or Hub id of a Hugging Face dataset; 'stream:...' "
        "reads a dataset or tars from start to end.",
        show_default=False,
    ),
]
Split = Annotated[str | None, typer.Option(help=f"One of {', '.join(SPLITS)}. [default: all]", show_default=False)]
Limit = Annotated[
    int | None, typer.Option(min=1, max=MAX_COUNT, help="For streams: only the first tracks.", show_default=False)
]


@app.command()
def inspect(
    source: Source,
    split: Split = None,
    limit: Limit = None,
    measure: Annotated[
        int,
        typer.Option(
            min=0, max=MAX_COUNT, help="Number of random tracks for measuring loudness and silence, 30 s each."
        ),
    ] = 100,
    figure: Annotated[
        Path | None, typer.Option(help="Picture of the lengths as in the paper's Figure 1: .png, .svg or .pdf.")
    ] = None,
    manifest: Annotated[Path | None, typer.Option(help="Manifest to write, .jsonl, of the usable tracks.")] = None,
    is_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Shows counts, hours, lengths, rates, loudness, tags and unusable files of a source."""
    _check_output(figure, PICTURES)
    _check_output(manifest, (".jsonl",))
    with _silent_log():  # the report lists the unusable files
        examined, errors = _examine(source, split, limit, measure)
    if not examined and (not errors or split is not None):
        raise ValueError(f"{source} has no track" + (f" in split {split!r}." if split else "."))
    tracks = [item.track for item in examined]
    if manifest is not None:
        write_manifest(manifest, tracks)
    if figure is not None:
        draw_durations(
            figure, [track.duration_in_s for track in tracks], f"{len(tracks)} tracks of {Path(source).name}"
        )
    summary = summarize(examined, errors)
    typer.echo(json.dumps(summary, ensure_ascii=False, indent=2) if is_json else format_summary(summary))


@app.command()
def prompts(
    source: Source,
    preview: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="Prompts to draw for each track.")] = 5,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Random seed.")] = 0,
    split: Split = None,
    limit: Limit = None,
) -> None:
    """Prints random prompts for each track, made from its metadata as in training (Paper: §3.1)."""
    found = open_source(source, split, max_bad_fraction=1.0).found()
    tracks = (track for track in found if isinstance(track, Track))
    for track, texts in preview_prompts(itertools.islice(tracks, limit), preview, seed):
        typer.echo(printable(track.path.name))
        for text in texts or ["(no metadata: no prompt)"]:
            typer.echo(f"    {text}")


@app.command()
def mix(
    output: Annotated[Path, typer.Argument(help="Manifest to write, .jsonl.", show_default=False)],
    manifests: Annotated[
        list[str],
        typer.Argument(help="Manifests and their shares of the training, as MANIFEST=SHARE.", show_default=False),
    ],
) -> None:
    """Combines manifests into one, in which each has its share of the training time."""
    _check_output(output, (".jsonl",))
    shares = {}
    for argument in manifests:
        name, _, share = argument.rpartition("=")
        if Path(name) in shares:
            raise ValueError(f"{name} is given twice.")
        try:
            shares[Path(name)] = float(share)
        except ValueError:
            raise ValueError(f"Manifests are given as MANIFEST=SHARE, got {argument!r}.") from None
    tracks = mix_manifests(shares)
    write_manifest(output, tracks)
    typer.echo(f"{len(tracks)} tracks: {output}")


def _examine(
    source: str, split: str | None, limit: int | None, num_measured: int
) -> tuple[list[Examined], list[BadTrackError]]:
    """The usable tracks of a source, and the unusable ones."""
    opened = open_source(source, split, max_bad_fraction=1.0)
    if opened.tracks:
        tracks = opened.tracks[:limit]
        measured = set(random.Random(0).sample(range(len(tracks)), min(num_measured, len(tracks))))
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            examined = pool.map(lambda number: examine_track(tracks[number], number in measured), range(len(tracks)))
            results = [*opened.left_out, *_show_progress(examined, len(tracks))]
    else:
        results = [
            result if isinstance(result, BadTrackError) else examine_track(result, number < num_measured)
            for number, result in enumerate(_show_progress(itertools.islice(opened.found(), limit)))
        ]
    errors = [result for result in results if isinstance(result, BadTrackError)]
    return [result for result in results if isinstance(result, Examined)], errors


@contextlib.contextmanager
def _silent_log() -> Iterator[None]:
    """A context in which the readers of data log only errors."""
    logger = logging.getLogger("stable_longform.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _show_progress(results: Iterable, total: int | None = None) -> Iterable:
    """Passes results on, with a bar on stderr."""
    return tqdm(results, total=total, unit="track", leave=False)


def _check_output(path: Path | None, extensions: tuple[str, ...]) -> None:
    """Raises a ValueError before any work is done unless a file with this name can be written."""
    if path is None:
        return
    if path.suffix not in extensions:
        raise ValueError(f"{path}: the extension must be one of {', '.join(extensions)}, got {path.suffix!r}.")
    check_output_file(path)
