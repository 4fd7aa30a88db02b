"""Opens any source of music as tracks, by what its name is. The formats are described in `docs/data.md`.

| source | what it is |
|---|---|
| `music/` | a folder of audio files, with metadata beside each (`song.json`, `song.txt`) or in one `metadata.csv` |
| `music.csv` | one row for each file |
| `music.jsonl` | a manifest: `stable_longform.data.manifest` |
| `shards/{000..099}.tar` | WebDataset tars on this machine, read in place |
| `dataset/` | a folder that Hugging Face `datasets` saved, or of parquet files |
| `owner/name`, `owner/name:configuration` | a dataset of the Hub, downloaded |
| `https://.../{000..099}.tar`, `pipe:...` | WebDataset tars elsewhere, read from start to end |
| `stream:SOURCE` | the same for a dataset or tars that should not be downloaded or searched |

All but the last two become a list of `Track`s, whose crops can be read in any order. The others become a
`stable_longform.data.streams.TrackStream`.
"""

import glob
import logging
import os
import re
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from stable_longform.data.bad_tracks import MAX_BAD_FRACTION, BadTrackError, BadTracks
from stable_longform.data.manifest import SPLITS, Track, read_manifest
from stable_longform.data.records import (
    AUDIO_EXTENSIONS,
    Record,
    examine,
    folder_split,
    parse_sidecars,
    read_csv,
    read_sidecars,
    rename_fields,
    split_hash,
    to_split,
)
from stable_longform.data.storage import TableRow, TarMember
from stable_longform.data.streams import DatasetStream, TarStream, TrackStream, audio_column
from stable_longform.utils.optional import require

logger = logging.getLogger(__name__)

STREAM_PREFIX = "stream:"
CSV_NAME = "metadata.csv"
DATASET_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:[\w.-]+)?")
NUM_THREADS = 8  # that read headers


def open_tracks(
    source: str | os.PathLike, split: str | None = None, max_bad_fraction: float = MAX_BAD_FRACTION
) -> list[Track] | TrackStream:
    """Opens a source as tracks, those of one split or all.

    Recordings that cannot be used are left out, counted and named in the log. Of a manifest, and wherever the metadata
    says how long a recording is, no file is opened: there it shows when the file is read.

    Args:
        source: see the table above.
        split: "train", "valid", "test" or "extra"; None: all.
        max_bad_fraction: share of the recordings that may be unusable, in [0, 1].

    Raises:
        ValueError: there is no such source, it is damaged, it has no track in that split, or `split` is unknown.
        TooManyBadTracks: more recordings than `max_bad_fraction` cannot be used.
    """
    if split is not None and split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}.")
    source = os.fspath(source)
    if is_stream(source):
        return open_stream(source.removeprefix(STREAM_PREFIX), split)
    tracks, errors = find_tracks(source, max_bad_fraction)
    bad_tracks = BadTracks(len(tracks) + len(errors), max_bad_fraction)
    for error in errors:
        bad_tracks.note(error)
    if errors:
        logger.warning("%s: %d of %d tracks left out: %s", source, len(errors), bad_tracks.total,
                       bad_tracks.summary())  # fmt: skip
    tracks = [track for track in tracks if split in (None, track.split)]
    if not tracks:
        raise ValueError(f"{source} has no track" + (f" in split {split!r}." if split else "."))
    return tracks


def is_stream(source: str) -> bool:
    """Whether a source is read from start to end instead of being listed."""
    is_remote = source.startswith("pipe:") or "://" in source
    return source.startswith(STREAM_PREFIX) or (is_remote and _is_tars(source))


def find_tracks(source: str, max_bad_fraction: float) -> tuple[list[Track], list[BadTrackError]]:
    """The tracks of a source that is no stream, of all splits, and what cannot be used.

    Raises:
        ValueError: there is no such source, or it is damaged.
        TooManyBadTracks: of tars, more than `max_bad_fraction` are missing or damaged.
    """
    path = Path(source)
    if path.suffix == ".jsonl" and path.is_file():
        return read_manifest(path), []
    if path.suffix == ".csv" and path.is_file():
        records = list(read_csv(path))
    elif _is_tars(source):
        records = _index_tars(expand_tars(source), max_bad_fraction)
    elif path.is_dir() and not _is_dataset_folder(path):
        table = path / CSV_NAME
        records = list(read_csv(table) if table.is_file() else _search_folder(path))
    elif path.is_dir() or (not path.exists() and DATASET_ID.fullmatch(source)):
        datasets = load_datasets(source, is_streaming=False)
        is_divided = set(datasets) != {"train"}
        records = [
            record
            for name, dataset in datasets.items()
            for record in _list_dataset(source, name, dataset, {"split": name} if is_divided else {})
        ]
    else:
        raise ValueError(f"{source} is not a source of music: no folder, .jsonl, .csv, .tar or dataset of that name.")
    if not records:
        raise ValueError(f"{source} holds no audio.")
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        examined = list(pool.map(examine, records))
    errors = [result for result in examined if isinstance(result, BadTrackError)]
    return _with_valid_split([result for result in examined if not isinstance(result, BadTrackError)]), errors


def open_stream(source: str, split: str | None) -> TrackStream:
    """Opens tars or a dataset to be read from start to end.

    Raises:
        ValueError: there is no such source, or it has no such split.
    """
    if _is_tars(source):
        return TarStream(tuple(expand_tars(source)), split)
    datasets = load_datasets(source, is_streaming=True)
    if split is None or set(datasets) == {"train"}:
        return DatasetStream(source, tuple(datasets.items()), split)
    if split not in datasets:
        raise ValueError(f"{source} has no split {split!r}, only {', '.join(datasets)}.")
    return DatasetStream(source, ((split, datasets[split]),), split)


