"""Hugging Face datasets from a folder or the Hub, listed or read from start to end."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from stable_longform.data.bad_tracks import BadTrackError, one_line
from stable_longform.data.recordings import Recording
from stable_longform.data.splits import to_split
from stable_longform.data.storage import NO_AUDIO, InMemory, TableRow
from stable_longform.data.tracks import SPLITS
from stable_longform.utils.optional import require
from stable_longform.utils.ranges import shown

SAVED_FILES = ("state.json", "dataset_dict.json")
ROWS_AT_A_TIME = 100
NO_ROWS = "it has no rows"
MAX_REASON = 300  # characters
ENCODED = ("binary", "large_binary", "string", "large_string")  # types of columns of files and of their names
DATASET_ID = r"[\w-][\w.-]*/[\w-][\w.-]*(:[\w.-]+)?"


def load_datasets(source: str, is_streaming: bool) -> dict:
    """The splits of a Hugging Face dataset, from a folder or the Hub, under our names.

    Raises:
        ValueError: it cannot be loaded, or the name of a split is unknown.
    """
    datasets = require("datasets", "train")
    path, (name, _, configuration) = Path(source), source.partition(":")
    try:
        if _is_saved(path):
            loaded = datasets.load_from_disk(source)
            loaded = loaded if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}
            if is_streaming:
                loaded = {key: dataset.to_iterable_dataset(num_shards=1) for key, dataset in loaded.items()}
        elif path.is_dir():
            # Otherwise `datasets` reads as many rows at a time as a file's first group has, and fails if it has none.
            options = {"batch_size": ROWS_AT_A_TIME} if parquet_files(path) else {}
            loaded = datasets.load_dataset(source, streaming=is_streaming, **options)
        else:
            loaded = datasets.load_dataset(name, configuration or None, streaming=is_streaming)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = error.__cause__ or error  # that of a DatasetGenerationError says what is wrong
        raise ValueError(f"{source} cannot be opened as a dataset: {one_line(reason)[:MAX_REASON]}") from error
    loaded = {to_split(key): dataset for key, dataset in loaded.items()}
    if len(loaded) == 1 and not set(loaded) & set(SPLITS):
        return {"train": next(iter(loaded.values()))}
    unknown = sorted(set(loaded) - set(SPLITS))
    if unknown:
        raise ValueError(f"{source} has a split {unknown[0]!r}; known: {', '.join(SPLITS)}, validation, val, dev.")
    return loaded


def is_dataset_folder(folder: Path) -> bool:
    """Whether a folder is a Hugging Face dataset: saved by `save_to_disk`, or parquet files."""
    return _is_saved(folder) or bool(parquet_files(folder))


def _is_saved(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return any((folder / name).is_file() for name in SAVED_FILES)


def parquet_files(folder: Path) -> list[Path]:
    """The parquet files of a folder and of the folders in it."""
    return sorted([*folder.glob("*.parquet"), *folder.glob("*/*.parquet")])


def empty_files(folder: Path) -> Iterator[BadTrackError]:
    """Errors for the parquet files of a folder that have no rows; damaged ones are left to the reader."""
    for file in parquet_files(folder):
        with contextlib.suppress(OSError, ValueError):
            if require("pyarrow.parquet", "train").read_metadata(file).num_rows == 0:
                yield BadTrackError(file, "empty", NO_ROWS)


def list_dataset(source: str, split: str, dataset, given: dict) -> Iterator[Recording]:
    """The rows of one split of a local dataset, with metadata that applies to all; the audio is not read.

    Raises:
        ValueError: it has no column of encoded audio, or more than one.
    """
    column = audio_column(dataset, source)
    dataset = dataset.cast_column(column, require("datasets", "train").Audio(decode=False))
    others = [name for name in dataset.column_names if name != column]
    rows = dataset.select_columns(others) if others else [{}] * len(dataset)
    for row in range(len(dataset)):
        path = Path(source, split, str(row))
        yield Recording(path, f"{split}/{row}", partial(_read_row, rows, row, given), TableRow(dataset, column, row))


@dataclass(frozen=True)
class DatasetShards:
    """The splits of a Hugging Face `IterableDataset`, with their shards.

    `datasets` are pairs of a split's name and its dataset. Unless the source defines the splits (`split_by_source`),
    the split of a track is drawn from its name.
    """

    source: str
    datasets: tuple
    split_by_source: bool

    @property
    def num_shards(self) -> int:
        """Number of files, over all splits."""
        return sum(dataset.num_shards for _, dataset in self.datasets)

    def of_split(self, split: str) -> "DatasetShards":
        """The shards that may hold tracks of a split.

        Raises:
            ValueError: the dataset has other splits.
        """
        if not self.split_by_source:
            return self
        names = [name for name, _ in self.datasets]
        if split not in names:
            raise ValueError(f"{self.source} has no split {split!r}, only {', '.join(names)}.")
        return replace(self, datasets=((split, self.datasets[names.index(split)][1]),))

    def read_shard(self, number: int) -> Iterator[Recording | BadTrackError]:
        """The recordings in a shard, and errors for rows without one and for a shard without rows.

        Raises:
            BadTrackError: the shard cannot be read, or not to its end.
        """
        datasets = require("datasets", "train")
        shards = [(name, dataset, i) for name, dataset in self.datasets for i in range(dataset.num_shards)]
        name, dataset, index = shards[number]
        column = audio_column(dataset, self.source)
        if dataset.features is not None:
            dataset = dataset.cast_column(column, datasets.Audio(decode=False))
        given = {"split": name} if self.split_by_source else {}
        place = Path(self.source, name, f"shard {index}")
        is_empty = True
        try:
            for row, values in enumerate(dataset.shard(dataset.num_shards, index)):
                is_empty = False
                audio = _audio_bytes(values.pop(column), place / str(row))
                if isinstance(audio, BadTrackError):
                    yield audio
                    continue
                # The first shard's rows have the same numbers as when the dataset is listed.
                split_place = f"{name}/{row}" if index == 0 else f"{name}/shard {index}/{row}"
                values = given | _label_names(dataset.features, values)
                yield Recording(place / str(row), split_place, partial(dict, values), InMemory(audio))
        except (OSError, ValueError) as error:
            raise BadTrackError(place, "broken", one_line(error)) from error
        if is_empty:
            yield BadTrackError(place, "empty", NO_ROWS)


def audio_column(dataset, source: str) -> str:
    """The column of a Hugging Face dataset that holds the audio: its type is `Audio`, or its name "audio".

    In the second case, it holds encoded audio, names of files, or both as `{"bytes", "path"}`.

    Raises:
        ValueError: there is no such column, or more than one, or it is of another type.
    """
    datasets = require("datasets", "train")
    features = dataset.features or {"audio": None}
    columns = [name for name, feature in features.items() if isinstance(feature, datasets.Audio)]
    columns = columns or [name for name in features if name == "audio"]
    if len(columns) != 1:
        raise ValueError(f"{source} must have one column of audio, got {columns or list(features)}.")
    feature = features[columns[0]]
    fields = set(feature) if isinstance(feature, dict) else None
    if not (
        feature is None
        or isinstance(feature, datasets.Audio)
        or fields == {"bytes", "path"}
        or getattr(feature, "dtype", None) in ENCODED
    ):
        raise ValueError(
            f"{source}: the column {columns[0]} must hold encoded audio or the names of files, got {shown(feature)}."
        )
    return columns[0]


def _audio_bytes(audio: dict | None, path: Path) -> bytes | BadTrackError:
    """The encoded audio of a row, downloaded if the row holds only its address; or the error if there is none."""
    if audio is None or (audio["bytes"] is None and audio["path"] is None):
        return BadTrackError(path, "broken", NO_AUDIO)
    if audio["bytes"] is not None:
        return audio["bytes"]
    try:
        with require("fsspec", "train").open(audio["path"], "rb") as file:
            return file.read()
    except OSError as error:
        return BadTrackError(path, "broken", f"{audio['path']} cannot be read: {one_line(error)}")


def _read_row(rows, row: int, given: Mapping) -> dict:
    """Metadata of a row of a local dataset."""
    return dict(given) | _label_names(getattr(rows, "features", None), rows[row])


def _label_names(features, values: Mapping) -> dict:
    """Replaces the numbers of class labels in a row by their names."""
    labels = {name: feature for name, feature in (features or {}).items() if hasattr(feature, "int2str")}
    return {
        name: labels[name].int2str(value) if name in labels and value is not None and value >= 0 else value
        for name, value in values.items()
        if not (name in labels and value is not None and value < 0)
    }