def expand_tars(pattern: str) -> list[str]:
    """The tars of a pattern with braces (`{000..099}`) and, for local files, `*` and `?`, in order.

    Raises:
        ValueError: no local file matches.
    """
    tars = []
    for name in require("braceexpand", "train").braceexpand(pattern):
        is_remote = name.startswith("pipe:") or "://" in name
        tars += sorted(glob.glob(name)) if not is_remote and glob.has_magic(name) else [name]
    if not any("://" in tar or tar.startswith("pipe:") or Path(tar).is_file() for tar in tars):
        raise ValueError(f"There is no file {pattern}.")
    return tars


def load_datasets(source: str, is_streaming: bool) -> dict:
    """The splits of a Hugging Face dataset by our names: of a folder, or of the Hub.

    Raises:
        ValueError: it cannot be loaded, or a split has a name that is not known.
    """
    datasets = require("datasets", "train")
    path, (name, _, configuration) = Path(source), source.partition(":")
    try:
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(source)
            loaded = loaded if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}
            if is_streaming:
                loaded = {key: dataset.to_iterable_dataset(num_shards=1) for key, dataset in loaded.items()}
        elif path.is_dir():
            loaded = datasets.load_dataset(source, streaming=is_streaming)
        else:
            loaded = datasets.load_dataset(name, configuration or None, streaming=is_streaming)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"{source} cannot be opened as a dataset: {' '.join(str(error).split())}") from error
    loaded = {to_split(key): dataset for key, dataset in loaded.items()}
    if len(loaded) == 1 and not set(loaded) & set(SPLITS):
        return {"train": next(iter(loaded.values()))}
    unknown = sorted(set(loaded) - set(SPLITS))
    if unknown:
        raise ValueError(f"{source} has a split {unknown[0]!r}; known: {', '.join(SPLITS)}, validation, val, dev.")
    return loaded


def _is_tars(source: str) -> bool:
    """Whether a name is that of tars."""
    return source.startswith("pipe:") or re.search(r"\.tar(\.\w+)?(\?.*)?$", source) is not None


def _is_dataset_folder(folder: Path) -> bool:
    """Whether a folder is a Hugging Face dataset: saved by `save_to_disk`, or parquet files."""
    names = ("state.json", "dataset_dict.json", "*.parquet", "*/*.parquet")
    return any(next(folder.glob(name), None) is not None for name in names)


def _search_folder(folder: Path) -> Iterator[Record]:
    """The audio files below a folder, in the order of their names."""
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_EXTENSIONS):
        split = folder_split(PurePosixPath(path.relative_to(folder).as_posix()))
        if path.is_file() and not path.name.startswith("."):
            yield Record(path, lambda path=path, split=split: split | rename_fields(read_sidecars(path)))


def _index_tars(tars: list[str], max_bad_fraction: float) -> list[Record]:
    """The recordings inside tars; a tar that is missing or damaged is counted.

    Raises:
        TooManyBadTracks: more tars than `max_bad_fraction` are.
    """
    records, bad_tars = [], BadTracks(len(tars), max_bad_fraction, "tars")
    for tar in map(Path, tars):
        try:
            records += _index_tar(tar)
        except (tarfile.TarError, OSError) as error:
            hint = f"; a compressed tar can be read as {STREAM_PREFIX}{tar}" if tar.suffix != ".tar" else ""
            bad_tars.note(BadTrackError(tar, "broken", f"{error}{hint}"))
    return records


def _index_tar(tar: Path) -> Iterator[Record]:
    """The audio files inside a tar with what shares their name up to the first dot; only headers are read."""
    groups: dict[str, dict[str, tarfile.TarInfo]] = {}
    with tarfile.open(tar, "r:") as archive:
        for member in archive:
            if member.isfile():
                folder, _, name = member.name.rpartition("/")
                key = f"{folder}/{name.partition('.')[0]}"
                groups.setdefault(key, {})[PurePosixPath(name).suffix.lower()] = member
        for group in groups.values():
            texts = {suffix: member for suffix, member in group.items() if suffix in (".json", ".txt")}
            sidecars = {suffix: archive.extractfile(member).read() for suffix, member in texts.items()}
            for suffix, member in group.items():
                if suffix in AUDIO_EXTENSIONS:
                    storage = TarMember(tar, member.offset_data, member.size)
                    yield Record(tar / member.name, partial(parse_sidecars, sidecars), storage)


def _list_dataset(source: str, split: str, dataset, given: dict) -> Iterator[Record]:
    """The rows of one split of a local dataset, with metadata that holds for all of them; audio is not read."""
    column = audio_column(dataset, source)
    others = [name for name in dataset.column_names if name != column]
    rows = dataset.select_columns(others) if others else [{}] * len(dataset)
    for row in range(len(dataset)):
        name = Path(source, split, str(row))
        yield Record(name, lambda row=row: given | rows[row], TableRow(dataset, column, row))


def _with_valid_split(examined: list[tuple[Track, bool]]) -> list[Track]:
    """The tracks; if no split was given at all and chance made none "valid", one of them is."""
    tracks = [track for track, _ in examined]
    is_drawn = len(tracks) > 1 and not any(is_given for _, is_given in examined)
    if is_drawn and all(track.split == "train" for track in tracks):
        lowest = min(range(len(tracks)), key=lambda number: split_hash(tracks[number].path.name))
        tracks[lowest] = replace(tracks[lowest], split="valid")
    return tracks
